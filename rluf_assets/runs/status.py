"""`rluf status`: what a home holds, what is stale and why, and what runs now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rluf_assets.alive import runs_under_way
from rluf_assets.demo import load_code_location, require_home
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Lake
from rluf_assets.materialise import RANGE_END, RANGE_START, Unit, quiet_environment, upstream_units
from rluf_assets.runs.current import Asker, some
from rluf_assets.runs.display import last_progress

COLOURS = {"up to date": "green", "running": "yellow", "stale": "red", "missing": "red", "waits": "dim"}


def print_status(home: Path, console: Console) -> None:
    """Print one table: a line per asset (and candidate or objective). Writes nothing. Raises ConfigError for no such home."""
    require_home(home)
    quiet_environment()
    if not (home / "dagster" / "dagster.yaml").exists():
        console.print(f"Nothing has run in {home} yet. Start with: rluf run --home {home}")
        return
    defs = load_code_location(home)
    from rluf_assets.units import all_units

    with dg.DagsterInstance.get() as instance:
        table = _table(defs, instance, home, all_units(home))
    console.print(table)


def _table(defs: dg.Definitions, instance: dg.DagsterInstance, home: Path, units: Sequence[Unit]) -> Table:
    table = Table("asset", "there", "made", "state", "", box=None, padding=(0, 1), header_style="bold")
    lake, asker = Lake(str(home.resolve() / "lake")), Asker(defs, instance, home)
    under_way = _under_way(instance)
    causes: dict[Unit, list[str]] = {}  # what a unit that is not up to date waits for: itself, or others upstream
    for unit in units:
        above = [cause for other in upstream_units(defs, unit, units) for cause in causes.get(other, ())]
        for asset in unit.assets:
            there, of, made = _made(lake, asset, unit)
            since = under_way.get((asset, unit.partition))
            if since is not None:
                state, why = "running", last_progress(home, Unit((asset,), unit.partition), time.time() - since)
            else:
                state, why = _state(asker, asset, unit, list(dict.fromkeys(above)), bool(there))
            name = asset if unit.partition is None else f"{asset} [{unit.partition}]"
            if state != "up to date" and not above:
                above = [name]
            shown = f"[{COLOURS[state]}]{state}[/]"
            table.add_row(escape(name), f"{there} of {of}" if of > 1 else str(there), made, shown, escape(why))
        causes[unit] = above
    return table


def _state(asker: Asker, asset: str, unit: Unit, above: list[str], there: bool) -> tuple[str, str]:
    """Its state, and why it is that: what is upstream comes first, for it may change what this one is asked for."""
    if above:
        return ("waits", f"for {some(above)}") if there else ("missing", f"waits for {some(above)}")
    answer = asker.asset(asset, unit)
    if answer.stale is None:
        names = [warning.partition(":")[0].rpartition("/")[2] for warning in answer.warnings]
        return "up to date", f"but {', '.join(names)} warns" if names else ""
    return ("stale", answer.stale) if there else ("missing", "")


def _made(lake: Lake, asset: str, unit: Unit) -> tuple[int, int, str]:
    """How many of the unit's partitions are in force, of how many, and when the newest was published."""
    if unit.day_range is None:
        wanted, of = [unit.partition], 1
    else:
        first, last = unit.day_range
        wanted = [day for day in lake.partitions(asset) if first <= day <= last]
        of = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).days + 1
    published = []
    for partition in wanted:
        try:
            published.append(str(lake.current(asset, partition).manifest["published_at"]))
        except ArtifactMissing:
            continue
    newest = datetime.fromisoformat(max(published)).astimezone().strftime("%Y-%m-%d %H:%M") if published else ""
    return len(published), of, newest


def _under_way(instance: dg.DagsterInstance) -> dict[tuple[str, str | None], float]:
    """(asset, partition) -> when its run began, of every run whose process is alive; days count as one."""
    found: dict[tuple[str, str | None], float] = {}
    for record in runs_under_way(instance):
        run = record.dagster_run
        days = {RANGE_START, RANGE_END} & run.tags.keys()
        partition = None if days else run.tags.get("dagster/partition")
        for key in run.asset_selection or ():
            found[key.to_user_string(), partition] = record.start_time or time.time()
    return found
