"""Arms that the logs name: counted as an A/B test, set against predictions as past launches; none are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.config import BacktestConfig, Metric, ReadoutConfig
from rluf_assets.evaluation.logged_arms import ArmsConfig, backtest_arms, exposures_of, launches_of, texts_of
from rluf_assets.evaluation.readout import read_out, read_readout
from rluf_assets.feedback.schemas import MESSAGE_KEY
from rluf_assets.jobs import ab_test_readout
from rluf_assets.jobs.runner import run_job

RATES = {"a": 0.1, "b": 0.3, "c": 0.4, "d": 0.5, "e": 0.6}
CONFIG = ArmsConfig(signal="love", baseline="a")
NO_ARMS = pl.lit(None, pl.String)


def replies_of(users: int = 60, seed: int = 0) -> pl.DataFrame:
    """Ten replies per user, one conversation each, arms of unequal size; a twentieth of the replies has no label."""
    rng = np.random.default_rng(seed)
    rows = []
    for place, (arm, rate) in enumerate(RATES.items()):
        for user in range(users + 7 * place):
            for turn in range(10):
                label = None if rng.random() < 0.05 else int(rng.random() < rate)
                rows.append(
                    {"message_id": f"{arm}{user}/{turn}", "conversation_id": f"{arm}{user}", "user_id": f"u-{arm}{user}",
                     "experiment_arm": arm, "use_case": f"case{user % 2}", "label_love": label}
                )  # fmt: skip
    return pl.DataFrame(rows).with_columns(created_at=pl.lit(None, pl.Datetime("us", "UTC")))


def test_exposures_count_labelled_replies_and_their_positives() -> None:
    replies = replies_of()
    exposures = exposures_of(replies.lazy(), CONFIG)
    labelled = replies.filter(pl.col("label_love").is_not_null())
    assert exposures["replies"].sum() == labelled.height
    assert exposures["love"].sum() == labelled["label_love"].sum()
    assert exposures["conversations"].sum() == replies["conversation_id"].n_unique()
    metric = Metric(name="love_share", numerator="love", denominator="replies")  # no plan: nothing is tested
    arms = {name: exposures.filter(pl.col("arm") == name) for name in RATES}
    readout = read_out(arms, ReadoutConfig(baseline="a", metrics=(metric,)))
    assert [row["verdict"] for row in readout.metrics.filter(pl.col("segment") == "all").to_dicts()] == ["better"] * 4
    assert readout.metrics["baseline"].unique().to_list() == ["a"]


@pytest.mark.parametrize("arm", [NO_ARMS, pl.lit("only")], ids=["none", "one"])
def test_logs_without_two_arms_have_neither_test_nor_launches(arm: pl.Expr) -> None:
    replies = replies_of(5).with_columns(experiment_arm=arm)
    exposures = exposures_of(replies.lazy(), CONFIG)
    assert exposures.is_empty()
    held = texts_of(replies.lazy(), holdout_of(replies), exposures)
    launches = launches_of(exposures, held, CONFIG)
    assert launches.is_empty()
    found = backtest_arms(launches, held.with_columns(live_probability=pl.lit(0.5)), BacktestConfig(), seed=0)
    assert found.policies.is_empty()
    assert found.summary["sentence"].startswith("0 arms of the logs with a known outcome: at least 4 are needed")


def test_an_unknown_baseline_is_refused_and_the_arms_are_named() -> None:
    with pytest.raises(ConfigError, match=r"baseline 'baseline': the logs have the arms a, b, c, d, e"):
        exposures_of(replies_of(5).lazy(), ArmsConfig(signal="love", baseline="baseline"))


def test_a_good_evaluator_predicts_what_the_arms_did() -> None:
    replies = replies_of()
    exposures = exposures_of(replies.lazy(), CONFIG)
    texts = texts_of(replies.lazy(), holdout_of(replies), exposures)
    assert set(texts["user_id"]) == {user for user in replies["user_id"] if user.endswith("3")}
    launches = launches_of(exposures, texts, CONFIG)
    assert launches["policy"].to_list() == ["b", "c", "d", "e"], "each against the one reference, which is no launch"
    assert launches["treatment_users"].to_list() == [7, 8, 8, 9]
    assert launches["control_users"].unique().to_list() == [6]
    labelled = replies.filter(pl.col("label_love").is_not_null())
    assert launches["left_out"].sum() == labelled.height - texts.height, "what P[signal] may have trained on"
    scored = texts.with_columns(live_probability=pl.col("policy").replace_strict(RATES))
    found = backtest_arms(launches, scored, BacktestConfig(), seed=0)
    assert found.summary["pairs_right"] == found.summary["pairs"] == 6
    assert found.summary["left_out"] == launches["left_out"].sum()
    row = found.policies.row(0, named=True)
    assert row["predicted_change"] == pytest.approx(2)
    assert 0 < row["observed_ci_low"] < row["observed_change"] < row["observed_ci_high"]


def test_what_trained_users_did_is_no_evidence() -> None:
    """Every reply of users who are not held out is loved: nothing changes but the count of what was left out."""
    replies = replies_of()
    loved = pl.when(pl.col("user_id").str.ends_with("3")).then("label_love").otherwise(pl.lit(1))
    tampered = replies.with_columns(label_love=loved)
    found = []
    for frame in (replies, tampered):
        exposures = exposures_of(frame.lazy(), CONFIG)
        texts = texts_of(frame.lazy(), holdout_of(frame), exposures)
        launches = launches_of(exposures, texts, CONFIG)
        scored = texts.with_columns(live_probability=pl.col("policy").replace_strict(RATES))
        found.append(backtest_arms(launches, scored, BacktestConfig(), seed=0))
    assert found[0].policies.equals(found[1].policies)
    assert found[0].summary["left_out"] < found[1].summary["left_out"]


def holdout_of(replies: pl.DataFrame) -> pl.LazyFrame:
    """Every tenth user held out, with some text, and the labelled replies alone."""
    held = replies.filter(pl.col("user_id").str.ends_with("3"), pl.col("label_love").is_not_null())
    columns = (*MESSAGE_KEY, "user_id")
    return held.select(
        *columns, label=pl.col("label_love") == 1, prompt=pl.lit("asked"), completion=pl.lit("said")
    ).lazy()


def test_readout_job_without_anything_to_compare_says_so(tmp_path: Path) -> None:
    arms = tmp_path / "arms"
    arms.mkdir()
    exposures_of(replies_of(3).with_columns(experiment_arm=NO_ARMS).lazy(), CONFIG).write_parquet(
        arms / "exposures.parquet"
    )
    for name, inputs in (("empty", {"logged_arms": InputArtifact(uri=str(arms), content_hash="x")}), ("none", {})):
        spec = JobSpec(
            name=name, entrypoint="rluf_assets.jobs.ab_test_readout", version="3", seed=0, inputs=inputs,
            output_uri=str(tmp_path / name), config=ReadoutConfig().model_dump(mode="json"),
        )  # fmt: skip
        run_job(spec, ab_test_readout.run, lambda message: None)
        readout = read_readout(tmp_path / name)
        assert readout.metrics.is_empty() and readout.checks.is_empty()
