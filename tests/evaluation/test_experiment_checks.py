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


@pytest.mark.parametrize(("users", "verdict"), [(3000, "fail"), (9000, "ok")])
def test_a_test_that_ends_before_its_days_are_over_is_not_sound(users: int, verdict: str) -> None:
    """Seven days where fourteen were planned: too few for all planned users, enough for a look at a third of them."""
    plan = AbPlan(planned_users=users, planned_days=14)
    found = read_out(arms(), ReadoutConfig(plan=plan))
    assert checks_of(found)["planned_days"] == verdict
    assert f"7 days with 3,000 users; the plan gives so many users {14 * 3000 // users} days" in list(
        found.checks["note"]
    )


def test_days_that_nobody_told_are_not_days_that_the_test_ran() -> None:
    both = {name: frame.drop("first_exposed_at") for name, frame in arms().items()}
    plan = AbPlan(planned_users=3000)
    assert checks_of(read_out(both, ReadoutConfig(plan=plan)))["planned_days"] == "fail"
    far = pl.when(pl.int_range(pl.len()) == 0).then(date(2019, 1, 1)).otherwise(date(2026, 1, 1))
    wrong = {name: frame.with_columns(first_exposed_at=far) for name, frame in arms().items()}
    assert checks_of(read_out(wrong, ReadoutConfig(plan=plan)))["planned_days"] == "fail", "one wrong date is one day"
    excused = plan.model_copy(update={"excused": ("planned_days",)})
    assert checks_of(read_out(both, ReadoutConfig(plan=excused)))["planned_days"] == "ok"


def test_a_reply_of_which_nobody_knows_the_mark_is_not_one_without_it() -> None:
    """Half of the replies of an arm never offered the thumb: its rate is that of the others."""
    both = arms()
    whole = read_out(both, CONFIG).row("b", "thumbs_down_rate")
    known = {n: f.with_columns(thumbs_down_labelled=pl.col("replies")) for n, f in both.items()}
    doubled = known["b"].with_columns(replies=2 * pl.col("replies"))
    found = read_out({**known, "b": doubled}, CONFIG).row("b", "thumbs_down_rate")
    assert found is not None and whole is not None and found["treatment"] == pytest.approx(whole["treatment"])
    never = {n: f.with_columns(thumbs_down=0, thumbs_down_labelled=0) for n, f in both.items()}
    silent = read_out(never, CONFIG)
    assert silent.row("b", "thumbs_down_rate") is None
    assert "thumbs_down_rate" in silent.checks.filter(check="metrics_measured")["note"][0]
    one_sided = read_out({"baseline": known["baseline"], "b": both["b"]}, CONFIG)
    assert one_sided.row("b", "thumbs_down_rate") is None, "an arm that does not say what is known does not know it all"
    assert "thumbs_down_rate" in one_sided.checks.filter(check="metrics_measured")["note"][0]


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replies": pl.col("replies").cast(pl.String)}, r"{'replies': 'String'}, expected numbers"),
        ({"love": pl.lit("many")}, r"{'love': 'String'}, expected numbers"),
        ({"pre_replies": pl.lit([1])}, "expected numbers"),
        ({"locale": pl.lit(["en"])}, r"lists or structs in \['locale'\]"),
        ({"adversarial": pl.lit("no")}, "other than true and false"),
        ({"adversarial": pl.lit(None, pl.Boolean)}, "other than true and false"),
        ({"first_exposed_at": pl.lit("yesterday")}, "that are no dates"),
        ({"first_exposed_at": pl.lit(1_700_000_000)}, "expected dates or times"),
        ({"user_id": pl.lit(0.5)}, "expected text or whole numbers"),
        ({"arm": pl.int_range(pl.len()) % 2}, "expected those of one"),
    ],
)
def test_columns_that_cannot_be_read_are_refused_by_name(change: dict[str, pl.Expr], message: str) -> None:
    both = {n: f.head(20) for n, f in arms().items()}
    with pytest.raises(DataError, match=message):
        read_out({**both, "b": both["b"].with_columns(**change)}, CONFIG)


def test_an_export_that_doubles_its_rows_is_refused_and_ids_may_be_numbers() -> None:
    both = {n: f.head(300) for n, f in arms().items()}
    with pytest.raises(DataError, match="600 rows that stand more than once"):
        read_out({**both, "b": pl.concat([both["b"]] * 2)}, CONFIG)
    numbered = both["b"].with_columns(user_id=pl.int_range(pl.len()), first_exposed_at=pl.lit("2026-01-03T10:00:00Z"))
    assert "sample_ratio_by_day" in checks_of(read_out({**both, "b": numbered}, CONFIG))


def test_an_arm_that_was_to_have_hardly_anybody_and_has_half_fails() -> None:
    plan = AbPlan(planned_shares={"b": 0.001, "baseline": 0.999})
    both = {n: f.head(300) for n, f in arms().items()}
    assert checks_of(read_out(both, ReadoutConfig(plan=plan)))["sample_ratio"] == "fail"


def test_users_who_met_another_candidate_are_missing_from_this_one_too() -> None:
    both = {n: f.head(400) for n, f in arms().items()}
    heavy = (
        both["b"].sort("replies").tail(40)
    )  # left out of b, for they are in c as well: who is left is not who was drawn
    other = pl.concat([heavy, exposures_of("c", 360, seed=5)]).with_columns(arm=pl.lit("c"))
    found = read_out({**both, "c": other}, CONFIG).checks.filter(check="users_in_one_arm")
    assert dict(found.select("candidate", "verdict").iter_rows()) == {"b": "fail", "c": "fail"}


def test_a_prediction_that_the_test_has_touched_fails_the_balance() -> None:
    """`pre_p_love` of the arm's own replies: the figures are adjusted by it, so it must have been the same before."""
    both = {n: f.with_columns(pre_p_love=pl.col("love") * 0.9 + 0.1 * pl.col("replies")) for n, f in arms().items()}
    assert checks_of(read_out(both, CONFIG))["pre_period_balance"] == "ok"
    both["b"] = both["b"].with_columns(pre_p_love=pl.col("love") * 0.5)
    found = read_out(both, CONFIG)
    assert checks_of(found)["pre_period_balance"] == "fail"


def test_a_trait_that_an_arm_lost_is_told() -> None:
    both = {n: f.head(400).with_columns(locale=pl.lit("en")) for n, f in arms().items()}
    lost = {**both, "b": both["b"].with_columns(locale=pl.when(pl.int_range(pl.len()) < 200).then(pl.lit("en")))}
    assert checks_of(read_out(lost, CONFIG))["sample_ratio_by_locale"] == "fail"
    none = {n: f.with_columns(locale=pl.lit(None, pl.String)) for n, f in both.items()}
    assert checks_of(read_out(none, CONFIG))["sample_ratio_by_locale"] == "info"


def test_cuts_of_a_metric_that_nobody_defines_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"winsorise: found \['love'\]"):
        read_out(arms(), ReadoutConfig(plan=AbPlan(winsorise={"love": 0.99})))
