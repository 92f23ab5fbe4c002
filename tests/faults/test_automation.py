"""Parts of `rluf ui` killed while a new day goes through its automation: the code server, a retrain, a publish.

Each time nothing half-written is read, the run is made again by itself, and all ends where an undisturbed update ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from rluf_assets.alive import GONE
from rluf_assets.lake import Lake, read_artifact
from tests.conftest import run_rluf
from tests.faults.test_daemon import wait
from tests.loop.test_update import write_home
from tests.ui.server import free_port, started_ui

pytestmark = pytest.mark.slow
DAYS, NEW_DAY = 4, "2026-01-05"
SETTINGS = {
    "profile": "tiny",
    "production": {
        "kind": "simulated",
        "days": DAYS,
        "logs": {"replies_per_day": 1500, "helpfulness_pairs": 20, "safety_pairs": 20},
        "launches": {"users_per_arm": 200, "contexts": 50},
    },
    "signal_set": {"signal": "copy", "holdout_days": 2},
    "base_policy": {"steps": 30},
    "p_love": {"objective": "bce", "batch_tokens": 1024, "checkpoint_steps": 4, "log_steps": 1},
}
MADE = ("raw_messages", "raw_reactions", "validated_replies", "signal_audit", "signal_set", "p_love")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two copies of a home with P[signal] in force, in whose logs one more day has come; the first one is updated."""
    prepared = write_home(tmp_path_factory.mktemp("prepared") / "home", SETTINGS)
    must_run("update", "--home", str(prepared))
    select = ["asset", "materialize", "--select", "base_policy", "-m", "rluf_assets.definitions"]
    environment = {**os.environ, "RLUF_HOME": str(prepared), "DAGSTER_HOME": str(prepared / "dagster")}
    subprocess.run([sys.executable, "-m", "dagster", *select], env=environment, capture_output=True, check=True)
    must_run("update", "--home", str(prepared))
    production = {**SETTINGS["production"], "days": DAYS + 1}  # type: ignore[dict-item]
    (prepared / "rluf.yaml").write_text(yaml.safe_dump({**SETTINGS, "production": production}))
    undisturbed, disturbed = (Path(shutil.copytree(prepared, prepared.parent / name)) for name in ("one", "other"))
    must_run("update", "--home", str(undisturbed), "--day", NEW_DAY)
    return undisturbed, disturbed


def must_run(*arguments: str) -> None:
    done = run_rluf(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def published(home: Path) -> dict[str, str]:
    """Content hash of every artifact of the assets that a new day makes, by its folder: refused models as well."""
    lake = home / "lake"
    found = {
        str(path.relative_to(lake)): read_artifact(str(path)) for asset in MADE for path in lake.glob(f"{asset}/*/*/")
    }
    return {place: artifact.content_hash for place, artifact in found.items() if artifact}


def in_force(home: Path) -> dict[str, str]:
    """Content hash of what readers are given."""
    lake = Lake(str(home / "lake"))
    places = [(asset, part) for asset in MADE for part in lake.partitions(asset)]
    return {f"{a}/{p}": lake.current(a, None if p == "_" else p).content_hash for a, p in places}


def unpublished(place: Path, *parts: str) -> bool:
    """Whether some folder of an asset holds these files or folders and is no artifact yet."""
    folders = [folder for folder in place.glob("*/") if all(any(folder.glob(part)) for part in parts)]
    return any(not (folder / "manifest.json").exists() for folder in folders)


SERVER, RUN = ("dagster code-server", "dagster api grpc"), ("spawn_main", "rluf_assets.jobs")


def kill(started: psutil.Popen, words: Iterable[str], place: Path, *parts: str) -> None:
    """SIGKILL what has one of `words` in its command line once `place` holds an unfinished folder with `parts`."""
    wait(lambda: unpublished(place, *parts), f"work on {place}: {parts}", every_s=0.01)
    found = family(started, words)
    for one in found:  # first none may move, so that nothing is finished or reported between two kills
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGSTOP)
    assert found and unpublished(place, *parts), f"{place}: was finished before the kill came"
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def family(started: psutil.Popen, words: Iterable[str]) -> set[psutil.Process]:
    found = set()
    for one in started.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = " ".join(one.cmdline())
            if any(word in command for word in words) and "webserver" not in command and "_daemon" not in command:
                found.add(one)
    return found


def test_a_new_day_survives_kills_at_every_stage(homes: tuple[Path, Path]) -> None:
    undisturbed, home = homes
    lake, before = home / "lake", in_force(home)
    with started_ui(home, free_port()) as started:
        kill(started, SERVER, lake / "production_store" / "_")  # the run, bringing the day in, outlives its server
        kill(started, (*SERVER, *RUN), lake / "signal_set" / "_")  # nobody is left who could tell
        assert in_force(home)["signal_set/_"] == before["signal_set/_"]
        kill(started, RUN, lake / "p_love" / "_", "checkpoints/*/whole")  # in its warm-started retrain
        kill(started, RUN, lake / "p_love" / "_", "model.safetensors")  # in the publish of what it made
        assert in_force(home)["p_love/_"] == before["p_love/_"]
        wait(lambda: set(published(home)) >= set(published(undisturbed)), "the end")
        wait(lambda: in_force(home) == in_force(undisturbed), "what the update put in force")
        wait(lambda: not runs(home, *UNDER_WAY), "the end of the last run")
    assert published(home) == published(undisturbed)

    steps = [line["done"] for line in last_progress(home) if line["message"] == "training"]
    assert steps.count(1) == 1 and max(steps) > 1  # it went on from its checkpoints
    failed = runs(home, dg.DagsterRunStatus.FAILURE)
    assert len(failed) == 3 and all("dagster/auto_retry_run_id" in run.tags for run, _ in failed)
    assert any(GONE in message for _, told in failed for message in told)


UNDER_WAY = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


def runs(home: Path, *statuses: dg.DagsterRunStatus) -> list[tuple[dg.DagsterRun, list[str]]]:
    """Runs of these statuses, each with what its events tell."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        found = instance.get_runs(dg.RunsFilter(statuses=list(statuses)))
        return [(run, [event.message for event in instance.all_logs(run.run_id)]) for run in found]


def last_progress(home: Path) -> list[dict[str, Any]]:
    """What the training of the newest model told about its steps."""
    files = (home / "lake" / "p_love" / "_").glob("*/logs/progress.jsonl")
    newest = max(files, key=lambda file: file.stat().st_mtime)
    return [json.loads(line) for line in newest.read_text().splitlines()]
