"""Materialise the graph from a terminal: Dagster runs, two at a time, in the order the asset graph gives.

`rluf run`, `rluf demo` and `rluf update` use it. Each unit is one run of one of the jobs in `definitions.py` (a range of
days, one candidate, one reward model); the Dagster UI on the same instance shows the same runs. A unit starts when
everything upstream of it has succeeded; a failed unit stops what is downstream of it and nothing else.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg

from resources.launchers.base import LAST_LINES
from rluf_assets import errors
from rluf_assets.alive import own_process
from rluf_assets.runs.ending import Interrupted, apart, become_worker, end_processes, held, listening, start_tracker

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# What a launcher raises in order to try again is no reason; what it was raised from is.
OWN_ERRORS = {
    name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, errors.RlufError)
}
SETTLED = ("done", "up to date")
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True)
class Unit:
    """One Dagster run: assets that share partitions, and the partition key or range of days."""

    assets: tuple[str, ...]
    partition: str | None = None
    day_range: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        first = self.assets[0] if len(self.assets) == 1 else f"{self.assets[0]} .. {self.assets[-1]}"
        if self.day_range:
            return f"{first} [{self.day_range[0]} .. {self.day_range[1]}]"
        return f"{first} [{self.partition}]" if self.partition else first


@dataclass(frozen=True)
class Answer:
    """Why something is to be done (None: it is up to date), and the warnings of its checks that stand."""

    stale: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Outcome:
    """How a unit ended: `state` is waiting, running, done, failed, skipped (something upstream failed), ended (by a signal)
    or up to date (nothing to do).

    `notes`: what its assets' own checks said (a model's verdict), passed or not. `pages`: addresses of pages to look into
    after a failed check. `skips`: names of the units that are skipped because this one failed.
    """

    state: str = "waiting"
    started: float = 0.0
    wall_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    failed_checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Why it failed: errors of its assets, then checks that did not pass."""
        return [*self.errors, *self.failed_checks]


def run_units(
    defs: dg.Definitions,
    units: Sequence[Unit],
    *,
    home: Path,
    workers: int,
    on_change: Callable[[dict[Unit, Outcome]], None] = lambda outcomes: None,
    ask: Callable[[Unit], Answer] | None = None,
) -> dict[Unit, Outcome]:
    """Run every unit once what it depends on is done; returns how each ended. Never raises for a failed run.

    `ask`: whether a unit is up to date, asked when what it depends on is settled; such a unit is no Dagster run.
    Units run in worker processes that each build the definitions of `home` once (`DAGSTER_HOME` names its instance):
    Dagster configures Python's logging anew for every run, which two threads of one process cannot do at a time.
    A single worker is this very process.
    """
    upstream = {unit: upstream_units(defs, unit, units) for unit in units}
    outcomes = {unit: Outcome() for unit in units}
    if workers == 1:
        return _run_here(defs, upstream, outcomes, on_change, ask)
    given = (home / "dagster" / "workers.log",)
    start_tracker(*given)
    with ProcessPoolExecutor(workers, get_context("spawn"), become_worker, given) as pool:
        try:
            _run_in(pool, home, workers, upstream, outcomes, on_change, ask)
        except (Interrupted, KeyboardInterrupt) as told:
            end_processes(getattr(told, "number", signal.SIGINT))
            _end_running(outcomes, on_change)
            raise
        except BrokenProcessPool as error:
            end_processes(signal.SIGTERM)
            _end_running(outcomes, on_change)
            raise errors.JobFailed(
                "a worker process of this command was killed, most often because memory ran out. What it had made is kept: run "
                f"the same command again. Its last words: {given[0]}"
            ) from error
    return outcomes


def _run_in(
    pool: ProcessPoolExecutor,
    home: Path,
    workers: int,
    upstream: dict[Unit, list[Unit]],
    outcomes: dict[Unit, Outcome],
    on_change: Callable[[dict[Unit, Outcome]], None],
    ask: Callable[[Unit], Answer] | None,
) -> None:
    running: dict[Future[Outcome], Unit] = {}
    to_do: set[Unit] = set()  # asked already
    while running or any(outcome.state == "waiting" for outcome in outcomes.values()):
        for unit, outcome in outcomes.items():
            if outcome.state != "waiting":
                continue
            if not all(outcomes[other].state in SETTLED for other in upstream[unit]):
                continue
            if unit not in to_do and _is_current(unit, outcome, ask):
                continue
            to_do.add(unit)
            if len(running) < workers:
                outcome.state, outcome.started = "running", time.monotonic()
                with held():
                    running[pool.submit(_work, home, unit)] = unit
        on_change(outcomes)
        if not running:
            continue
        finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in finished:
            unit = running.pop(future)
            _end(unit, future.result(), upstream, outcomes)
    on_change(outcomes)


def _work(home: Path, unit: Unit) -> Outcome:
    """What a worker does: only its parent ends it, so Dagster must not take signals over."""
    return apart(partial(_run_unit, _built_once(home), unit))


@cache
def _built_once(home: Path) -> dg.Definitions:
    """The definitions of a home, in a worker: it lives for one walk through the units."""
    from rluf_assets.definitions import build_definitions

    return build_definitions(home)


