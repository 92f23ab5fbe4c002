"""`rluf ui` as a user starts it: who can reach it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from rluf_assets.demo import prepare_home
from tests.ui.server import free_port, started_ui


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Addresses that a process and its children listen on."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        for connection in one.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


@pytest.mark.slow
def test_it_listens_on_loopback_alone(tmp_path: Path) -> None:
    prepare_home(tmp_path, seed=0, profile="tiny")
    port = free_port()
    with started_ui(tmp_path, port) as started:
        for _ in range(600):
            if any(port == one for _, one in listening(started)):
                break
            assert started.poll() is None, (tmp_path / "ui.log").read_text()[-2000:]
            time.sleep(0.5)
        addresses = listening(started)
        assert ("127.0.0.1", port) in addresses
        assert {ip for ip, _ in addresses} <= {"127.0.0.1", "::1"}, addresses
