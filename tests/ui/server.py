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
def running_ui(home: Path) -> Iterator[str]:
    """Start `rluf ui` on a home folder, wait until it answers, and end it and its family at the end."""
    # The default ports where pictures are kept: addresses are in them.
    port, pages = (3000, 3001) if "RLUF_SCREENSHOTS" in os.environ else (free_port(), free_port())
    environment = {**os.environ, "RLUF__PAGES_URL": f"http://127.0.0.1:{pages}"}
    command = [sys.executable, "-m", "rluf_assets.cli", "ui", "--home", str(home), "--port", str(port)]
    log = home / "ui.log"
    with log.open("w") as stream:
        started = psutil.Popen(command, stdout=stream, stderr=stream, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not answers(f"{address}/server_info"):
            assert started.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"rluf ui did not answer: {log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield address
    finally:
        family = [started, *started.children(recursive=True)]
        for one in family:  # Ctrl-C reaches every process of a terminal
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=30)
        for one in alive:
            one.kill()


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
