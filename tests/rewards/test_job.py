"""The job end to end: artifacts, metrics keys, report, idempotence; and the file functions behind the CLI."""

from __future__ import annotations

import json

import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.jobs.runner import run_job
from rluf_assets.jobs.train_reward import run
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.files import score_files, train_reward_files
from rluf_assets.rewards.holdout import sample_negatives
from rluf_assets.rewards.set_aside import ROW
from tests.rewards.conftest import labelled_frame, pair_frame, small_config

CONFIG = small_config(epochs=2).model_dump(mode="json") | {"evaluation": {"negatives": 200, "bootstrap_resamples": 50}}


def spec_for(base, inputs, out, **config):
    artifacts = {
        name: InputArtifact(uri=str(path), content_hash=name) for name, path in {"base": base, **inputs}.items()
    }
    return JobSpec(
        name="reward", entrypoint="rluf_assets.jobs.train_reward", version="1", seed=3,
        output_uri=str(out), config={**CONFIG, **config}, inputs=artifacts,
    )  # fmt: skip


@pytest.fixture(scope="module")
def signal_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signal_set")
    labelled_frame(600).write_parquet(folder / "train.parquet")
    labelled_frame(900, seed=4).write_parquet(folder / "holdout.parquet")
    (folder / "rates.json").write_text(json.dumps({"signal": "love", "q_pos": 1.0, "q_neg": 1.0, "base_rate": 0.3}))
    return folder


def test_signal_job_publishes_a_model_with_its_evaluation(base, signal_set, tmp_path):
    artifact, _ = run_job(spec_for(base, {"signal_set": signal_set}, tmp_path / "a"), run)
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    for name in ("auroc", "observed_over_expected", "calibration_slope", "length_correlation", "auroc_length_only"):
        low, high = metrics[f"{name}_ci"]
        assert low <= metrics[name] <= high, name
    assert metrics["auroc"] > 0.7
    assert {entry["by"] for entry in metrics["slices"]} >= {"use_case", "turn_index"}
    scores = pl.read_parquet(tmp_path / "a" / "holdout_scores.parquet")
    assert {"message_id", "label", "weight", "logit", "probability", "live_probability", "user_id", "use_case",
            "turn_index", "completion_length"} <= set(scores.columns)  # fmt: skip
    # Sampled negatives stand for all: weights add up to the holdout.
    assert scores["weight"].sum() == pytest.approx(900)
    assert artifact.metrics["auroc"] == metrics["auroc"]
    report = (tmp_path / "a" / "report.html").read_text()
    assert "The model ranks a reacted reply above another" in report
    assert "http://" not in report.split("</script>")[-1]
    again, _ = run_job(spec_for(base, {"signal_set": signal_set}, tmp_path / "b"), run)
    assert again.content_hash == artifact.content_hash


def test_pair_job_publishes_a_model_with_its_evaluation(base, tmp_path):
    pair_frame(400).write_parquet(tmp_path / "train.parquet")
    pair_frame(150, seed=5).write_parquet(tmp_path / "eval.parquet")
    spec = spec_for(base, {"preference_pairs": tmp_path}, tmp_path / "out", objective="bradley_terry")
    artifact, _ = run_job(spec, run)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["pair_accuracy_ci"][0] > 0.7
    assert artifact.metrics["pair_accuracy"] == metrics["pair_accuracy"]
    scores = pl.read_parquet(tmp_path / "out" / "eval_scores.parquet")
    assert {"pair_id", "chosen_logit", "rejected_logit", "use_case"} <= set(scores.columns)
    assert (scores["chosen_logit"] > scores["rejected_logit"]).mean() == pytest.approx(
        metrics["pair_accuracy"], abs=0.01
    )


def test_a_missing_input_is_named(base, tmp_path):
    with pytest.raises(ConfigError, match="reads input 'signal_set'"):
        run_job(spec_for(base, {}, tmp_path / "out"), run)


