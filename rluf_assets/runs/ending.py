"""How a command ends that is told to: by Ctrl-C, by SIGTERM, or because its terminal was closed.

What runs on this machine and was started by the command ends with it; what was handed to a scheduler goes on, and is found
again by the next run. A worker process ends at once (SIGKILL: Dagster would answer a signal by cancelling the scheduler's
job), a job is asked to (SIGTERM) and killed if it does not. An artifact is there with its manifest or not at all, so
nothing half-made is left behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "its terminal, which was closed"}
GRACE_S, OWN_GRACE_S = 10.0, 3.0
OURS = ("rluf_assets", "dagster", "resources.")  # modules that a process of this command runs

Answer = TypeVar("Answer")
_heard: list[float] = []


class Interrupted(BaseException):
    """A signal told this command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that shells expect: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


def listen() -> None:
    """From now on a signal raises Interrupted in the main thread; signals that are ignored (nohup) stay so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def listening() -> bool:
    """Whether this process is a command that ends by Interrupted."""
    return signal.getsignal(signal.SIGTERM) is _interrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _heard and time.monotonic() - _heard[-1] < OWN_GRACE_S:
        return  # it is ending already, and takes a moment
    _heard.append(time.monotonic())
    raise Interrupted(number)


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back meanwhile; a process started here holds them back until it calls `become_worker`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker(log: Path) -> None:
    """Start multiprocessing's tracker of semaphores; what it has to say of a command that was ended goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    try:
        with log.open("ab") as stream:
            os.dup2(stream.fileno(), 2)
        resource_tracker.ensure_running()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def become_worker(log: Path) -> None:
    """Be a process that only its parent ends: a terminal's Ctrl-C reaches it too, and says nothing to it.

    What Dagster's helper processes have to say to Ctrl-C (tracebacks) goes to `log` with all of its errors. Should the
    parent be killed, it ends by itself: its pool would wait for work for ever.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)  # not SIG_IGN: jobs would inherit that
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def apart(work: Callable[[], Answer]) -> Answer:
    """Do the work in a thread of its own, where Dagster cannot take signals over; the main thread hears them meanwhile."""
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def do() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def end_processes(number: int = signal.SIGINT) -> None:
    """End the processes of this command, and theirs, after that signal; returns when they have ended."""
    workers = {process.pid for process in multiprocessing.active_children()}
    for pid in workers:
        with suppress(psutil.Error):
            psutil.Process(pid).suspend()  # so that it starts nothing more
    tops = [child for child in psutil.Process().children() if child.pid in workers or _is_ours(child)]
    jobs: list[psutil.Process] = []
    for top in tops:
        with suppress(psutil.Error):
            jobs += top.children() if top.pid in workers else [top]
    family = [*jobs, *(below for job in jobs for below in _below(job))]
    for top in tops:
        if top.pid in workers:
            with suppress(psutil.Error):
                top.kill()
    # A terminal's Ctrl-C reached them as well: they are ending.
    _, alive = psutil.wait_procs(jobs, timeout=OWN_GRACE_S if number == signal.SIGINT else 0)
    for job in alive:
        with suppress(psutil.Error):
            job.terminate()
    _, alive = psutil.wait_procs(jobs, timeout=GRACE_S)
    left = [
        *family,
        *(below for one in alive for below in _below(one)),
    ]  # a job that ends well has ended its own before
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=OWN_GRACE_S)


def run_command(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run another command and return its exit status; should this one be interrupted, the other is left to `end_command`.

    `subprocess.run` would kill it on the spot, and leave what it started running.
    """
    return subprocess.Popen(command, env=environment).wait()


def end_command(interrupted: Interrupted) -> NoReturn:
    """The last thing an interrupted command does: nothing of it is left, one line says so, the exit status too."""
    end_processes(interrupted.number)
    print(f"rluf: ended by {NAMES[signal.Signals(interrupted.number)]}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(interrupted.status)  # a thread may still be at work for Dagster


def _is_ours(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(word.startswith(OURS) for word in process.cmdline())
    return False


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(process.children(recursive=True))
    return []
