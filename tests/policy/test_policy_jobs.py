"""The three jobs through the runner, as the graph calls them; a killed optimisation resumes in a new process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.distributed import pass_dtype
from rluf_assets.errors import ArtifactMissing, ConfigError, DataError
from rluf_assets.jobs import evaluate_candidate, optimise_policy, train_base_policy
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Artifact, content_hash, read_artifact
from rluf_assets.policy.judges import JUDGES
from rluf_assets.rewards.scoring import RewardModel
from tests.policy.conftest import TINY
from tests.policy.test_loop import CONFIG, changed


def spec(job: str, out: Path, config: dict[str, object], inputs: dict[str, Path]) -> JobSpec:
    return JobSpec(
        name=job,
        entrypoint=f"rluf_assets.jobs.{job}",
        version="1",
        seed=0,
        output_uri=str(out),
        config=config,
        inputs={name: InputArtifact(uri=str(folder), content_hash="0") for name, folder in inputs.items()},
    )


@pytest.fixture
def inputs(base: Path, prompts_file: Path, reward_folders: dict[str, Path]) -> dict[str, Path]:
    return {
        "base_policy": base,
        "evaluation_prompts": prompts_file.parent,
        **{f"rewards/{objective}": folder for objective, folder in reward_folders.items()},
    }


def run(job, out: Path, config: dict[str, object], inputs: dict[str, Path]) -> Artifact:
    artifact, _ = run_job(spec(job.__name__.rsplit(".", 1)[1], out, config, inputs), job.run)
    return artifact


def test_base_policy_job(logs: list[Path], base: Path, tmp_path: Path) -> None:
    days = {f"validated_replies/{day.name}": day for day in logs}
    artifact = run(train_base_policy, tmp_path / "out", TINY.model_dump(mode="json"), days)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert artifact.rows["days"] == 2
    assert (
        json.loads((tmp_path / "out" / "metrics.json").read_text())["heldout_loss"] == artifact.metrics["heldout_loss"]
    )
    assert artifact.metrics["heldout_loss"] < 1.5


def test_optimise_job_publishes_policy_and_record(inputs: dict[str, Path], tmp_path: Path) -> None:
    artifact = run(optimise_policy, tmp_path / "out", CONFIG.model_dump(mode="json"), inputs)
    assert artifact.rows == {"iterations": 2}
    assert {"last_reward", "last_kl_mean", "last_judge_repetition"} <= set(artifact.metrics)
    files = {file.name for file in (tmp_path / "out").iterdir() if file.is_file()}
    assert {"model.safetensors", "tokenizer.json", "iterations.parquet", "objectives.json"} <= files
    progress = (tmp_path / "out" / "logs" / "progress.jsonl").read_text().splitlines()
    assert json.loads(progress[-1])["done"] == json.loads(progress[-1])["total"] == 2


def test_optimise_job_scores_in_the_dtype_of_its_passes(
    inputs: dict[str, Path], scorers: dict[str, RewardModel], tmp_path: Path
) -> None:
    config = changed(CONFIG, dtype="bfloat16", iterations=1)
    run(optimise_policy, tmp_path / "out", config.model_dump(mode="json"), inputs)
    phase = tmp_path / "out" / "phases" / "reference"
    sample, scores = pl.read_parquet(phase / "sample.parquet"), pl.read_parquet(phase / "raw_scores.parquet")
    exact = scorers["love"].score(sample["prompt"].to_list(), sample["completion"].to_list())["logit"]
    off = (scores["logit_love"] - exact).abs()
    assert off.max() < 0.05 * (exact.max() - exact.min())
    assert (off.max() > 1e-4) == (pass_dtype("bfloat16") == "bfloat16")


def test_optimise_job_checks_names_before_it_loads_anything(inputs: dict[str, Path], tmp_path: Path) -> None:
    gone = {**inputs, "base_policy": tmp_path / "nowhere"}
    config = changed(CONFIG, weights={"lvoe": 1.0}).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"\['lvoe'\]; there is one for \['helpfulness', 'love'\]"):
        run(optimise_policy, tmp_path / "out", config, gone)


def test_evaluation_job(inputs: dict[str, Path], base: Path, tmp_path: Path) -> None:
    given = {"policy": base, **{name: folder for name, folder in inputs.items() if name != "base_policy"}}
    artifact = run(evaluate_candidate, tmp_path / "out", {"max_new_tokens": 32, "completions_per_prompt": 3}, given)
    completions = pl.read_parquet(tmp_path / "out" / "completions.parquet")
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    assert artifact.rows == {"completions": 60, "scores": 120}
    assert completions.group_by("prompt_id").len()["len"].to_list() == [3] * 20
    assert set(completions["prompt_id"].str.split("-").list.first()) == {"evaluation"}
    assert {f"judge_{name}" for name in JUDGES} <= set(completions.columns)
    assert not completions.filter(~pl.col("finished"))["judge_unfinished"].any()
    assert scores.columns == [
        "prompt_id", "completion_id", "use_case", "weight", "objective", "logit", "probability", "live_probability",
        "member_live_probability", "disagreement",
    ]  # fmt: skip
    spoilt = pl.read_parquet(tmp_path / "out" / "spoilt.parquet")
    assert set(spoilt["kind"]) == {"shuffled", "truncated"} and spoilt["live_probability"].null_count() == 0
    assert (scores["live_probability"] < scores["probability"]).all()
    joined = scores.join(completions, on=["prompt_id", "completion_id"], how="anti")
    assert joined.is_empty()
    again = run(evaluate_candidate, tmp_path / "again", {"max_new_tokens": 32, "completions_per_prompt": 3}, given)
    assert again.content_hash == artifact.content_hash


def test_evaluation_job_needs_rewards_and_prompts(inputs: dict[str, Path], base: Path, tmp_path: Path) -> None:
    given = {"policy": base, "evaluation_prompts": inputs["evaluation_prompts"]}
    with pytest.raises(ArtifactMissing, match="rewards/<objective>"):
        run(evaluate_candidate, tmp_path / "a", {}, given)
    pl.read_parquet(inputs["evaluation_prompts"] / "prompts.parquet").clear().write_parquet(
        tmp_path / "prompts.parquet"
    )
    with pytest.raises(DataError, match="no prompts of split 'evaluation'"):
        run(evaluate_candidate, tmp_path / "b", {}, {**inputs, "policy": base, "evaluation_prompts": tmp_path})


def start(spec_file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rluf_assets.jobs.optimise_policy", str(spec_file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_when(process: subprocess.Popen[bytes], appears: Path) -> None:
    deadline = time.monotonic() + 120
    while not appears.exists():
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def files_of(inputs: dict[str, Path], folder: Path, marks: list[str]) -> dict[str, str]:
    """SHA-256 by file of a job, each run a process of its own, that was killed when each of `marks` appeared."""
    out = folder / "out"
    folder.mkdir()
    file = folder / "spec.json"
    file.write_text(spec("optimise_policy", out, CONFIG.model_dump(mode="json"), inputs).model_dump_json())
    for mark in marks:
        kill_when(start(file), out / mark)
        assert read_artifact(str(out)) is None
    assert start(file).wait() == 0
    files = [path for path in sorted(out.rglob("*.*")) if path.suffix in (".parquet", ".safetensors", ".json")]
    assert content_hash(str(out))
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "manifest.json"
    }


@pytest.mark.slow
def test_sigkill_in_every_phase(inputs: dict[str, Path], tmp_path: Path) -> None:
    # Both as processes of their own, as jobs are: what earlier tests left in this one (threads, say) has no part in it.
    whole = files_of(inputs, tmp_path / "whole", [])
    marks = [
        "logs",  # the policy is being loaded
        *(f"phases/reference/{phase}.parquet" for phase in ("sample", "raw_scores")),
        *(f"phases/000001/{phase}.parquet" for phase in ("sample", "score", "judge", "select")),
        "checkpoints/000001.safetensors",
        "checkpoints/000002.safetensors",  # the last state is there, the policy is not
    ]
    assert files_of(inputs, tmp_path / "killed", marks) == whole
