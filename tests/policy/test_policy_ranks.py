"""Two processes optimise like one: sampling, scoring, log-ratios and gradients in shares, files by the first rank alone."""

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


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["crraft", "codpo"])
def test_two_ranks_optimise_the_policy_that_one_does(
    optimiser: str,
    inputs: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    # Small batches, so that every rank has some in every step.
    config = changed(CONFIG, optimiser=optimiser, forward_tokens=256).model_dump(mode="json")
    whole, _ = run_job(spec("optimise_policy", tmp_path / "one", config, inputs), optimise_policy.run)
    told = json.loads((tmp_path / "one" / "logs" / "progress.jsonl").read_text().splitlines()[-1])
    assert {"value_love", "kl_p95", "entropy", "skipped", "sampled_tokens_per_s"} <= set(told)
    assert {"seconds_sample", "seconds_update", "last_judge_repetition"} <= set(whole.metrics)
    done = launch(spec("optimise_policy", tmp_path / "two", config, inputs))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made = read_artifact(str(tmp_path / "two"))
    assert made is not None and made.rows == whole.rows
    for phase in ("phases/reference/sample", "phases/000001/sample", "phases/000002/select"):
        one, two = (pl.read_parquet(tmp_path / run / f"{phase}.parquet") for run in ("one", "two"))
        assert one["completion"].to_list() == two["completion"].to_list(), phase
    assert one["role"].to_list() == two["role"].to_list()
    assert (one["reward"] - two["reward"]).abs().max() < 1e-3
    weights, both = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name in weights:
        assert (weights[name] - both[name]).abs().max() < 1e-3, name
    rows = [len((tmp_path / run / "logs" / "metrics.jsonl").read_text().splitlines()) for run in ("one", "two")]
    assert rows == [2, 2], "a rank but the first wrote a record"
