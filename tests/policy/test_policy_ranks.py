"""Two processes optimise like one: sampling, scoring, log-ratios and gradients in shares, files by the first rank alone.

With each copy of the policy whole, and under DeepSpeed ZeRO, launched as the packaged Accelerate configurations say.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from safetensors.torch import load_file

from resources.launchers.spec import JobSpec
from rluf_assets.jobs import evaluate_candidate, optimise_policy
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import read_artifact
from tests.launchers.test_ranks import launch, launch_command
from tests.policy.test_loop import CONFIG, changed
from tests.policy.test_policy_jobs import inputs, spec  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of one process's runs, by optimiser, made when first asked for."""
    return {}


@pytest.mark.parametrize(
    ("optimiser", "accelerate_config"),
    [("crraft", "ddp"), ("crraft", "zero2"), ("codpo", "zero3")],
)
def test_two_ranks_optimise_the_policy_that_one_does(
    optimiser: str,
    accelerate_config: str,
    alone: dict[str, Path],
    inputs: dict[str, Path],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Small batches, so that every rank has some in every step.
    config = changed(CONFIG, optimiser=optimiser, forward_tokens=256).model_dump(mode="json")
    if optimiser not in alone:
        alone[optimiser] = tmp_path_factory.mktemp(optimiser) / "one"
        run_job(spec("optimise_policy", alone[optimiser], config, inputs), optimise_policy.run)
    one, two = alone[optimiser], tmp_path_factory.mktemp(accelerate_config) / "two"
    done = launch(spec("optimise_policy", two, config, inputs), accelerate_config=accelerate_config)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    whole, made = (read_artifact(str(folder)) for folder in (one, two))
    assert whole is not None
    assert made is not None
    assert made.rows == whole.rows
    for folder in (one, two):
        told = (folder / "logs" / "progress.jsonl").read_text().splitlines()
        assert {"value_love", "kl_p95", "entropy", "skipped", "sampled_tokens_per_s"} <= set(json.loads(told[-1]))
        assert len(told) == len((folder / "logs" / "metrics.jsonl").read_text().splitlines()) == 2, "every rank told"
    assert {"seconds_sample", "seconds_update", "last_judge_repetition"} <= set(made.metrics)
    for phase in ("reference/sample", "000001/sample", "000002/select"):
        rows, both = (pl.read_parquet(folder / "phases" / f"{phase}.parquet") for folder in (one, two))
        assert rows["completion"].to_list() == both["completion"].to_list(), phase
    assert rows["role"].to_list() == both["role"].to_list()
    assert (rows["reward"] - both["reward"]).abs().max() < 1e-3
    weights, sharded = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert set(weights) == set(sharded)
    for name in weights:
        assert (weights[name] - sharded[name]).abs().max() < 1e-3, name


def test_two_sharded_ranks_evaluate_a_candidate_as_one_does(
    inputs: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    given = {
        **{name: folder for name, folder in inputs.items() if name != "base_policy"},
        "policy": inputs["base_policy"],
    }
    config: dict[str, object] = {"max_new_tokens": 32, "completions_per_prompt": 3}
    run_job(spec("evaluate_candidate", tmp_path / "one", config, given), evaluate_candidate.run)
    done = launch(spec("evaluate_candidate", tmp_path / "two", config, given), accelerate_config="zero3")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("completions", "scores", "spoilt"):
        one, two = (pl.read_parquet(tmp_path / run / f"{name}.parquet") for run in ("one", "two"))
        figures = [column for column, kind in one.schema.items() if kind == pl.Float64]
        assert one.drop(figures).equals(two.drop(figures)), name
        for column in figures:
            assert one[column].is_null().equals(two[column].is_null())
            assert ((one[column] - two[column]).abs().max() or 0.0) < 1e-3, (name, column)


def launched_until(job: JobSpec, appears: Path) -> None:
    """The sharded job, all its processes killed when a file is there."""
    command, environment = launch_command(job, accelerate_config="zero3")
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not appears.exists():
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # The ranks first: killed alone, the launcher would leave them at work.
    for each in (*process.children(recursive=True), process):
        each.kill()
    process.wait()


def test_a_killed_sharded_optimisation_resumes_and_wants_as_many_processes(
    inputs: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    config = changed(CONFIG, forward_tokens=256, iterations=3, checkpoint_every=2).model_dump(mode="json")
    run_job(spec("optimise_policy", tmp_path / "whole", config, inputs), optimise_policy.run)
    job = spec("optimise_policy", tmp_path / "cut", config, inputs)
    launched_until(job, tmp_path / "cut" / "phases" / "000003" / "sample.parquet")
    facts = tmp_path / "cut" / "checkpoints" / "000002" / "facts.json"
    held = json.loads(facts.read_text())
    assert (held["ranks"], len(held["rows"])) == (2, 2), "one state, of the second iteration"
    assert len(list(facts.parent.glob("*_optim_states.pt"))) == 2, "the optimiser lies in two parts"
    facts.write_text(json.dumps({**held, "ranks": 4}))
    refused = launch(job, accelerate_config="zero3")
    assert refused.returncode != 0 and "a state of 4 processes, and this run has 2" in refused.stderr
    facts.write_text(json.dumps(held))
    done = launch(job, accelerate_config="zero3")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for phase in ("reference/sample", "000001/sample", "000002/sample", "000003/select"):
        one, two = (pl.read_parquet(tmp_path / run / "phases" / f"{phase}.parquet") for run in ("whole", "cut"))
        assert one["completion"].to_list() == two["completion"].to_list(), phase
    weights, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "cut"))
    for name in weights:
        assert (weights[name] - resumed[name]).abs().max() < 1e-3, name
