"""`rluf update`: bring in what arrived, then make again what its content asks for, and say what ran, what did not, and why.

The conditions are those of the sensor (rluf_assets/automation.py), evaluated here tick by tick without a daemon. Their memory,
`dagster/automation.json`, also holds the runs that were asked for and have not succeeded: the next update does them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape

from rluf_assets.alive import canceled_if_ended, end_dead_runs
from rluf_assets.automation import LOOK_BACK_DAYS, fixed
from rluf_assets.dagster_surface import evaluate_conditions, read_cursor, write_cursor
from rluf_assets.demo import WORKERS, load_code_location, make_folders, require_home
from rluf_assets.errors import ConfigError, JobFailed
from rluf_assets.lake import Lake, write_json
from rluf_assets.materialise import Outcome, Unit, quiet_environment, run_units
from rluf_assets.retention import horizon_of
from rluf_assets.runs.display import headlines, print_ended

MEMORY = "automation.json"
RAW = ("raw_messages", "raw_reactions")
Contents = dict[tuple[str, str], str]  # (asset, partition) -> content hash of the artifact in force
# Each of their runs is light enough for this very process.
_LIGHT = ("raw_messages", "raw_reactions", "validated_replies", "signal_audit", "signal_set")


@dataclass
class Update:
    """What an update did: its runs in order with the reason for each, and why the other assets were left alone."""

    ran: list[tuple[Unit, Outcome, str]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def update(home: Path, *, day: str | None = None, console: Console | None = None) -> Update:
    """Bring in `day`, or every day that is missing and those of the look-back, and what follows from their content.

    Raises ConfigError (no such home or day), JobFailed at the end if a run failed or a blocking check did; whatever was
    not downstream of it has been done.
    """
    require_home(home)
    make_folders(home)
    quiet_environment()
    console = console or Console(width=120)
    defs = load_code_location(home)
    from rluf_assets.partitions import register_candidates, retain

    with dg.DagsterInstance.get() as instance:
        register_candidates(home, instance)
        end_dead_runs(instance)
        with canceled_if_ended(instance):
            done = follow(defs, instance, home, _arrived(home, day), console)
    if any(unit.assets == ("release_report",) and outcome.state == "done" for unit, outcome, _ in done.ran):
        from rluf_assets.summary import write_summary

        write_summary(home)
    for reason in dict.fromkeys(done.left.values()):
        names = [asset for asset, why in done.left.items() if why == reason]
        console.print(f"[dim]not run[/]           {escape(', '.join(names))}: {escape(reason)}", highlight=False)
    outcomes = {unit: outcome for unit, outcome, _ in done.ran}
    if any(outcome.state == "failed" for outcome in outcomes.values()):
        raise JobFailed(f"the update stopped: {headlines(outcomes)}")
    if told := retain(home):
        console.print(escape(f"removed           {told}"), highlight=False)
    return done


def follow(defs: dg.Definitions, instance: dg.DagsterInstance, home: Path, first: Unit, console: Console) -> Update:
    """Run `first`, then whatever the conditions ask for, until they ask for nothing."""
    lake, memory = Lake(str(home.resolve() / "lake")), home / "dagster" / MEMORY
    graph, done = defs.resolve_asset_graph(), Update()
    before = contents(lake, defs)
    cursor, kept = _read(memory)
    owed = [unit for unit in kept if unit != first and is_there(graph, instance, unit)]
    if cursor is None:
        asked, cursor = evaluate_conditions(defs, instance, leave_out=RAW, cursor=None)
        owed = list(units_of(asked))  # days that were brought in and not validated
    failed: list[Unit] = []
    units, why = [first], dict.fromkeys([first], "it arrived")
    while units:
        _write(memory, cursor, [*failed, *owed, *units])  # should this be the last that is heard of us
        outcomes = run_units(defs, units, home=home, workers=_workers(units), on_change=_Failures(console, home, why))
        now = contents(lake, defs)
        for unit, outcome in outcomes.items():
            done.ran.append((unit, outcome, why[unit]))
            if outcome.state != "failed":
                console.print(_line(unit, outcome, why[unit], _changed(before, now)), highlight=False)
        failed += [unit for unit, outcome in outcomes.items() if outcome.state != "done"]
        asked, cursor = evaluate_conditions(defs, instance, leave_out=RAW, cursor=cursor)
        units = list(dict.fromkeys([*units_of(asked), *owed]))
        owed = []
        changed = {asset for asset, _ in _changed(before, now)}
        why = {unit: _reason(graph, unit.assets[0], changed) for unit in units}
    _write(memory, cursor, failed)
    done.left = _left_alone(graph, done, {asset for asset, _ in _changed(before, contents(lake, defs))})
    return done


class _Failures:
    """Prints a unit that failed, with its reason, as soon as it has; the others are told of once their content is known."""

    def __init__(self, console: Console, home: Path, why: Mapping[Unit, str]) -> None:
        self._console, self._home, self._why = console, home, why
        self._printed: set[Unit] = set()

    def __call__(self, outcomes: Mapping[Unit, Outcome]) -> None:
        for unit, outcome in outcomes.items():
            if outcome.state in ("failed", "ended") and unit not in self._printed:
                self._printed.add(unit)
                print_ended(self._console, unit, outcome, self._home, why=self._why[unit])


def units_of(asked: Mapping[str, set[str | None]]) -> Iterator[Unit]:
    """Runs for what was asked for: neighbouring days in one, every candidate in its own."""
    for asset, partitions in asked.items():
        keys = sorted(key for key in partitions if key is not None)
        if not keys:
            yield Unit((asset,))
        elif asset in _LIGHT:
            yield from (Unit((asset,), day_range=span) for span in _ranges(keys))
        else:
            yield from (Unit((asset,), partition=key) for key in keys)


def contents(lake: Lake, defs: dg.Definitions) -> Contents:
    """Content of everything in force."""
    assets = [key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys]
    found = {}
    for asset in assets:
        for partition in lake.partitions(asset):
            found[asset, partition] = lake.current(asset, None if partition == "_" else partition).content_hash
    return found


def _arrived(home: Path, day: str | None) -> Unit:
    from rluf_assets.partitions import HomeSettings

    settings = HomeSettings.of(home)
    known, lake = settings.kept_days(), settings.lake
    if day is not None:
        if day not in known and day in settings.days.get_partition_keys():
            raise ConfigError(
                f"day {day!r}: its raw rows were removed (retention.raw_days); the first day kept is {known[0]}."
            )
        if day not in known:
            raise ConfigError(f"day {day!r}: not a day of this home, expected one from {known[0]} to {known[-1]}.")
        return Unit(RAW, day_range=(day, day))
    there = set.intersection(*(set(lake.partitions(asset)) for asset in RAW))
    missing = [key for key in known if key not in there]
    labels_from = horizon_of(lake).labels_from  # what is never validated again need not be read again
    recent = [key for key in known[-LOOK_BACK_DAYS:] if key >= labels_from]
    return Unit(RAW, day_range=(min([*missing, *recent]), known[-1]))


def _ranges(days: list[str]) -> Iterator[tuple[str, str]]:
    start = last = days[0]
    for day in days[1:]:
        if date.fromisoformat(day) - date.fromisoformat(last) > timedelta(days=1):
            yield start, last
            start = day
        last = day
    yield start, last


def _workers(units: list[Unit]) -> int:
    heavy = [unit for unit in units if unit.assets[0] not in _LIGHT]
    return max(1, min(WORKERS, len(heavy)))


def _changed(before: Contents, now: Contents) -> set[tuple[str, str]]:
    return {place for place, content in now.items() if before.get(place) != content}


def is_there(graph: Any, instance: dg.DagsterInstance, unit: Unit) -> bool:
    """Whether the days or the candidate of a run that was asked for before are partitions still: settings change."""
    kind = graph.get(dg.AssetKey(unit.assets[0])).partitions_def
    known = set(kind.get_partition_keys(dynamic_partitions_store=instance)) if kind is not None else set()
    return set(unit.day_range or (unit.partition,)) - {None} <= known


def _parents(graph: Any, asset: str) -> list[str]:
    return sorted(key.to_user_string() for key in graph.get(dg.AssetKey(asset)).parent_keys)


def _reason(graph: Any, asset: str, changed: set[str]) -> str:
    found = [parent for parent in _parents(graph, asset) if parent in changed]
    return f"new content of {', '.join(found)}" if found else "it was missing, asked for before, or its code changed"


def _left_alone(graph: Any, done: Update, changed: set[str]) -> dict[str, str]:
    ran = {asset for unit, _, _ in done.ran for asset in unit.assets}
    stopped = {asset for unit, outcome, _ in done.ran if outcome.state != "done" for asset in unit.assets}
    by_people, left = fixed(graph), {}
    for key in graph.toposorted_asset_keys:
        asset = key.to_user_string()
        if asset in ran or key not in graph.materializable_asset_keys:
            continue
        above = {parent.to_user_string() for parent in graph.get_ancestor_asset_keys(key)}
        if asset in by_people:
            left[asset] = "remade by people only, so that candidates stay comparable"
        elif above & stopped - by_people:
            left[asset] = f"downstream of {', '.join(sorted(above & stopped))}, which failed"
        elif not set(_parents(graph, asset)) & changed:
            left[asset] = "the content of what it is made from is as before"
        else:
            left[asset] = "it waits for what is missing upstream, or follows the comparisons only"
    return left


def _line(unit: Unit, outcome: Outcome, why: str, changed: set[tuple[str, str]]) -> str:
    keys = [unit.partition or "_"] if unit.day_range is None else None
    new = sum(asset in unit.assets and (keys is None or partition in keys) for asset, partition in changed)
    what = "new content" if new else "same content as before"
    told = "".join(f"\n{'':18}{text}" for text in outcome.notes)
    state, result = ("[green]ran[/]    ", what) if outcome.state == "done" else ("skipped", "something upstream failed")
    return f"{state} {outcome.wall_s:6.1f} s  {escape(unit.name)}: {escape(why)} -> {result}{escape(told)}"


def _read(memory: Path) -> tuple[Any, list[Unit]]:
    """The conditions' memory, and the runs that the last update asked for and did not bring to their end."""
    if not memory.exists():
        return None, []
    kept = json.loads(memory.read_text())
    owed = [Unit(tuple(a), p, None if span is None else (span[0], span[1])) for a, p, span in kept["owed"]]
    return read_cursor(kept["cursor"]), owed


def _write(memory: Path, cursor: Any, owed: list[Unit]) -> None:
    units = [(unit.assets, unit.partition, unit.day_range) for unit in dict.fromkeys(owed)]
    write_json(str(memory), {"cursor": write_cursor(cursor), "owed": units})
