"""A job under `accelerate launch`, as the cluster launchers start it: the first rank publishes, two ranks train like one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from resources.launchers.base import Request, job_command, job_environment
from resources.launchers.spec import JobSpec
from rluf_assets.lake import read_artifact
from tests.launchers.conftest import adopt_spec, ranks_of

pytestmark = pytest.mark.slow
RANKS = 2


def launch(spec: JobSpec, ranks: int = RANKS, accelerate_config: str = "ddp") -> subprocess.CompletedProcess[str]:
    """The job as a launcher starts it for that many processes, on this machine's CPU."""
    command, environment = launch_command(spec, ranks, accelerate_config)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def launch_command(
    spec: JobSpec, ranks: int = RANKS, accelerate_config: str = "ddp"
) -> tuple[list[str], dict[str, str]]:
    """What `launch` runs, and in which environment."""
    needs = spec.resources.model_copy(update={"gpus_per_node": ranks if ranks > 1 else 0, "cpus": ranks})
    request = Request((spec.model_copy(update={"resources": needs}),), accelerate_config)
    request.prepare()
    command = job_command(sys.executable, request)
    return command, {**os.environ, **job_environment(1)}


def given_job(tiny_home: Path, asset: str) -> JobSpec:
    """The tiny loop's own job, in float32: where the CPU has bfloat16, its rounding hides whether ranks see the same."""
    manifest = next((tiny_home / "lake" / asset).rglob("manifest.json"))
    spec = JobSpec.model_validate(json.loads(manifest.read_text())["spec"])
    return spec.model_copy(update={"config": {**spec.config, "dtype": "float32"}})


def figures(folder: Path) -> dict[str, float]:
    """Every figure of an evaluation and its calibration, by name."""
    found = {
        **json.loads((folder / "metrics.json").read_text()),
        **json.loads((folder / "calibration.json").read_text()),
    }
    return {name: value for name, value in found.items() if isinstance(value, float)}


@pytest.mark.parametrize(
    ("asset", "accelerate_config"),
    [("helpfulness_reward", "ddp"), ("p_love", "zero3")],
)
def test_two_ranks_train_and_evaluate_the_reward_model_that_one_does(
    asset: str, accelerate_config: str, tiny_home: Path, tmp_path: Path
) -> None:
    given = given_job(tiny_home, asset)
    alone = launch(given.model_copy(update={"output_uri": str(tmp_path / "one")}), ranks=1)
    assert alone.returncode == 0, alone.stdout[-3000:] + alone.stderr[-3000:]
    spec = given.model_copy(update={"output_uri": str(tmp_path / "two")})
    done = launch(spec, accelerate_config=accelerate_config)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    whole, made = read_artifact(str(tmp_path / "one")), read_artifact(spec.output_uri)
    assert whole is not None and made is not None and ranks_of(made) == RANKS and made.rows == whole.rows
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path / "one", tmp_path / "two"))
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-3, name
    # Calibrated and evaluated in parts as well: no rank could hold a model that needs ZeRO-3.
    assert figures(tmp_path / "two") == pytest.approx(figures(tmp_path / "one"), abs=2e-3, rel=2e-2)
    progress = (tmp_path / "two" / "logs" / "progress.jsonl").read_text().splitlines()
    assert len(progress) == len({line.partition('"done"')[2] for line in progress}), "a rank but the first reported"
    if accelerate_config == "ddp":
        assert launch(spec).returncode == 0, "what is published is taken by every rank"


def test_a_job_of_one_process_runs_once_under_many_ranks(tmp_path: Path) -> None:
    spec = adopt_spec(tmp_path)
    done = launch(spec)
    assert done.returncode == 0, done.stderr[-3000:]
    made = read_artifact(spec.output_uri)
    assert made is not None and (Path(made.path("table.json"))).read_text() == "{}"
