"""The A/B readout: error rates by simulation, variance reduction, and bad experiments."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, per_user
from rluf_assets.evaluation.metric import compare_metric
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.evaluation.readout import Readout, read_out
from tests.evaluation.world import exposures_of

LOVE = Metric(name="love_rate", numerator="love", denominator="replies", role="goal")
RUNS = 200


def goal_rows(lift: float, users: int = 600) -> list[dict]:
    """The goal metric's row in many simulated tests."""
    config = ReadoutConfig()
    rows = []
    for run in range(RUNS):
        arms = [exposures_of(n, users, seed=2 * run + k, love_lift=lift * k) for k, n in enumerate(("a", "b"))]
        base, arm = (Arm(per_user(f["arm"][0], f)) for f in arms)
        row = compare_metric(LOVE, arm, base, config)
        assert row is not None
        rows.append(row)
    return rows


def within_binomial_bound(count: int, runs: int, rate: float) -> bool:
    spread = 3 * np.sqrt(rate * (1 - rate) / runs)
    return abs(count / runs - rate) <= spread


def test_a_a_tests_are_significant_as_often_as_they_say() -> None:
    rows = goal_rows(lift=0.0)
    assert within_binomial_bound(sum(r["p_value"] < 0.05 for r in rows), RUNS, 0.05)
    assert all((r["ci_low"] > 0 or r["ci_high"] < 0) == (r["p_value"] < 0.05) for r in rows)
    assert sum(r["sequential_low"] > 0 or r["sequential_high"] < 0 for r in rows) <= 0.02 * RUNS


def test_planted_lift_is_covered_and_unbiased() -> None:
    rows = goal_rows(lift=0.3)
    covered = sum(r["ci_low"] <= 0.3 <= r["ci_high"] for r in rows)
    assert within_binomial_bound(covered, RUNS, 0.95)
    lifts = np.array([r["lift"] for r in rows])
    assert lifts.mean() == pytest.approx(0.3, abs=4 * lifts.std() / np.sqrt(RUNS) + 0.01)


def test_pre_period_takes_out_variance_without_moving_the_answer() -> None:
    rows = goal_rows(lift=0.0, users=400)
    assert np.mean([r["variance_removed"] for r in rows]) > 0.05
    adjusted, plain = (np.array([r[k] for r in rows]) for k in ("lift", "unadjusted_lift"))
    assert adjusted.std() < plain.std()


@pytest.fixture(scope="module")
def readout() -> Readout:
    return read_out(
        {
            "baseline": exposures_of("baseline", 5000, seed=1),
            "good": exposures_of("good", 5000, seed=2, love_lift=0.4),
            "harmful": exposures_of("harmful", 5000, seed=3, love_lift=0.4, early_endings=0.16, returns=0.33),
        },
        ReadoutConfig(),
    )


def test_goal_and_guardrails(readout: Readout) -> None:
    assert readout.row("good", "love_rate")["verdict"] == "better"  # type: ignore[index]
    assert readout.row("good", "early_ending_rate")["verdict"] != "harm"  # type: ignore[index]
    assert readout.row("harmful", "early_ending_rate")["verdict"] == "harm"  # type: ignore[index]
    assert readout.row("harmful", "next_day_return")["verdict"] == "harm"  # type: ignore[index]
    assert readout.row("harmful", "conversations_per_user")["verdict"] != "harm"  # type: ignore[index]
    assert readout.row("harmful", "harmful_compliance_rate") is None
    missing = readout.checks.filter((pl.col("check") == "metrics_measured") & (pl.col("candidate") == "good"))
    assert "harmful_compliance_rate" in missing["note"][0]
    assert readout.metrics.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True) == 0


def test_unequal_exposure_is_flagged() -> None:
    arms = {"baseline": exposures_of("baseline", 5000, seed=1), "b": exposures_of("b", 4500, seed=2)}
    assert verdict_of(read_out(arms, ReadoutConfig()), "sample_ratio") == "fail"
    planned = ReadoutConfig(plan=AbPlan(planned_shares={"baseline": 1.0, "b": 0.9}))
    assert verdict_of(read_out(arms, planned), "sample_ratio") == "ok"


def verdict_of(readout: Readout, check: str) -> str:
    return str(readout.checks.filter(pl.col("check") == check)["verdict"][0])


def test_one_user_with_half_the_traffic_is_flagged_and_widens_the_interval() -> None:
    base, arm = exposures_of("baseline", 1000, seed=1), exposures_of("b", 1000, seed=2)
    heavy = arm.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.col("replies").sum()).otherwise(pl.col("replies")).alias("replies")
    )
    found = read_out({"baseline": base, "b": heavy}, ReadoutConfig())
    assert verdict_of(found, "traffic_spread") == "warn"
    usual = read_out({"baseline": base, "b": arm}, ReadoutConfig())
    assert found.row("b", "copy_rate")["mde"] > 2 * usual.row("b", "copy_rate")["mde"]  # type: ignore[index]


