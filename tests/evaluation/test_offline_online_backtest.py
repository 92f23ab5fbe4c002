"""The backtest: agreement with users over past launches, and what it refuses."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.evaluation.backtest import backtest, ranked_right
from rluf_assets.evaluation.config import BacktestConfig
from tests.evaluation.world import launches_of, scored_texts_of

CONFIG = BacktestConfig(resamples=300)


def test_a_good_evaluator_is_recognised() -> None:
    launches = launches_of(10, seed=0)
    found = backtest(launches, scored_texts_of(launches, 400, seed=0), CONFIG, seed=0)
    assert found.summary["pearson_r"] > 0.95
    assert found.summary["ci"][0] > 0.8
    assert found.summary["leave_one_out_r"][0] > 0.9
    assert found.summary["calibration_slope_ci"][0] < 1 < found.summary["calibration_slope_ci"][1]
    right = found.summary["pairs_right"]
    assert found.summary["sentence"] == f"On 10 past launches the evaluator ranked {right} of 45 pairs right."
    truth = pl.Series("truth", np.linspace(-0.3, 0.3, 10))
    covered = found.policies.with_columns(truth).filter(
        pl.col("truth").is_between(pl.col("predicted_ci_low"), pl.col("predicted_ci_high"))
    )
    assert len(covered) >= 8


def test_an_evaluator_that_ranks_backwards_is_recognised() -> None:
    launches = launches_of(10, seed=0)
    found = backtest(launches, scored_texts_of(launches, 400, seed=0, skill=-1.0), CONFIG, seed=0)
    assert found.summary["pearson_r"] < -0.9
    assert found.summary["pairs_right"] < 5


@pytest.mark.parametrize("policies", [1, 3])
def test_too_few_launches_say_nothing(policies: int) -> None:
    launches = launches_of(policies, seed=0)
    found = backtest(launches, scored_texts_of(launches, 50, seed=0), CONFIG, seed=0)
    assert found.summary["pearson_r"] is None
    assert found.summary["pairs"] is None
    assert "at least 4 are needed" in found.summary["sentence"]
    assert len(found.policies) == policies


def test_launches_that_do_not_vary_say_nothing() -> None:
    launches = launches_of(5, seed=0).with_columns(pl.lit(0.1).alias("observed_change"))
    found = backtest(launches, scored_texts_of(launches, 50, seed=0), CONFIG, seed=0)
    assert found.summary["pearson_r"] is None
    assert "do not vary" in found.summary["sentence"]


def test_observed_change_comes_from_counts_where_it_is_not_given() -> None:
    launches = launches_of(5, seed=0).drop("observed_change", "observed_change_ci_low", "observed_change_ci_high")
    row = backtest(launches, scored_texts_of(launches, 50, seed=0), CONFIG, seed=0).policies.row(0, named=True)
    assert row["observed_change"] == pytest.approx(-0.3, abs=0.001)
    assert row["observed_ci_low"] < -0.3 < row["observed_ci_high"]


def test_ties_are_not_right() -> None:
    assert ranked_right([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == (2, 3)


def test_missing_texts_are_named() -> None:
    launches = launches_of(5, seed=0)
    scored = scored_texts_of(launches, 50, seed=0)
    with pytest.raises(DataError, match="expected 'control' among them"):
        backtest(launches, scored.filter(pl.col("policy") != "control"), CONFIG, seed=0)
    with pytest.raises(DataError, match="expected 'past_2' among them"):
        backtest(launches, scored.filter(pl.col("policy") != "past_2"), CONFIG, seed=0)
    moved = pl.when(pl.col("policy") == "past_1").then(pl.lit("other")).otherwise(pl.col("prompt_id"))
    with pytest.raises(DataError, match="shares no prompt"):
        backtest(launches, scored.with_columns(moved.alias("prompt_id")), CONFIG, seed=0)
    with pytest.raises(DataError, match="missing or not finite"):
        backtest(launches, scored.with_columns(pl.lit(None, pl.Float64).alias("live_probability")), CONFIG, seed=0)
