"""Two processes optimise like one: sampling, scoring, log-ratios and gradients in shares, files by the first rank alone.

With each copy of the policy whole, and under DeepSpeed ZeRO, launched as the packaged Accelerate configurations say.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file

from rluf_assets.jobs import optimise_policy
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import read_artifact
from tests.launchers.test_ranks import launch
from tests.policy.test_loop import CONFIG, changed
from tests.policy.test_policy_jobs import inputs, spec  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of one process's runs, by optimiser, made when first asked for."""
    return {}


@pytest.mark.parametrize(
    ("optimiser", "accelerate_config"),
    [("crraft", "ddp"), ("codpo", "ddp"), ("crraft", "zero2"), ("crraft", "zero3"), ("codpo", "zero3")],
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
