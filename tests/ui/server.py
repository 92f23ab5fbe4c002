"""A `rluf ui` of its own on free loopback ports, and what the tests plant in its home beforehand.

with running_ui(home) as address: ...      # Dagster's address; every process is gone afterwards
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import psutil
import yaml

START_S = 300
BAD_DAY, COPY = "2026-01-20", "a_copy"


def plant_bad_day(home: Path, day: str = BAD_DAY) -> None:
    """Make the source of a day useless: every message of it is blank."""
    source = next((home / "lake" / "production_store" / "_").glob(f"*/messages/date={day}"))
    for file in source.glob("*.parquet"):
        pl.read_parquet(file, hive_partitioning=False).with_columns(content=pl.lit(" ")).write_parquet(file)


def add_candidate(home: Path, name: str = COPY) -> None:
    """One more candidate, the cheapest there is: the base policy as it is."""
    file = home / "candidates.yaml"
    candidates = yaml.safe_load(file.read_text())
    candidates["candidates"][name] = {"optimiser": "none"}
    file.write_text(yaml.safe_dump(candidates, sort_keys=False))


@contextmanager
def started_ui(home: Path, port: int, pages_url: str = "http://none") -> Iterator[psutil.Popen]:
    """The process of `rluf ui`, just started; it and its family are ended at the end. By default it serves no pages."""
    command = [sys.executable, "-m", "rluf_assets.cli", "ui", "--home", str(home), "--port", str(port)]
    with (home / "ui.log").open("a") as log:
        started = psutil.Popen(command, stdout=log, stderr=log, env={**os.environ, "RLUF__PAGES_URL": pages_url})
    try:
        yield started
    finally:
        family = [started, *started.children(recursive=True)] if started.is_running() else []
        for one in family:  # Ctrl-C reaches every process of a terminal
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGINT)
        for one in psutil.wait_procs(family, timeout=30)[1]:
            one.kill()


@contextmanager
def running_ui(home: Path) -> Iterator[str]:
    """The address of a `rluf ui` on a home folder, once it answers."""
    # The default ports where pictures are kept: addresses are in them.
    port, pages = (3000, 3001) if "RLUF_SCREENSHOTS" in os.environ else (free_port(), free_port())
    address = f"http://127.0.0.1:{port}"
    with started_ui(home, port, f"http://127.0.0.1:{pages}") as started:
        deadline = time.monotonic() + START_S
        while not answers(f"{address}/server_info"):
            told = (home / "ui.log").read_text()[-3000:]
            assert started.poll() is None, told
            assert time.monotonic() < deadline, f"rluf ui did not answer: {told}"
            time.sleep(0.5)
        yield address


def answers(address: str) -> bool:
    """Whether something serves this address."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
