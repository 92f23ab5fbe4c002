"""`rluf ingest`, `rluf trace`, `rluf forget`, `rluf data-docs`: the feedback plane from a terminal."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()

Home = Annotated[Path, typer.Option("--home", help="Folder of the lake, the settings and the reports.")]
DEFAULT_HOME = Path("rluf-demo")


@app.command()
def ingest(
    source: Annotated[str, typer.Option(help="Path, glob or URL; {day} stands for the date.")],
    log_format: Annotated[str, typer.Option("--format", help="canonical, messages, sharegpt, langfuse, ...")],
    table: Annotated[str, typer.Option(help="messages or reactions.")] = "messages",
    day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only this day; else every one.")] = None,
    layout: Annotated[Path | None, typer.Option(help="YAML: where fields are, what scores mean.")] = None,
    raw_user_ids: Annotated[bool, typer.Option(help="Hash user ids with the salt in RLUF_USER_SALT.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Bring reaction logs of any known format into the lake's raw tables, one partition per day."""
    from rluf_assets.feedback.config import IngestConfig
    from rluf_assets.feedback.reading import told
    from rluf_assets.ingesting import ingest as bring_in

    config = _validated(
        IngestConfig,
        {"source": source, "format": log_format, "table": table, "day": day.date() if day else None,
         "layout": _yaml(layout) if layout else {}, "user_ids": "raw" if raw_user_ids else "hashed"},
    )  # fmt: skip
    found, days = bring_in(home / "lake", config)
    for one in days:
        typer.echo(f"{one.day}  {one.rows} {table}{'  (was there)' if one.reused else ''}")
    typer.echo(f"{found.records} records read: {found.rows} {table}, {found.users} users")
    for line in told(found.metrics(), table):
        typer.echo(f"  {line}")


@app.command()
def trace(message_id: str, home: Home = DEFAULT_HOME) -> None:
    """Tell which step of the way to the signal set a message reached, and why it stopped there."""
    from rluf_assets.feedback.trace import trace as steps_of

    for step in steps_of(_lake(home), message_id):
        typer.echo(f"{step.name:13} {step.outcome}" + (f" ({step.why})" if step.why else ""))


@app.command()
def forget(user_id: str, home: Home = DEFAULT_HOME) -> None:
    """Remove a user from every stored table, raw included; later ingests leave them out.

    USER_ID is the id as logged (hashed here with RLUF_USER_SALT, where that is set) or as stored.
    """
    from rluf_assets.feedback.forgetting import forget as forget_user
    from rluf_assets.feedback.ingest import stored_ids

    for stored in stored_ids(user_id):
        found = forget_user(_lake(home), stored)
        for name, rows in found.rows.items():
            typer.echo(f"{rows:8} rows removed  {name}")
        for name in found.trained:
            typer.echo(f"trained on those rows, materialise it again:  {name}")
        for name in found.stale:
            typer.echo(f"made from those rows, materialise it again:  {name}")
        typer.echo(
            f"{sum(found.rows.values())} rows removed; a tombstone keeps later ingests from bringing {stored} back."
        )


@app.command("data-docs")
def data_docs(
    home: Home = DEFAULT_HOME,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the pages in a browser.")] = True,
) -> None:
    """Build Great Expectations' pages over the lake's metrics and a sample of rows, and open them."""
    from data_checks.docs import build_data_docs
    from resources.profiles import load_profile

    index = build_data_docs(_lake(home), home, signal=load_profile(home).signal_set.signal)
    typer.echo(f"Data Docs: {index}")
    if show:
        typer.launch(index.resolve().as_uri())


def _lake(home: Path) -> Any:
    from rluf_assets.errors import ArtifactMissing
    from rluf_assets.lake import Lake

    if not (home / "lake").is_dir():
        raise ArtifactMissing(f"{home}: no lake there. Name the home folder with --home.")
    return Lake(str(home / "lake"))


def _yaml(path: Path) -> Any:
    import yaml

    from rluf_assets.errors import ConfigError

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}). Mend the file.") from error


def _validated(model: Any, values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from rluf_assets.errors import ConfigError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']} (found {one['input']!r})" for one in error.errors()
        )
        raise ConfigError(f"{said}. See `rluf ingest --help`.") from error
