"""`rluf init`, `rluf doctor`, `rluf gc`: starting a project of one's own, checking it, keeping its lake tidy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

Home = Annotated[Path, typer.Option("--home", help="Folder of the lake, the Dagster instance and the reports.")]
DEFAULT_HOME = Path("rluf-demo")
MARKS = {"ok": "ok  ", "note": "note", "mend": "MEND"}


@app.command("init")
def init_command(folder: Annotated[Path, typer.Argument(help="Folder to create.")]) -> None:
    """Scaffold a project for your own logs: settings, candidates, editable check suites, workspace.yaml."""
    from rluf_assets.scaffold import init_project

    for path in init_project(folder):
        typer.echo(path)
    typer.echo(f"Fill in the paths in {folder / 'rluf.yaml'}, then: rluf doctor --home {folder}")


@app.command()
def doctor(home: Home = DEFAULT_HOME) -> None:
    """Check the installation, its GPUs and schedulers, and a home folder; says what to mend (exit status 1 if any)."""
    from rluf_assets.doctor import examine

    findings = examine(home)
    for finding in findings:
        remedy = f"  -> {finding.remedy}" if finding.state != "ok" and finding.remedy else ""
        typer.echo(f"{MARKS[finding.state]}  {finding.subject}: {finding.found}{remedy}")
    if any(finding.state == "mend" for finding in findings):
        raise typer.Exit(1)


@app.command()
def gc(
    home: Home = DEFAULT_HOME,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
) -> None:
    """Remove what no live lineage needs: superseded artifacts, abandoned folders, checkpoints of finished jobs; and raw
    logs that are older than `retention.raw_days`."""
    from resources.profiles import load_profile
    from rluf_assets.demo import require_home
    from rluf_assets.lake import Lake
    from rluf_assets.tidy import find_waste, remove

    require_home(home)
    lake = Lake(str((home / "lake").resolve()))
    if load_profile(home).retention.raw_days is not None:
        from rluf_assets.partitions import retain

        if told := retain(home, dry_run=dry_run):
            typer.echo(f"{told} ({'would be' if dry_run else 'were'} removed)")
    waste = find_waste(lake)
    for entry in waste:
        typer.echo(f"{entry.size_bytes / 2**20:9.1f} MB  {entry.reason:30}  {entry.folder}")
    total = sum(entry.size_bytes for entry in waste) / 2**20
    if not dry_run:
        remove(lake, waste)
    typer.echo(f"{total:9.1f} MB  {'would be' if dry_run else 'were'} freed: {len(waste)} folders")
