"""`rluf plan`: what a profile's jobs would run and need, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def plan(
    profile: Annotated[
        str | None, typer.Option(help="A packaged profile; default: what the home folder names.")
    ] = None,
    home: Annotated[Path, typer.Option("--home", help="Folder whose rluf.yaml and candidates count.")] = Path(
        "rluf-demo"
    ),
) -> None:
    """Show every model job's needs (memory per GPU, tokens, FLOPs, GPU-hours) and the command that would run it."""
    from rluf_assets.plan_report import print_plan

    if not print_plan(home, profile):
        raise typer.Exit(1)
