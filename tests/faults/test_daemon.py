"""`rluf ui` with its daemon, killed in its parts while it works unattended: it goes on and ends where an update ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Lake
from tests.conftest import run_rluf
from tests.loop.test_update import LOGS_ONLY, write_home
from tests.ui.server import free_port, started_ui

pytestmark = pytest.mark.slow
SETTINGS = {**LOGS_ONLY, "production": {**LOGS_ONLY["production"], "days": 3}}  # type: ignore[dict-item]


def wait(condition: Callable[[], bool], what: str, seconds: float = 900, every_s: float = 0.25) -> None:
    for _ in range(int(seconds / every_s)):
        if condition():
            return
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {seconds} s")


def in_force(lake: Lake, asset: str) -> str | None:
    try:
        return lake.current(asset).content_hash
    except ArtifactMissing:
        return None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The lake after one update that nobody disturbed."""
    home = write_home(tmp_path_factory.mktemp("undisturbed") / "home", SETTINGS)
    done = run_rluf("update", "--home", str(home))
    assert done.returncode == 0, done.stderr
    return Lake(str(home / "lake"))


def contents_of(lake: Lake) -> dict[str, str]:
    """Content hash of each validated day and of what was made from them."""
    days = {day: lake.current("validated_replies", day).content_hash for day in lake.partitions("validated_replies")}
    return {**days, **{asset: lake.current(asset).content_hash for asset in ("signal_set", "signal_audit")}}


def test_killed_parts_of_the_ui_do_not_change_where_it_ends(tmp_path: Path, undisturbed: Lake) -> None:
    home = write_home(tmp_path / "home", SETTINGS)
    lake = Lake(str(home / "lake"))
    with started_ui(home, free_port()) as started:  # three missing days: the automation brings them in
        wait(lambda: (home / "lake" / "raw_messages").exists(), "the first day")
        for one in [*started.children(recursive=True), started]:
            one.kill()  # daemon, code server and the run in the middle of its partitions
    with started_ui(home, free_port()):
        wait(lambda: in_force(lake, "signal_set") is not None and in_force(lake, "signal_audit") is not None, "the end")
    assert contents_of(lake) == contents_of(undisturbed)


def test_a_killed_update_is_finished_by_the_next_one(tmp_path: Path, undisturbed: Lake) -> None:
    home = write_home(tmp_path / "home", SETTINGS)
    command = [sys.executable, "-m", "rluf_assets.cli", "update", "--home", str(home)]
    for point in ("raw_messages/2026-01-02", "validated_replies/2026-01-02", "signal_set"):
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait((home / "lake" / point).exists, point)
        killed.kill()
        killed.wait()
    done = run_rluf("update", "--home", str(home))
    assert done.returncode == 0, done.stderr
    assert contents_of(Lake(str(home / "lake"))) == contents_of(undisturbed)
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        left = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        ended = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert not left and ended  # the killed runs are told as failed, not as in progress for ever