def _is_current(unit: Unit, outcome: Outcome, ask: Callable[[Unit], Answer] | None) -> bool:
    """Whether there is nothing to do, which is then written down."""
    if ask is None:
        return False
    started = time.monotonic()
    answer = ask(unit)
    if answer.stale is not None:
        return False
    outcome.state, outcome.wall_s, outcome.notes = "up to date", time.monotonic() - started, list(answer.warnings)
    return True


def _run_here(
    defs: dg.Definitions,
    upstream: dict[Unit, list[Unit]],
    outcomes: dict[Unit, Outcome],
    on_change: Callable[[dict[Unit, Outcome]], None],
    ask: Callable[[Unit], Answer] | None,
) -> dict[Unit, Outcome]:
    waiting = list(outcomes)
    while waiting:
        ready = (unit for unit in waiting if not any(other in waiting for other in upstream[unit]))
        unit = next(ready)
        waiting.remove(unit)
        if outcomes[unit].state == "waiting" and not _is_current(unit, outcomes[unit], ask):
            outcomes[unit] = Outcome("running", time.monotonic())
            on_change(outcomes)
            try:
                work = partial(_run_unit, defs, unit)
                _end(unit, apart(work) if listening() else work(), upstream, outcomes)
            except Interrupted as told:
                end_processes(told.number)
                _end_running(outcomes, on_change)
                raise
        on_change(outcomes)
    return outcomes


def _end(unit: Unit, ended: Outcome, upstream: dict[Unit, list[Unit]], outcomes: dict[Unit, Outcome]) -> None:
    """Write down how a unit ended; what is downstream of a failed one is skipped from now on."""
    ended.wall_s = time.monotonic() - outcomes[unit].started
    outcomes[unit] = ended
    if ended.state != "failed":
        return
    for other, outcome in outcomes.items():
        if outcome.state == "waiting" and unit in upstream[other]:
            outcome.state = "skipped"
            ended.skips.append(other.name)


def _end_running(outcomes: dict[Unit, Outcome], on_change: Callable[[dict[Unit, Outcome]], None]) -> None:
    """Write down that what was running was ended by whoever started it."""
    for outcome in outcomes.values():
        if outcome.state == "running":
            outcome.state, outcome.wall_s = "ended", time.monotonic() - outcome.started
    on_change(outcomes)


def _run_unit(defs: dg.Definitions, unit: Unit) -> Outcome:
    tags = {"rluf/unit": unit.assets[0], **own_process()}
    if unit.day_range:
        tags |= {RANGE_START: unit.day_range[0], RANGE_END: unit.day_range[1]}
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset) for asset in unit.assets],
            partition_key=unit.partition,
            tags=tags,
            run_config=QUIET,
            raise_on_error=False,
        )
    return outcome_of(result)


def outcome_of(result: dg.ExecuteInProcessResult) -> Outcome:
    """How a Dagster run ended, and why if it did not end well."""
    outcome = Outcome()
    outcome.errors = [
        f"{event.step_key}: {_reason(event.step_failure_data.error)}"
        for event in result.get_step_failure_events()
        if event.step_failure_data.error
    ]
    checks = result.get_asset_check_evaluations()
    failed = [check for check in checks if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR]
    outcome.failed_checks = [_told(check) for check in failed]
    pages = (str(value.value) for check in failed for value in check.metadata.values() if _is_page(value))
    outcome.pages = list(dict.fromkeys(pages))
    outcome.notes = [str(check.description) for check in checks if check.check_name == "adopted"]
    outcome.state = "done" if result.success and not failed else "failed"
    return outcome


def _told(check: dg.AssetCheckEvaluation) -> str:
    """A failed check with what was observed and what was expected."""
    observed = check.description or "failed"
    expected = check.metadata.get("expected")
    name = f"{check.asset_key.to_user_string()}/{check.check_name}: {observed}"
    return f"{name}\nexpected: {expected.value}" if expected is not None else name


def _is_page(value: dg.MetadataValue[Any]) -> bool:
    return isinstance(value, dg.UrlMetadataValue)


def _reason(error: Any) -> str:
    """Why a step failed, without Dagster's frames: the toolkit's own error, else the innermost of the chain."""
    while error.cls_name not in OWN_ERRORS and error.cause is not None:
        error = error.cause
    reason, found, log = str(error.message).strip().partition(LAST_LINES)
    return f"{reason.strip()}\nlog: {log.splitlines()[0].strip().removesuffix(':')}" if found else reason


def upstream_units(defs: dg.Definitions, unit: Unit, units: Sequence[Unit]) -> list[Unit]:
    """Those of the units that make something this one is made from, however far upstream."""
    graph = defs.resolve_asset_graph()
    own = {dg.AssetKey(asset) for asset in unit.assets}
    needed = {parent for key in own for parent in graph.get_ancestor_asset_keys(key)} - own
    own_partitions = graph.get(dg.AssetKey(unit.assets[0])).partitions_def
    found = []
    for other in units:
        makes = {dg.AssetKey(asset) for asset in other.assets} & needed
        same_grain = all(graph.get(key).partitions_def == own_partitions for key in makes)
        if makes and (not same_grain or other.partition == unit.partition):
            found.append(other)
    return found


def quiet_environment() -> None:
    """Settings for processes that run the graph unattended: no telemetry, no hub, no notices on the terminal."""
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
