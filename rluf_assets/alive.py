"""Which runs have lost their process: killed, or the machine was restarted. Dagster takes them for alive otherwise.

Whatever waits for what is in progress would wait for ever. `RunLauncher`, named in a home's dagster.yaml, tells the daemon,
which ends such a run and starts it again; the commands of a terminal call `end_dead_runs` before they begin.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import psutil

from rluf_assets.dagster_surface import CheckRunHealthResult, ConfigurableClassData, DefaultRunLauncher, WorkerStatus
from rluf_assets.runs.ending import Interrupted

PROCESS, PROCESS_HOST = "rluf/process", "rluf/host"
SERVER = ".dagster/grpc_info"  # where the code server of a run started by a daemon listens
GRACE_S = 45
GONE = "Its process is gone: killed, or the machine was restarted. Run it again."
ENDED = "Ended by whoever started it (Ctrl-C, SIGTERM). Run the same command again: it goes on where it was."
UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]
_STARTED = re.compile(r"Started process for run \(pid: (\d+)\)")


class RunLauncher(DefaultRunLauncher):
    """Dagster's launcher of processes on this machine, which also knows when one of them is gone.

    Dagster's own learns it from the code server that started the process, and not at all if that was killed with it.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._noticed: dict[str, float] = {}

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run that is under way is there; for a while after it has gone it counts as there.

        A run that is ended while its code server is being started again cannot be retried: Dagster then gives it up.
        """
        if not _is_dead(self._instance, run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if time.monotonic() - self._noticed.setdefault(run.run_id, time.monotonic()) < GRACE_S:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "Its process is gone.")
        return CheckRunHealthResult(WorkerStatus.FAILED, GONE)


def end_dead_runs(instance: dg.DagsterInstance) -> int:
    """Report runs as failed whose process is gone; returns how many."""
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)) if _is_dead(instance, run)]
    for run in dead:
        instance.report_run_failed(run, GONE)
    return len(dead)


def runs_under_way(instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    """Records of the runs that are under way, and whose process is there."""
    records = instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY))
    return [record for record in records if not _is_dead(instance, record.dagster_run)]


@contextmanager
def canceled_if_ended(instance: dg.DagsterInstance) -> Iterator[None]:
    """Should the command be interrupted meanwhile, report its runs as canceled: their processes are gone by then."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        own = own_process()[PROCESS]
        for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
            if PROCESS in run.tags and (run.tags[PROCESS] == own or _is_dead(instance, run)):
                instance.report_run_canceled(run, ENDED)
        raise


def own_process() -> dict[str, str]:
    """Tags of a run that is this very process."""
    this = psutil.Process()
    return {PROCESS: f"{this.pid} {this.create_time()}", PROCESS_HOST: socket.gethostname()}


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    if PROCESS in run.tags:
        pid, made = run.tags[PROCESS].split()
        return run.tags[PROCESS_HOST] == socket.gethostname() and _created(int(pid)) != float(made)
    if SERVER not in run.tags:
        return False
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        started = _STARTED.search(event.message)
        if started:  # it outlives its server; a process made later has only got its number
            created = _created(int(started[1]))
            return created is None or created > event.timestamp
    return not _answers(json.loads(run.tags[SERVER]))


def _created(pid: int) -> float | None:
    """When the process with this number was made; None if there is none, or only what is left of one."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _answers(server: dict[str, Any]) -> bool:
    """Whether anybody listens where the code server was that started a run."""
    local = server.get("socket")
    with socket.socket(socket.AF_UNIX if local else socket.AF_INET) as probe:
        probe.settimeout(2)
        return probe.connect_ex(local or (server.get("host") or "127.0.0.1", int(server["port"]))) == 0