def test_no_reactions_in_an_arm_states_no_lift() -> None:
    arm = exposures_of("b", 500, seed=2).with_columns(pl.lit(0).alias("love"))
    found = read_out({"baseline": exposures_of("baseline", 500, seed=1), "b": arm}, ReadoutConfig())
    row = found.row("b", "love_rate")
    assert row is not None
    # No lift is stated, and yet it is plain that the goal fell: the difference needs no ratio.
    assert (row["lift"], row["ci_low"], row["mde"], row["verdict"]) == (None, None, None, "worse")
    assert verdict_of(found, "events_in_both_arms") == "warn"


def test_same_users_in_both_arms_are_compared_as_pairs() -> None:
    base = exposures_of("baseline", 800, seed=1)
    twin = base.with_columns(pl.lit("b").alias("arm"))
    found = read_out({"baseline": base, "b": twin}, ReadoutConfig(plan=AbPlan(design="paired")))
    row = found.row("b", "love_rate")
    assert row is not None
    assert row["lift"] == pytest.approx(0.0)
    assert row["ci_high"] - row["ci_low"] < 1e-6
    assert verdict_of(found, "users_in_one_arm") == "ok"


def test_users_in_both_arms_are_left_out_and_too_many_of_them_break_the_test() -> None:
    base, arm = exposures_of("baseline", 800, seed=1), exposures_of("b", 800, seed=2)
    few = pl.concat([base, arm.head(8).with_columns(arm=pl.lit("baseline"))])
    found = read_out({"baseline": few, "b": arm}, ReadoutConfig())
    row = found.row("b", "love_rate")
    assert row is not None
    assert (row["n_control"], row["n_treatment"]) == (800, 792)
    assert row["itt_lift"] is not None and row["itt_lift"] != row["lift"]
    assert verdict_of(found, "users_in_one_arm") == "ok"
    twin = base.with_columns(arm=pl.lit("b"))
    found = read_out({"baseline": base, "b": twin}, ReadoutConfig())
    assert found.metrics.is_empty(), "all users crossed: nothing is left to compare"
    assert verdict_of(found, "users_in_one_arm") == verdict_of(found, "users_left") == "fail"


def test_use_cases_are_read_on_their_own_and_corrected() -> None:
    def split(frame: pl.DataFrame) -> pl.DataFrame:
        case = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("chat")).otherwise(pl.lit("coding"))
        return frame.with_columns(case.alias("use_case"))

    arms = {"baseline": split(exposures_of("baseline", 3000, seed=1)), "b": split(exposures_of("b", 3000, seed=2))}
    found = read_out(arms, ReadoutConfig())
    segments = found.metrics.filter(pl.col("metric") == "love_rate")
    assert segments["segment"].to_list() == ["all", "chat", "coding"]
    assert segments["n_control"].to_list() == [3000, 1500, 1500]
    assert (segments["p_adjusted"] >= segments["p_value"] - 1e-12).all()


def test_rows_per_user_and_use_case_add_up() -> None:
    one = exposures_of("b", 300, seed=2)
    halves = pl.concat([one.with_columns(pl.lit(c).alias("use_case")) for c in ("x", "y")])
    users = per_user("b", halves)
    assert len(users) == 300
    assert users["love"].sum() == 2 * one["love"].sum()
    assert users["pre_loves"].sum() == one["pre_loves"].sum()
    assert users["returned_next_day"].max() == 1.0


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (("candidate",), "expected the baseline 'baseline'"),
        (("baseline",), "at least one candidate arm"),
    ],
)
def test_missing_arms(arms: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_out({name: exposures_of(name, 50, seed=1) for name in arms}, ReadoutConfig())


def test_bad_exposures() -> None:
    good = exposures_of("baseline", 50, seed=1)
    with pytest.raises(DataError, match="no exposed users"):
        read_out({"baseline": good, "b": good.clear()}, ReadoutConfig())
    with pytest.raises(DataError, match=r"ab_exposures\[b\].*replies"):
        read_out({"baseline": good, "b": good.drop("replies")}, ReadoutConfig())
    with pytest.raises(DataError, match=r"negative counts in \['love'"):
        read_out({"baseline": good, "b": good.with_columns(pl.lit(-1).alias("love"))}, ReadoutConfig())
    nameless = good.with_columns(pl.lit(None, pl.String).alias("user_id"))
    with pytest.raises(DataError, match="without user_id"):
        read_out({"baseline": good, "b": nameless}, ReadoutConfig())
