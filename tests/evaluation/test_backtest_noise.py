"""The backtest under noise, and what may be claimed: planted slopes, extrapolations and failures of transport are found."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.backtest import live_slice, past_launches
from rluf_assets.evaluation.backtest import widened
from rluf_assets.evaluation.calibration_slope import Launches, calibration_slope, naive_slope
from rluf_assets.evaluation.claims import (
    CLAIM_GATES,
    Claim,
    backtest_sentences,
    claim_of,
    range_gate,
    slope_gate,
    transport_gate,
)
from rluf_assets.evaluation.config import BacktestConfig, ReleaseConfig
from rluf_assets.evaluation.decision import RANK, Gate, Kind, Result
from rluf_assets.evaluation.stats import pearson
from rluf_assets.evaluation.transport import TRANSPORT, LiveSlice, transport_row

CONFIG = ReleaseConfig()
BACKTEST = {
    "policies": 10, "calibration_slope": 1.1, "calibration_slope_ci": [0.8, 1.4], "naive_slope": 0.9,
    "naive_slope_ci": [0.8, 1.0], "predicted_range": [-0.4, 0.25], "left_out": 12,
}  # fmt: skip
INSIDE = {"change": 0.1, "change_low": 0.05, "change_high": 0.15}


def test_noise_in_predictions_does_not_pull_the_slope_towards_none() -> None:
    """True slope 1: the interval holds it nearly always, that of least squares mostly not."""
    rng = np.random.default_rng(0)
    runs = [past_launches(rng, 20, predicted=0.1, observed=0.03, spread=0.0) for _ in range(25)]
    found = [calibration_slope(one, 0.95) for one in runs]
    blind = [naive_slope(one.x, one.y, 0.95) for one in runs]
    assert sum(e.low is None or e.low <= 1 <= e.high for e in found) >= 22
    assert sum(e.low <= 1 <= e.high for e in blind) <= 15
    assert np.median([e.value for e in found]) == pytest.approx(1, abs=0.15)
    assert np.median([e.value for e in blind]) < 0.8


def test_a_slope_that_noise_alone_could_make_has_no_interval() -> None:
    rng = np.random.default_rng(1)
    noise = Launches(0.1 * rng.standard_normal(6), 0.1 * rng.standard_normal(6), 0.01 * np.eye(12))
    found = calibration_slope(noise, 0.95)
    assert found.low is None and found.high is None
    at = past_launches(rng, 8, predicted=0.02, observed=0.02, spread=0.0)
    for place in ("x", "y", "errors"):
        broken = getattr(at, place).copy()
        broken.flat[0] = math.nan
        assert calibration_slope(Launches(**{**vars(at), place: broken}), 0.95).value is None
    assert calibration_slope(Launches(at.x[:3], at.y[:3], np.eye(6)), 0.95).value is None, "too few launches"
    assert calibration_slope(Launches(np.full(8, 0.1), at.y, at.errors), 0.95).value is None, "one prediction for all"


def test_a_noisier_launch_never_makes_r_or_the_slope_surer() -> None:
    one = past_launches(np.random.default_rng(2), 10, predicted=0.02, observed=0.02, spread=0.02)
    naive, config = pearson(one.x.tolist(), one.y.tolist(), confidence=0.95), BacktestConfig()
    lows = [widened(naive, Launches(one.x, one.y, k * one.errors), config, 0).low for k in (0.0, 1.0, 4.0, 16.0)]
    assert lows == sorted(lows, reverse=True)
    assert lows[0] == pytest.approx(naive.low)
    slopes = [calibration_slope(Launches(one.x, one.y, k * one.errors), 0.95) for k in (1.0, 4.0, 16.0)]
    widths = [math.inf if e.low is None or e.high is None else e.high - e.low for e in slopes]
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("changed", "result"),
    [
        ({}, Result.PASS),
        ({"calibration_slope_ci": [0.3, 1.4]}, Result.NOT_SHOWN),
        ({"calibration_slope_ci": [0.8, 2.4]}, Result.NOT_SHOWN),
        ({"calibration_slope_ci": [None, None]}, Result.NOT_SHOWN),
        ({"calibration_slope_ci": [math.nan, 1.4]}, Result.NOT_SHOWN),
        ({"calibration_slope": -1.0, "calibration_slope_ci": [-1.5, -0.2]}, Result.FAIL),
        ({"calibration_slope": None}, Result.NOT_MEASURED),
        ({"calibration_slope": math.nan}, Result.NOT_MEASURED),
    ],
)
def test_the_slope_is_judged_by_its_interval(changed: dict, result: Result) -> None:
    assert slope_gate({**BACKTEST, **changed}, CONFIG).result is result
    assert slope_gate(None, CONFIG).result is Result.NOT_MEASURED


def test_an_extrapolation_is_called_one() -> None:
    assert range_gate("b", INSIDE, BACKTEST, CONFIG).result is Result.PASS
    far = range_gate("b", {"change": 0.6, "change_low": 0.5, "change_high": 0.7}, BACKTEST, CONFIG)
    assert far.result is Result.NOT_SHOWN
    assert far.detail.startswith("b is an extrapolation: its prediction, +60.0% (+50.0% to +70.0%), lies outside the")
    partly = range_gate("b", {**INSIDE, "change_high": 0.3}, BACKTEST, CONFIG)
    assert (partly.result, "may be an extrapolation" in partly.detail) == (Result.NOT_SHOWN, True)
    for love, backtest in (
        ({**INSIDE, "change_low": math.nan}, BACKTEST),
        (INSIDE, {**BACKTEST, "predicted_range": [None, None]}),
        (INSIDE, None),
    ):
        assert range_gate("b", love, backtest, CONFIG).result is Result.NOT_MEASURED


def audit(rows: pl.DataFrame) -> Gate:
    return transport_gate("b", pl.DataFrame([transport_row("b", LiveSlice(rows), 0.95)], schema=TRANSPORT), CONFIG)


def test_a_failure_of_transport_is_found_and_few_replies_show_nothing() -> None:
    rng = np.random.default_rng(3)
    assert audit(live_slice(rng, 20_000, truth=1.0, rate=0.1)).result is Result.PASS
    wrong = audit(live_slice(rng, 20_000, truth=0.7, rate=0.1))
    assert (wrong.result, wrong.figures["residual"]) == (Result.FAIL, pytest.approx(-0.3, abs=0.05))
    assert audit(live_slice(rng, 300, truth=1.0, rate=0.1)).result is Result.NOT_SHOWN
    rare = live_slice(rng, 300, truth=1.0, rate=0.001)
    assert audit(rare.with_columns(label=pl.lit(0))).result is Result.NOT_SHOWN, (
        "no love in a small slice proves nothing"
    )
    never = live_slice(rng, 20_000, truth=0.0, rate=0.02)
    assert audit(never).result is Result.FAIL, "no love where two thousand were to be expected does"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("live_probability", math.nan),
        ("live_probability", None),
        ("label", None),
        ("label", 2),
        ("live_probability", 1.5),
        ("user_id", None),
        ("reply_id", None),
    ],
)
def test_a_slice_with_undefined_figures_is_not_measured(column: str, value: float | None) -> None:
    rows = live_slice(np.random.default_rng(4), 50, truth=1.0, rate=0.1)
    one = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value)).otherwise(pl.col(column))
    gate = audit(rows.with_columns(one.alias(column)))
    assert (gate.result, "1 of its" in gate.detail) == (Result.NOT_MEASURED, True)
    assert audit(rows.clear()).result is Result.NOT_MEASURED
    assert audit(rows.filter(pl.col("user_id") == rows["user_id"][0])).result is Result.NOT_MEASURED
    assert transport_gate("c", pl.DataFrame(schema=TRANSPORT), CONFIG).result is Result.NOT_MEASURED


def test_users_who_share_replies_are_not_independent() -> None:
    rows = live_slice(np.random.default_rng(5), 3000, truth=1.0, rate=0.1)
    few = rows.with_columns(reply_id=(pl.int_range(pl.len()) * 7 % 40).cast(pl.String))
    good = (pl.col("reply_id").cast(pl.Int64) % 2 == 0).cast(pl.Int64)
    shared = transport_row("b", LiveSlice(few.with_columns(label=good)), 0.95)
    alone = transport_row("b", LiveSlice(rows.with_columns(label=few.select(good).to_series())), 0.95)
    assert shared["ci_high"] - shared["ci_low"] > 2 * (alone["ci_high"] - alone["ci_low"])


def gates_of(results: dict[str, Result]) -> list[Gate]:
    return [Gate(n, n, Kind.PREDICTION, r, f"{n} {r}.", f"{n} {r}") for n, r in results.items()]


RESULTS = st.fixed_dictionaries({name: st.sampled_from(Result) for name in CLAIM_GATES})


@settings(max_examples=50, deadline=None)
@given(RESULTS, st.sampled_from(CLAIM_GATES), st.sampled_from(Result))
def test_worse_or_missing_evidence_never_lets_more_be_claimed(
    results: dict[str, Result], name: str, other: Result
) -> None:
    order = (Claim.NOTHING, Claim.ORDER, Claim.LEVEL)
    before, after = (order.index(claim_of(gates_of(r))[0]) for r in (results, {**results, name: other}))
    if RANK.index(other) <= RANK.index(results[name]):
        assert after <= before
    without = claim_of([g for g in gates_of(results) if g.name != name])[0]
    assert order.index(without) <= 1, "a gate that is absent is not measured: no level"
    assert (claim_of(gates_of(results))[0] is Claim.LEVEL) == (set(results.values()) == {Result.PASS})


def test_the_page_tells_what_came_true_and_what_was_left_out() -> None:
    told = " ".join(backtest_sentences(BACKTEST))
    assert "1.10 times the predicted change came true (+0.80 to +1.40)" in told
    assert "blind to the errors of both one would say 0.90" in told
    assert "12 replies were left out" in told
    assert backtest_sentences(None) == backtest_sentences({**BACKTEST, "calibration_slope": None}) == []
