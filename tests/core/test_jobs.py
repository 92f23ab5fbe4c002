"""Jobs and the local launcher: real subprocesses, real kills, one artifact per fingerprint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from resources.launchers.local import LocalLauncher
from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import ConfigError, JobFailed, MissingExtra
from rluf_assets.jobs.runner import Job, run_job
from rluf_assets.lake import Produced, read_artifact


def spec(out: Path, entrypoint: str = "rluf_assets.jobs.adopt_tables", **changes: object) -> JobSpec:
    given = {"name": "test", "entrypoint": entrypoint, "version": "1", "seed": 0, "output_uri": str(out / "artifact")}
    return JobSpec.model_validate({**given, **changes})


def write_number(job: Job) -> Produced:
    (job.out / "number.txt").write_text(str(job.seed))
    return Produced(rows={"numbers": 1})


def test_fingerprint_ignores_place_and_resources_but_not_inputs(tmp_path: Path) -> None:
    here = spec(tmp_path, inputs={"a": InputArtifact(uri="/here", content_hash="1")})
    there = spec(
        tmp_path / "other",
        inputs={"a": InputArtifact(uri="/there", content_hash="1")},
        resources={"nodes": 4, "gpus_per_node": 8},
        env={"X": "1"},
    )
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != spec(tmp_path, inputs={"a": InputArtifact(uri="/here", content_hash="2")}).fingerprint


@pytest.mark.parametrize("entrypoint", ["os.system", "rluf_assets.jobs.x; rm -rf /", "rluf_assets.jobs."])
def test_entrypoint_must_be_a_job(tmp_path: Path, entrypoint: str) -> None:
    with pytest.raises(ValidationError, match="expected a module under"):
        spec(tmp_path, entrypoint)


def test_second_run_reuses_the_artifact(tmp_path: Path) -> None:
    first, reused_first = run_job(spec(tmp_path), write_number)
    second, reused_second = run_job(spec(tmp_path), write_number)
    assert (reused_first, reused_second) == (False, True)
    assert first.content_hash == second.content_hash


def test_leftovers_of_a_killed_attempt_do_not_reach_the_artifact(tmp_path: Path) -> None:
    clean, _ = run_job(spec(tmp_path / "clean"), write_number)
    dirty = tmp_path / "dirty" / "artifact"
    (dirty / "half").mkdir(parents=True)
    (dirty / "half" / "x").write_text("x")
    (dirty / "stray.txt").write_text("stray")
    again, _ = run_job(spec(tmp_path / "dirty"), write_number)
    assert again.content_hash == clean.content_hash
    assert not (dirty / "stray.txt").exists()


def test_missing_package_names_its_extra(tmp_path: Path) -> None:
    def needs_deepspeed(job: Job) -> Produced:
        raise ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed.ops")

    with pytest.raises(MissingExtra, match=r"pip install 'rluf\[deepspeed\]'"):
        run_job(spec(tmp_path), needs_deepspeed)
    assert read_artifact(str(tmp_path / "artifact")) is None


def test_launcher_runs_a_job_as_subprocess_and_shows_its_last_words(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "table.json").write_text("{}")
    launcher = LocalLauncher()
    good = spec(
        tmp_path,
        config={"tables": {"table.json": []}},
        inputs={"source": InputArtifact(uri=str(source), content_hash="1")},
    )
    result = launcher.run(None, good)
    assert json.loads((tmp_path / "artifact" / "table.json").read_text()) == {}
    assert not result.reused
    assert launcher.run(None, good).reused
    bad = good.model_copy(update={"config": {"tables": {"absent.json": []}}, "output_uri": str(tmp_path / "bad")})
    with pytest.raises(JobFailed, match=r"absent\.json"):
        launcher.run(None, bad)
    assert "rluf_assets.jobs.adopt_tables" in launcher.render(good)
    elsewhere = bad.model_copy(update={"output_uri": str(tmp_path / "elsewhere")})
    with pytest.raises(ConfigError, match=r"its interpreter /nowhere/python cannot be started \(No such file"):
        LocalLauncher(python="/nowhere/python").run(None, elsewhere)


SLOW_JOB = """
import sys, time
from pathlib import Path
from resources.launchers.spec import JobSpec
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Produced

def stage(job):
    with (job.out.parent / "ran").open("a") as stream:
        stream.write("x")
    (job.out / "half.txt").write_text("half")
    time.sleep(float(sys.argv[2]))
    (job.out / "half.txt").write_text("whole")
    return Produced()

print(run_job(JobSpec.model_validate_json(Path(sys.argv[1]).read_text()), stage)[1])
"""


def start(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    path = tmp_path / "spec.json"
    path.write_text(spec(tmp_path).model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_JOB, str(path), str(seconds)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


def wait_for(path: Path) -> None:
    for _ in range(400):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_killed_job_leaves_no_artifact_and_a_rerun_makes_it_whole(tmp_path: Path) -> None:
    victim = start(tmp_path, 60)
    wait_for(tmp_path / "artifact" / "half.txt")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert read_artifact(str(tmp_path / "artifact")) is None
    assert start(tmp_path, 0).communicate(timeout=60)[0].strip() == "False"
    assert (tmp_path / "artifact" / "half.txt").read_text() == "whole"


def test_two_processes_asked_for_one_fingerprint_share_one_job(tmp_path: Path) -> None:
    both = [start(tmp_path, 1.5), start(tmp_path, 1.5)]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["False", "True"]
    assert (tmp_path / "ran").read_text() == "x"


SUMS = """
import sys
from pathlib import Path
import numpy as np
import torch
from resources.launchers.spec import JobSpec
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Produced

def stage(job):
    values = np.random.default_rng(0).standard_normal((500, 700)).astype(np.float32)
    one = torch.from_numpy(values)
    (job.out / "sums.bin").write_bytes((values @ values.T).tobytes() + (one @ one.T).sum(0).numpy().tobytes())
    (job.out / "threads.txt").write_text(str(torch.get_num_threads()))
    return Produced(rows={"sums": 1})

before = torch.get_num_threads()
spec = JobSpec(name="sums", entrypoint="rluf_assets.jobs.ingest", version="1", seed=0, output_uri=sys.argv[1])
print(run_job(spec, stage)[0].content_hash)
assert torch.get_num_threads() == before
"""


def test_the_same_bytes_with_however_many_threads(tmp_path: Path) -> None:
    hashes = set()
    for threads in ("1", "2", "5"):
        done = subprocess.run(
            [sys.executable, "-c", SUMS, str(tmp_path / threads)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert (tmp_path / threads / "threads.txt").read_text() == "1"
        hashes.add(done.stdout.split()[-1])
    assert len(hashes) == 1


def test_progress_tells_how_long_the_rest_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rluf_assets.jobs.runner.time.monotonic", lambda: now[0])
    said: list[str] = []
    job = Job(spec(tmp_path), tmp_path, said.append)
    for second, (done, total) in [(0, (40, 100)), (10, (50, 100)), (600, (0, 3)), (7800, (1, 3)), (7801, (3, 3))]:
        now[0] = second
        job.progress(done, total, f"step {done}")
    lines = (tmp_path / "logs" / "progress.jsonl").read_text().splitlines()
    # It went on at 40: the other 10 took 10 s. Another total is counted by its own pace.
    assert [json.loads(line)["left_s"] for line in lines] == [None, 50, None, 14400, 0]
    assert "50/100 step 50 (50 s left)" in said[0] and "(4 h left)" in said[2] and "left" not in said[3]