def test_files_in_files_out(base, tmp_path):
    labelled_frame(400).write_ndjson(tmp_path / "train.jsonl")
    labelled_frame(300, seed=2).write_parquet(tmp_path / "eval.parquet")
    sentence = train_reward_files(
        "love", tmp_path / "train.jsonl", tmp_path / "eval.parquet", base, tmp_path / "model", config=CONFIG
    )
    assert "length alone" in sentence
    assert not (tmp_path / "model.partial").exists()
    assert json.loads((tmp_path / "model" / "calibration.json").read_text())["signal"] == "love"

    to_score = labelled_frame(20, seed=8).select("message_id", "prompt", "completion").reverse()
    to_score.write_ndjson(tmp_path / "in.jsonl")
    assert score_files(tmp_path / "model", tmp_path / "in.jsonl", tmp_path / "out.jsonl")[0] == 20
    scored = pl.read_ndjson(tmp_path / "out.jsonl")
    assert scored.columns == [*to_score.columns, "score", "probability", "live_probability"]
    assert scored["message_id"].to_list() == to_score["message_id"].to_list()
    with pytest.raises(ConfigError, match="exists already"):
        train_reward_files("love", tmp_path / "train.jsonl", tmp_path / "eval.parquet", base, tmp_path / "model")
    with pytest.raises(DataError, match="already"):
        score_files(tmp_path / "model", tmp_path / "out.jsonl", tmp_path / "twice.jsonl")
    with pytest.raises(ConfigError, match=r"\.parquet or \.jsonl"):
        score_files(tmp_path / "model", tmp_path / "in.jsonl", tmp_path / "out.csv")


def test_files_with_inclusion_probabilities_give_the_shift(base, tmp_path):
    frame = labelled_frame(300).with_columns(inclusion_probability=pl.when("label").then(1.0).otherwise(0.05))
    frame.write_parquet(tmp_path / "train.parquet")
    train_reward_files(
        "love", tmp_path / "train.parquet", tmp_path / "train.parquet", base, tmp_path / "m", config=CONFIG
    )
    assert json.loads((tmp_path / "m" / "calibration.json").read_text())["shift"] == pytest.approx(2.9957, abs=1e-3)


def test_files_of_neither_kind_are_named(base, tmp_path):
    pl.DataFrame({"prompt": ["a"], "text": ["b"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="expected the columns"):
        train_reward_files("love", tmp_path / "x.parquet", tmp_path / "x.parquet", base, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_settings_and_held_out_rows_that_cannot_be_used_are_named_before_training(base, tmp_path):
    labelled_frame(300).write_parquet(tmp_path / "train.parquet")
    labelled_frame(50).with_columns(label=False).write_parquet(tmp_path / "eval.parquet")
    paths = tmp_path / "train.parquet", tmp_path / "eval.parquet", base, tmp_path / "m"
    with pytest.raises(DataError, match="holdout: all 50 labels are 0"):
        train_reward_files("love", *paths, config=CONFIG)
    with pytest.raises(ConfigError, match=r"epoch: Extra inputs.*epochs"):
        train_reward_files("love", *paths, config={"epoch": 3})
    for change, message in (
        ({"completion": pl.lit("word " * 300)}, "holdout: .* 50 of 50 rows: too_long"),
        ({"completion": pl.lit(3)}, "holdout: column completion is Int32, expected text"),
        ({"prompt": pl.col("prompt").list.head(0)}, "holdout: .*the prompt is empty"),
    ):
        labelled_frame(50).with_columns(**change).write_parquet(tmp_path / "eval.parquet")
        with pytest.raises(DataError, match=message):
            train_reward_files("love", *paths, config=CONFIG)
    assert not list(tmp_path.glob("m*"))


def test_only_the_sampled_rows_of_a_holdout_are_read(tmp_path):
    frame = labelled_frame(500).with_columns(sample_weight=pl.lit(2.0))
    frame.write_parquet(tmp_path / "holdout.parquet", row_group_size=60)
    config = RewardConfig.model_validate({"evaluation": {"negatives": 100}})
    total, sample, unlabelled = sample_negatives(pl.scan_parquet(tmp_path / "holdout.parquet"), config, seed=1)
    positives, negatives = frame.filter("label"), frame.filter(~pl.col("label"))
    assert (total, len(unlabelled)) == (500, 0)
    assert sample[ROW].to_list() == [i for i, m in enumerate(frame["message_id"]) if m in set(sample["message_id"])]
    sample = sample.drop(ROW)
    assert sample.filter("label").equals(positives)
    drawn = sample.filter(~pl.col("label"))
    assert len(drawn) == 100
    assert set(drawn["message_id"]) < set(negatives["message_id"])
    assert drawn["sample_weight"].sum() == pytest.approx(2 * len(negatives))
    assert sample["message_id"].to_list() == [m for m in frame["message_id"] if m in set(sample["message_id"])]
