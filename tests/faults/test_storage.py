"""A disk that fills and a lake that is read-only, with real processes: nothing half-written is read, the next run repairs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.jobs.runner import REFUSED
from rluf_assets.lake import Lake, read_artifact
from rluf_assets.storage import storage_errno
from tests.conftest import run_rluf
from tests.loop.test_update import LOGS_ONLY, write_home


def copy_job(tmp_path: Path) -> Path:
    """The spec of a job that copies a table of some hundred kilobytes."""
    source = tmp_path / "source"
    source.mkdir()
    pl.DataFrame({"user_id": [f"user {i * 7919}" for i in range(60_000)]}).write_parquet(
        source / "table.parquet", compression="uncompressed"
    )
    spec = JobSpec(
        name="copy", entrypoint="rluf_assets.jobs.adopt_tables", version="1", seed=0,
        output_uri=str(tmp_path / "lake" / "copy" / "_" / "0123456789abcdef"),
        config={"tables": {"table.parquet": ["user_id"]}},
        inputs={"source": InputArtifact(uri=str(source), content_hash="1")},
    )  # fmt: skip
    path = tmp_path / "spec.json"
    path.write_text(spec.model_dump_json())
    return path


@pytest.fixture
def own_mounts() -> list[str]:
    """The command that gives what follows it a namespace of its own, where anybody may mount."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a folder in a namespace of their own")
    return command


def run_job_process(path: Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "rluf_assets.jobs.adopt_tables", str(path)],
        preexec_fn=limit, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_job_out_of_room_publishes_nothing_names_the_remedy_and_is_repaired(tmp_path: Path) -> None:
    path = copy_job(tmp_path)
    out = JobSpec.model_validate_json(path.read_text()).output_uri
    full = run_job_process(path, largest_file=100_000)
    assert full.returncode == REFUSED, full.stderr
    assert "cannot be written (File too large). Raise the limit" in full.stderr
    assert read_artifact(out) is None
    assert run_job_process(path).returncode == 0
    artifact = read_artifact(out)
    assert artifact is not None
    assert pl.read_parquet(artifact.path("table.parquet")).height == 60_000


def test_a_full_disk_is_named_and_the_next_run_repairs(own_mounts: list[str], tmp_path: Path) -> None:
    path = copy_job(tmp_path)
    lake = tmp_path / "lake"
    lake.mkdir()
    # The lake on a disk of 300 kB; what it holds at the end is copied out before the disk goes with its namespace.
    mounts = 'mount -t tmpfs -o size=300k none "$1" || exit 99; "$3" -m "$4" "$5"; rc=$?; cp -r "$1" "$2"; exit $rc'
    job = [sys.executable, "rluf_assets.jobs.adopt_tables", str(path)]
    full = subprocess.run(
        [*own_mounts, "sh", "-c", mounts, "sh", str(lake), str(tmp_path / "seen"), *job],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == REFUSED, full.stderr
    assert "cannot be written (No space left on device)" in full.stderr
    out = JobSpec.model_validate_json(path.read_text()).output_uri
    left = tmp_path / "seen" / Path(out).relative_to(lake)
    assert left.parent.exists() and read_artifact(str(left)) is None
    shutil.rmtree(lake)
    shutil.copytree(tmp_path / "seen", lake)  # room was made; what the full disk held is still there
    assert run_job_process(path).returncode == 0
    artifact = read_artifact(out)
    assert artifact is not None
    assert pl.read_parquet(artifact.path("table.parquet")).height == 60_000


def test_a_small_file_on_a_full_disk_is_the_old_one_or_the_new_one(own_mounts: list[str], tmp_path: Path) -> None:
    """Also where the lake is on another disk than temporary files."""
    lake = tmp_path / "lake"
    lake.mkdir()
    write = """
import sys
from rluf_assets.lake import read_json, write_json
write_json(sys.argv[1] + "/current.json", "old")
open(sys.argv[1] + "/filler", "wb").write(bytes(50_000))
try:
    write_json(sys.argv[1] + "/current.json", "new " * 10_000)
except OSError as error:
    print(error.strerror, read_json(sys.argv[1] + "/current.json"))
"""
    mounts = 'mount -t tmpfs -o size=64k none "$1" || exit 99; shift; exec "$@"'
    told = subprocess.run(
        [*own_mounts, "sh", "-c", mounts, "sh", str(lake), sys.executable, "-c", write, str(lake)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.stdout == "No space left on device old\n", told.stdout + told.stderr


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)"),
     pl.exceptions.ComputeError("Read-only file system"), ValueError("database or disk is full")],
)  # fmt: skip
def test_storage_is_told_by_whatever_raises_it(error: Exception) -> None:
    assert storage_errno(error) is not None
    outer = KeyError("other")
    outer.__cause__ = error
    assert storage_errno(outer) == storage_errno(error)
    assert storage_errno(KeyError("No such thing")) is None


@pytest.mark.slow
def test_a_read_only_lake_is_named_changes_nothing_and_is_repaired(own_mounts: list[str], tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", LOGS_ONLY)
    for day in ("2026-01-01", "2026-01-02"):  # too few for a signal set
        assert "nothing is left to train on" in run_rluf("update", "--home", str(home), "--day", day).stderr
    lake = Lake(str(home / "lake"))
    before = {day: lake.current("validated_replies", day).content_hash for day in lake.partitions("validated_replies")}
    mounts = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" "$1" && shift && exec "$@"'
    command = [sys.executable, "-m", "rluf_assets.cli", "update", "--home", str(home), "--day", "2026-01-03"]
    blocked = subprocess.run(
        [*own_mounts, "sh", "-c", mounts, "sh", lake.root, *command],
        env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert blocked.returncode == 1, blocked.stdout
    assert "cannot be written (Read-only file system). Mount it for writing" in blocked.stderr
    assert {day: lake.current("validated_replies", day).content_hash for day in before} == before
    repaired = run_rluf("update", "--home", str(home), "--day", "2026-01-03")
    assert repaired.returncode == 0, repaired.stderr
    assert json.loads(Path(lake.current("signal_set").path("rates.json")).read_text())["signal"] == "copy"
