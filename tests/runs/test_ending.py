"""Ctrl-C and SIGTERM end what a command started on this machine, and say so in one line; nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

COMMAND = """
import subprocess, sys
from pathlib import Path
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from rluf_assets.runs.ending import (
    Interrupted, apart, become_worker, end_command, end_processes, held, listen, run_command, start_tracker
)

JOB = '''
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
'''

def work(kind):
    return apart(lambda: subprocess.run([sys.executable, "-c", JOB, kind]).returncode)

def main():
    listen()
    try:
        if sys.argv[1] == "command":
            run_command([sys.executable, "-c", JOB, "job", "rluf_assets.cli"])
        start_tracker(Path(sys.argv[2]))
        with ProcessPoolExecutor(1, get_context("spawn"), become_worker, (Path(sys.argv[2]),)) as pool:
            try:
                with held():
                    future = pool.submit(work, sys.argv[1])
                future.result()
            except Interrupted as told:
                end_processes(told.number)
                raise
    except Interrupted as told:
        end_command(told)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("kind", "number", "name"),
    [("job", signal.SIGINT, "Ctrl-C"), ("job", signal.SIGTERM, "SIGTERM"), ("command", signal.SIGTERM, "SIGTERM")],
)
def test_nothing_is_left_running(kind: str, number: signal.Signals, name: str, tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    command = psutil.Popen(
        [sys.executable, str(script), kind, str(tmp_path / "errors.log")],
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        while sum("time.sleep(600)" in " ".join(one.cmdline()) for one in family) < 2:
            assert command.poll() is None, command.communicate()
            time.sleep(0.05)
            family = [one for one in command.children(recursive=True) if one.is_running() and one.status() != "zombie"]
        if number == signal.SIGINT:  # a terminal sends it to every process in the foreground
            os.killpg(command.pid, number)
        else:
            command.send_signal(number)
        said, errors = command.communicate(timeout=60)
        assert (said, errors) == ("", f"rluf: ended by {name}\n")
        assert command.returncode == 128 + number
        assert not psutil.wait_procs(family, timeout=5)[1]
    finally:
        for one in family:
            if one.is_running():
                one.kill()


def test_a_command_under_nohup_does_not_hear_the_terminal_close() -> None:
    script = "import signal; from rluf_assets.runs.ending import listen; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    script += "listen(); print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"
