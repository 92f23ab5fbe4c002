"""`rluf`: the toolkit from a terminal. Every command is a thin wrapper over the same functions notebooks call."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rluf_assets.commands import cluster, evaluation, feedback, project, rewards
from rluf_assets.errors import RlufError, missing_extra
from rluf_assets.runs.ending import Interrupted, end_command, listen
from rluf_assets.storage import REMEDIES, storage_errno

app = typer.Typer(help="Reinforcement Learning from User Feedback.", no_args_is_help=True, add_completion=False)

Home = Annotated[Path, typer.Option("--home", help="Folder of the lake, the Dagster instance and the reports.")]
DEFAULT_HOME = Path("rluf-demo")


@app.callback()
def _root() -> None:
    """Reinforcement Learning from User Feedback."""


@app.command("demo")
def demo_command(
    home: Home = DEFAULT_HOME,
    seed: Annotated[int, typer.Option(help="Seed of the simulated production and of all training.")] = 0,
    profile: Annotated[str, typer.Option(help="tiny (two minutes, for tests) or laptop.")] = "laptop",
    days: Annotated[int | None, typer.Option(min=3, help="Only the first days of the logs.")] = None,
    then_day: Annotated[bool, typer.Option("--then-day", help="Then one more day arrives: see what follows.")] = False,
) -> None:
    """Simulate a production and run the whole graph: reaction logs -> release decision."""
    from rluf_assets.demo import demo

    demo(home, seed=seed, profile=profile, days=days, then_day=then_day)


@app.command("run")
def run_command(
    home: Home = DEFAULT_HOME,
    until: Annotated[str | None, typer.Option(help="One asset with all that it is made from, as signal_set.")] = None,
    select: Annotated[
        str | None, typer.Option(help="Assets by name, or in Dagster's selection syntax: 'p_love+', 'group:signals'.")
    ] = None,
) -> None:
    """Run the graph of a home folder (`rluf init` makes one for your own logs); what is up to date is not run again."""
    from rluf_assets.demo import run, run_part

    if until is None and select is None:
        run(home)
    else:
        run_part(home, until=until, select=select)


@app.command("status")
def status_command(home: Home = DEFAULT_HOME) -> None:
    """Show what a home folder holds, what is stale and why, and what runs now."""
    from rich.console import Console

    from rluf_assets.runs.status import print_status

    print_status(home, Console(width=None if sys.stdout.isatty() else 160))


@app.command("update")
def update_command(
    home: Home = DEFAULT_HOME,
    day: Annotated[
        str | None, typer.Option(help="One day, as 2026-01-31; else all that is missing, and the last three.")
    ] = None,
) -> None:
    """Bring in new days and make again only what their content changes; tells what ran, what did not, and why."""
    from rluf_assets.update import update

    update(home, day=day)


@app.command()
def ui(
    home: Home = DEFAULT_HOME,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """Open the Dagster UI on a home folder's lake (its runs, assets and reports)."""
    from rluf_assets.demo import open_ui

    open_ui(home, host, port)


@app.command()
def results(
    home: Home = Path("rluf-results"),
    seeds: Annotated[str, typer.Option(help="Seeds, separated by spaces.")] = "0 1 2",
    profile: Annotated[str, typer.Option()] = "laptop",
    output: Annotated[Path, typer.Option(help="Markdown file to write the table to.")] = Path("docs/results.md"),
) -> None:
    """Run the demo for several seeds and write the table of results."""
    from rluf_assets.results import write_results

    write_results(home, [int(seed) for seed in seeds.split()], profile, output)


app.add_typer(feedback.app)
app.add_typer(evaluation.app)
app.add_typer(project.app)
app.add_typer(rewards.app)
app.add_typer(cluster.app)


def main() -> None:
    """Entry point: the toolkit's own errors, and a missing extra, become one message and exit status 1.

    Ctrl-C and SIGTERM end what the command started on this machine, and then it (exit status 130 and 143).
    """
    listen()
    try:
        _main()
    except Interrupted as interrupted:
        end_command(interrupted)


def _main() -> None:
    if os.environ.get("RLUF_TRACEBACK"):
        app()
        return
    try:
        app()
    except RlufError as error:
        print(f"rluf: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        told = missing_extra(error, "rluf")
        if told is None:
            raise
        print(told, file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        number = storage_errno(error)
        if number is None:
            raise
        print(f"rluf: the home folder cannot be written ({os.strerror(number)}). {REMEDIES[number]}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
