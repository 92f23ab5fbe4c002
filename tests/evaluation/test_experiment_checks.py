"""Checks of the test itself that hold a candidate: ratios by day and trait, balance, filters, novelty, cut counts."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.over_days import DAY_SCHEMA, novelty_check
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.evaluation.readout import Readout, read_out
from tests.evaluation.test_shared_replies import arm_of
from tests.evaluation.world import exposures_of

CONFIG = ReadoutConfig(covariates=("pre_loves", "pre_replies"))


def arms() -> dict[str, pl.DataFrame]:
    return {"baseline": exposures_of("baseline", 1500, seed=1), "b": exposures_of("b", 1500, seed=2)}


def checks_of(found: Readout) -> dict[str, str]:
    return dict(found.checks.select("check", "verdict").iter_rows())


def test_a_sound_test_passes_all() -> None:
    found = checks_of(read_out(arms(), CONFIG))
    assert {found[c] for c in ("sample_ratio", "sample_ratio_by_day", "users_in_one_arm", "pre_period_balance")} == {
        "ok"
    }
    assert "fail" not in found.values()


def test_equal_sums_hide_no_day_on_which_an_arm_was_off() -> None:
    both = arms()
    day = pl.when(pl.int_range(pl.len()) < 200).then(pl.lit(date(2026, 2, 1))).otherwise(pl.lit(date(2026, 2, 2)))
    late = pl.when(pl.int_range(pl.len()) < 60).then(pl.lit(date(2026, 2, 1))).otherwise(pl.lit(date(2026, 2, 2)))
    both["baseline"] = both["baseline"].with_columns(first_exposed_at=day)
    both["b"] = both["b"].with_columns(first_exposed_at=late)
    found = read_out(both, CONFIG)
    assert (checks_of(found)["sample_ratio"], checks_of(found)["sample_ratio_by_day"]) == ("ok", "fail")
    assert "2026-02-01 with 60 and 200 users" in found.checks.filter(check="sample_ratio_by_day")["note"][0]


def test_a_trait_that_only_one_arm_got_fails() -> None:
    both = arms()
    both["baseline"] = both["baseline"].with_columns(locale=pl.lit("en"))
    half = pl.when(pl.int_range(pl.len()) < 100).then(pl.lit("de")).otherwise(pl.lit("en"))
    both["b"] = both["b"].with_columns(locale=half)
    assert checks_of(read_out(both, CONFIG))["sample_ratio_by_locale"] == "fail"


def test_arms_that_differed_before_the_test_fail() -> None:
    both = arms()
    both["b"] = both["b"].with_columns(pre_replies=pl.col("pre_replies") * 2 + 3)
    found = read_out(both, CONFIG)
    assert checks_of(found)["pre_period_balance"] == "fail"


def test_filters_must_be_the_same_and_catch_alike() -> None:
    both = arms()
    flag = pl.int_range(pl.len()) % 50 == 0
    alike = {n: f.with_columns(adversarial=flag) for n, f in both.items()}
    found = read_out(alike, CONFIG)
    assert checks_of(found)["same_filter"] == "ok"
    row = found.row("b", "love_rate")
    assert row is not None and row["n_treatment"] == 1470 and row["itt_lift"] is not None
    assert checks_of(read_out({**both, "b": alike["b"]}, CONFIG))["same_filter"] == "fail"
    more = {**alike, "b": both["b"].with_columns(adversarial=pl.int_range(pl.len()) % 10 == 0)}
    assert checks_of(read_out(more, CONFIG))["same_filter"] == "fail"


def test_a_few_heavy_users_are_cut_where_the_plan_says_so() -> None:
    both = arms()
    heavy = pl.when(pl.int_range(pl.len()) < 3).then(2000).otherwise(pl.col("love"))
    both["b"] = both["b"].with_columns(love=heavy)
    plain = read_out(both, CONFIG).row("b", "love_per_user")
    cut = read_out(both, ReadoutConfig(plan=AbPlan(winsorise={"love_per_user": 0.99}))).row("b", "love_per_user")
    assert plain is not None and cut is not None
    assert plain["lift"] > 1 and abs(cut["lift"]) < 0.5
    shown = {n: arm_of(n, np.random.default_rng(k)) for k, n in enumerate(("baseline", "b"))}
    with pytest.raises(ConfigError, match="users of this test share replies"):
        read_out(
            {n: a[0] for n, a in shown.items()},
            ReadoutConfig(plan=AbPlan(winsorise={"love_rate": 0.9})),
            replies={n: a[1] for n, a in shown.items()},
        )


def days_of(lifts: list[float], half: float = 0.02) -> pl.DataFrame:
    rows = [
        {
            "candidate": "b",
            "metric": "love_rate",
            "day": d,
            "lift": v,
            "ci_low": v - half,
            "ci_high": v + half,
            "users": 9,
        }
        for d, v in enumerate(lifts)
    ]
    return pl.DataFrame(rows, schema=DAY_SCHEMA)


@pytest.mark.parametrize(
    ("lifts", "verdict"),
    [
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "ok"),
        ([0.3, 0.2, 0.1, 0.08, 0.05, 0.04], "warn"),
        ([0.3, 0.2, 0.1, -0.05, -0.1, -0.1], "fail"),
        ([-0.3, -0.2, -0.05, 0.0, 0.1, 0.2], "fail"),
    ],
)
def test_novelty_that_changes_the_sign_fails(lifts: list[float], verdict: str) -> None:
    overall = [{"role": "goal", "lift": sum(lifts) / len(lifts) if verdict != "fail" else lifts[0] / 3}]
    found = novelty_check("b", days_of(lifts), overall, CONFIG)
    assert found is not None and found["verdict"] == verdict


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_counts_that_are_no_numbers_are_refused(bad: float | None) -> None:
    both = arms()
    spoilt = (
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(bad, pl.Float64)).otherwise(pl.col("love").cast(pl.Float64))
    )
    both["b"] = both["b"].with_columns(love=spoilt)
    with pytest.raises(DataError, match=r"missing, infinite or negative counts in \['love'\]"):
        read_out(both, CONFIG)


def test_one_user_an_arm_shows_nothing() -> None:
    found = read_out({n: f.head(1) for n, f in arms().items()}, CONFIG)
    row = found.row("b", "love_rate")
    assert row is None or (row["result"], row["verdict"]) == ("not shown", "unclear")
    guardrails = found.metrics.filter(role="guardrail")
    assert set(guardrails["result"]) <= {"not shown"}
