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
    for line in [*told(found.metrics(), table), *found.unreadable]:
        typer.echo(f"  {line}")


@app.command()
def trace(message_id: str, home: Home = DEFAULT_HOME) -> None:
    """Tell which step of the way to the signal set a message reached, and why it stopped there."""
    from rluf_assets.feedback.trace import trace as steps_of

    for step in steps_of(_lake(home), message_id):
        typer.echo(f"{step.name:13} {step.outcome}" + (f" ({step.why})" if step.why else ""))


@app.command()
def forget(
    user_ids: Annotated[list[str] | None, typer.Argument(help="Ids as logged or as stored.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="More ids, one a line.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Remove users from every stored table, raw included, and all pages and logs made from their rows.

    An id as logged is hashed here with RLUF_USER_SALT, where that is set. Later ingests leave these users out. Killed, the
    same command completes what it began.
    """
    from rluf_assets.feedback.forgetting import forget as forget_users
    from rluf_assets.feedback.ingest import stored_ids

    given = [*(user_ids or []), *(_ids(file) if file else [])]
    found = forget_users(_lake(home), {one for user in given for one in stored_ids(user)}, home=home, dry_run=dry_run)
    for name, rows in found.rows.items():
        typer.echo(f"{rows:8} rows removed  {name}")
    for name in found.removed:
        typer.echo(f"removed  {name}")
    for name in found.trained:
        typer.echo(f"trained on those rows, materialise it again:  {name}")
    for name in found.stale:
        typer.echo(f"made from those rows, materialise it again:  {name}")
    if found.rows:
        typer.echo(
            f"Now: rluf run --home {home}. It makes again what lost rows or was made from them, the fixed assets too."
        )
    typer.echo(
        f"{'Would be: ' if dry_run else ''}{sum(found.rows.values())} rows removed, examples of {found.events} events in "
        f"Dagster's database blanked; tombstones keep later ingests from bringing {len(given)} users back. "
        "Your sources are yours to change."
    )


def _ids(file: Path) -> list[str]:
    from rluf_assets.errors import ConfigError

    try:
        return [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected a text file of user ids, one a line, found: {error}.") from error


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
