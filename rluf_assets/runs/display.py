"""How a run looks on a terminal: a table that moves, or a line per unit; a failure with its reason as soon as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from rluf_assets.materialise import Outcome, Unit
from rluf_assets.progress import duration
from rluf_assets.runs.schedulers import jobs_that_go_on

MARKS = {
    "waiting": "·", "running": "[yellow]▸[/]", "done": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "-", "ended": "■",
    "up to date": "[green]=[/]",
}  # fmt: skip
COLOURS = {"done": "green", "failed": "red", "ended": "yellow"}
ENDED = ("done", "up to date", "failed", "skipped", "ended")
ENDED_HERE = "the same command goes on where it was"
INDENT = " " * 12


class Display:
    """Shows the outcomes of a run's units while they change; used as a context manager around `run_units`."""

    def __init__(self, console: Console, home: Path) -> None:
        self._console, self._home = console, home
        self._printed: set[Unit] = set()
        self._live = Live(console=console, refresh_per_second=2, transient=not console.is_terminal)

    def __enter__(self) -> Display:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, outcomes: Mapping[Unit, Outcome]) -> None:
        """Print what ended since the last call, and on a terminal draw the table anew."""
        for unit, outcome in outcomes.items():
            if outcome.state not in ENDED or unit in self._printed:
                continue
            self._printed.add(unit)
            if outcome.state in ("failed", "ended") or not self._console.is_terminal:
                print_ended(self._console, unit, outcome, self._home)
        if self._console.is_terminal:
            self._live.update(_table(outcomes, self._home))


def print_ended(console: Console, unit: Unit, outcome: Outcome, home: Path, *, why: str = "") -> None:
    """One line for a unit that ended (`why` it was run); of a failed one also its reasons, the pages to open, and what is
    skipped because of it."""
    colour = COLOURS.get(outcome.state, "dim")
    name = f"{unit.name}: {why}" if why else unit.name
    if outcome.state == "ended":
        name = f"{unit.name}: {'; '.join(jobs_that_go_on(home, unit, outcome)) or ENDED_HERE}"
    console.print(
        f"[{colour}]{outcome.state:10}[/] {outcome.wall_s:6.1f} s  {escape(name)}", highlight=False, soft_wrap=True
    )
    told = [line for text in outcome.problems for line in text.splitlines()]
    told += [f"its warning stands: {text}" for text in outcome.notes if outcome.state == "up to date"]
    told += [f"open: {_on_disk(page, home)}" for page in outcome.pages]
    told += [f"skipped because of it: {', '.join(outcome.skips)}"] if outcome.skips else []
    for line in told:
        console.print(INDENT + escape(line), highlight=False, soft_wrap=True)


def headlines(outcomes: Mapping[Unit, Outcome]) -> str:
    """A run's failures in a line each, for the end: the whole reasons were printed when they happened."""
    failed = {unit: outcome for unit, outcome in outcomes.items() if outcome.state == "failed"}
    skipped = sum(outcome.state == "skipped" for outcome in outcomes.values())
    lines = [f"{unit.name}: {problem.splitlines()[0][:300]}" for unit, o in failed.items() for problem in o.problems]
    counted = f"{len(failed)} of {len(outcomes)} runs failed, {skipped} were skipped because of it"
    return "\n".join([f"{counted}; the reasons in full stand above.", *lines])


def _on_disk(page: str, home: Path) -> str:
    """The page as a file of this home where it is one: nobody may be serving its address now."""
    place = home / "lake" / unquote(urlsplit(page).path).partition("/lake/")[2]
    return str(place) if place.is_file() else page


def _table(outcomes: Mapping[Unit, Outcome], home: Path) -> Table:
    """One line per Dagster run: its state, time, and the last word of the job it is running."""
    table = Table("", "run", "time", "now", box=None, padding=(0, 1))
    for unit, outcome in outcomes.items():
        running = outcome.state == "running"
        elapsed = time.monotonic() - outcome.started if running else outcome.wall_s
        now = last_progress(home, unit, elapsed) if running else "; ".join(outcome.problems).replace("\n", " ")[:80]
        table.add_row(MARKS[outcome.state], escape(unit.name), f"{elapsed:5.1f} s" if elapsed else "", escape(now))
    return table


def last_progress(home: Path, unit: Unit, elapsed_s: float) -> str:
    """The newest line any job of the unit wrote to its progress file, or nothing yet."""
    since = time.time() - elapsed_s
    files = [
        (file.stat().st_mtime, file)
        for asset in unit.assets
        for file in (home / "lake" / asset).glob(f"{unit.partition or '*'}/*/logs/progress.jsonl")
    ]
    fresh = [entry for entry in files if entry[0] >= since]
    if not fresh:
        return ""
    lines = max(fresh)[1].read_text().splitlines()
    if not lines:
        return ""
    last = json.loads(lines[-1])
    left = f", {duration(last['left_s'])} left" if last.get("left_s") else ""
    return f"{last['done']}/{last['total']} {last['message'][:60]}{left}"
