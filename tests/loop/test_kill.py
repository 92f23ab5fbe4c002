"""Kill the demo at several points and run it again: it finishes with the same summary as an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import run_rluf
from tests.loop.test_demo import summary_of

pytestmark = pytest.mark.slow

# What must have begun when the kill comes, from the first stage to the last.
POINTS = ("raw_messages", "base_policy", "crraft_policy/aggressive", "release_report")


def start(home: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rluf_assets.cli", "demo", "--profile", "tiny", "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def test_killed_demo_finishes_with_the_same_summary(tiny_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for point in POINTS:
        demo = start(home)
        deadline = time.monotonic() + 900
        while not (home / "lake" / point).exists():
            assert demo.poll() is None, f"the demo ended before {point} began"
            assert time.monotonic() < deadline, f"{point} did not begin"
            time.sleep(0.05)
        time.sleep(0.5)
        # Every other time only the orchestrator dies and its job lives on; the rerun waits for it.
        if POINTS.index(point) % 2:
            demo.kill()
        else:
            os.killpg(demo.pid, signal.SIGKILL)
        demo.wait()
    done = run_rluf("demo", "--profile", "tiny", "--home", str(home))
    assert done.returncode == 0, done.stderr
    assert summary_of(home) == summary_of(tiny_home)
