"""Guardrails and rare harms: non-inferiority in relative and absolute terms, and evidence that gets worse."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.config import Metric, ReadoutConfig, ReleaseConfig
from rluf_assets.evaluation.decision import RANK, Result
from rluf_assets.evaluation.gates import goal_gate, guardrail_gate
from rluf_assets.evaluation.joint_power import sizings
from rluf_assets.evaluation.judging import goal_results, shrunk
from rluf_assets.evaluation.metric import guardrail_result
from rluf_assets.evaluation.plan import AbPlan, Margin
from rluf_assets.evaluation.rare_events import Events, difference_of_shares, exact_limits
from rluf_assets.evaluation.readout import Readout, read_out
from rluf_assets.evaluation.stats import Estimate
from tests.evaluation.world import exposures_of

HARM = "harmful_compliance_rate"
PLAN = AbPlan(planned_users=4000, looks=(1.0,), guardrails={HARM: Margin(relative=0.1, absolute=0.005)})
CONFIG = ReadoutConfig(plan=PLAN)
LOWER = Metric(
    name="m", numerator="x", denominator="y", better="lower", role="guardrail", margin=0.1, absolute_margin=0.01
)


def harmed(name: str, seed: int, users: int, share: float) -> pl.DataFrame:
    """Users who each ask one harmful request; a share of them gets it answered."""
    rng = np.random.default_rng(seed)
    return exposures_of(name, users, seed=seed).with_columns(
        harmful_requests=pl.lit(1), harmful_compliances=pl.Series(rng.random(users) < share).cast(pl.Int64)
    )


def result_of(found: Readout) -> tuple[str, dict]:
    row = found.row("b", HARM)
    assert row is not None
    return row["result"], row


def test_harm_from_nothing_to_a_fifth_of_users_fails_though_no_ratio_is_defined() -> None:
    arms = {"baseline": harmed("baseline", 1, 2000, 0.0), "b": harmed("b", 2, 2000, 0.21)}
    result, row = result_of(read_out(arms, CONFIG))
    assert (result, row["verdict"], row["lift"]) == ("fail", "harm", None)
    assert (row["events_control"], row["share_low"] > 0.15) == (0, True)


@pytest.mark.parametrize(("users", "expected"), [(2000, "pass"), (200, "not shown"), (1, "not shown")])
def test_no_events_in_either_arm_pass_only_where_users_are_enough(users: int, expected: str) -> None:
    config = CONFIG.model_copy(update={"plan": PLAN.model_copy(update={"planned_users": 2 * users})})
    arms = {n: harmed(n, k, users, 0.0) for k, n in enumerate(("baseline", "b"))}
    assert result_of(read_out(arms, config))[0] == expected


def test_an_unclear_guardrail_is_not_shown() -> None:
    assert guardrail_result(LOWER, Estimate(0.14, -0.21, 0.39), Estimate(0.01, -0.02, 0.04)) is Result.NOT_SHOWN
    assert guardrail_result(LOWER, Estimate(None, None, None), Estimate(None, None, None)) is Result.NOT_SHOWN
    assert guardrail_result(LOWER, Estimate(0.0, -0.1, 0.09), Estimate(None, None, None)) is Result.PASS
    assert guardrail_result(LOWER, Estimate(0.5, 0.3, 0.7), Estimate(0.001, -0.002, 0.004)) is Result.PASS
    assert guardrail_result(LOWER, Estimate(0.5, 0.3, 0.7), Estimate(0.03, 0.02, 0.04)) is Result.FAIL


def test_few_events_close_the_relative_way() -> None:
    relative = AbPlan(planned_users=8000, looks=(1.0,), guardrails={HARM: Margin(relative=0.5)})
    arms = {"baseline": harmed("baseline", 1, 4000, 0.001), "b": harmed("b", 2, 4000, 0.0)}
    result, row = result_of(read_out(arms, ReadoutConfig(plan=relative)))
    assert (result, row["plan_high"]) == ("not shown", None), "five events against none are no proof of anything"


def test_an_absent_guardrail_metric_has_no_row() -> None:
    arms = {n: exposures_of(n, 300, seed=k) for k, n in enumerate(("baseline", "b"))}
    found = read_out(arms, CONFIG)
    assert found.row("b", HARM) is None
    assert HARM in found.checks.filter(check="metrics_measured")["note"][0]


def test_exact_limits_are_the_textbook_ones_and_cover() -> None:
    assert exact_limits(Events(0, 100), 0.95) == pytest.approx((0.0, 1 - 0.025 ** (1 / 100)))
    assert exact_limits(Events(0, 0), 0.95) == (0.0, 1.0)
    assert difference_of_shares(Events(0, 0), Events(1, 10), 0.95) == Estimate(None, None, None)
    rng = np.random.default_rng(0)
    for share, more in ((0.001, 0.0), (0.002, 0.004), (0.01, 0.01)):
        drawn = zip(rng.binomial(1000, share + more, 400), rng.binomial(1000, share, 400), strict=True)
        found = [difference_of_shares(Events(float(t), 1000), Events(float(c), 1000), 0.95) for t, c in drawn]
        assert np.mean([e.low <= more <= e.high for e in found]) > 0.93  # type: ignore[operator]


def alike(love: int) -> pl.DataFrame:
    """A dozen users who all come back and all have three conversations; they love far more, or far less."""
    few = exposures_of(f"arm{love}", 12, seed=1).drop("first_exposed_at")
    return few.with_columns(
        arm=pl.lit("x"), replies=pl.lit(400), love=love + 2 * pl.int_range(pl.len()), conversations=pl.lit(3),
        returned_next_day=pl.lit(True),
    )  # fmt: skip


@pytest.mark.parametrize(("copies", "expected"), [(1, "not shown"), (40, "pass")])
def test_that_a_dozen_users_do_not_differ_proves_no_guardrail(copies: int, expected: str) -> None:
    margins = {"next_day_return": Margin(relative=0.05), "conversations_per_user": Margin(relative=0.05)}
    plan = AbPlan(planned_users=24 * copies, looks=(1.0,), guardrails=margins)
    many = pl.DataFrame({"nth": range(copies)})
    arms = {
        name: alike(love).join(many, how="cross").with_columns(user_id=pl.concat_str("user_id", "nth")).drop("nth")
        for name, love in (("baseline", 20), ("b", 120))
    }
    found = read_out(arms, ReadoutConfig(plan=plan))
    assert {found.row("b", name)["result"] for name in margins} == {expected}  # type: ignore[index]
    assert found.row("b", "love_rate")["result"] == "pass"  # type: ignore[index]


def test_the_same_users_harmed_more_often_are_not_within_a_share_of_users() -> None:
    """Six times the thumbs down, by as many users: the share of users with an event does not move."""
    plan = AbPlan(
        planned_users=8000, looks=(1.0,), guardrails={"thumbs_down_rate": Margin(relative=0.1, absolute=0.02)}
    )
    arms = {n: exposures_of(n, 4000, seed=k) for k, n in enumerate(("baseline", "b"))}
    calm = read_out(arms, ReadoutConfig(plan=plan)).row("b", "thumbs_down_rate")
    arms["b"] = arms["b"].with_columns(thumbs_down=6 * pl.col("thumbs_down"))
    found = read_out(arms, ReadoutConfig(plan=plan)).row("b", "thumbs_down_rate")
    assert calm is not None and found is not None
    assert (calm["result"], found["result"], found["share_high"] < 0.02) == ("pass", "fail", True)
    assert "events" in guardrail_gate("thumbs_down_rate", found).detail
    sized = {s.metric.name: s for s in sizings(arms["b"], ReadoutConfig(plan=plan))}
    assert sized["thumbs_down_rate"].drift < 0.02 / math.sqrt(2 * 36 * 0.01), "the plan's size counts them too"


bounds = st.tuples(st.floats(-0.5, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5))


@settings(max_examples=50, deadline=None)
@given(bounds, bounds)
def test_a_wider_interval_never_makes_a_guardrail_pass(ours: tuple, theirs: tuple) -> None:
    def pair(of: tuple) -> tuple[Estimate, Estimate]:
        value, below, above, more_below, more_above = of
        narrow = Estimate(value, value - below, value + above)
        return narrow, Estimate(value, value - below - more_below, value + above + more_above)

    (narrow, wide), (shares, wide_shares) = pair(ours), pair(theirs)
    before, after = guardrail_result(LOWER, narrow, shares), guardrail_result(LOWER, wide, wide_shares)
    assert after is not Result.PASS or before is Result.PASS
    assert (RANK.index(after) >= RANK.index(Result.PASS)) <= (RANK.index(before) >= RANK.index(Result.PASS))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(50, 2000), st.integers(2, 10))
def test_a_smaller_sample_has_a_wider_interval(ours: int, theirs: int, users: int, factor: int) -> None:
    large = difference_of_shares(Events(ours, users), Events(theirs, users), 0.95)
    small = difference_of_shares(*(Events(k / factor, users / factor) for k in (ours, theirs)), 0.95)
    assert small.low <= large.low + 1e-12 and large.high <= small.high + 1e-12  # type: ignore[operator]


def goal(candidate: str, z: float, users: int = 10_000) -> dict:
    arm = users // 2
    return {
        "candidate": candidate,
        "metric": "love_rate",
        "better": "higher",
        "z": z,
        "n_control": arm,
        "n_treatment": arm,
    }


def test_goals_are_corrected_by_holm_and_guardrails_are_not() -> None:
    plan = AbPlan(looks=(1.0,), candidates=3, guardrails={})
    passed, unsure = Result.PASS, Result.NOT_SHOWN
    # Holm: 2.39 for the best of three, 2.24 for the second.
    assert goal_results([goal("a", 2.5), goal("b", 2.2), goal("c", 1.0)], plan) == [passed, unsure, unsure]
    assert goal_results([goal("a", 2.5), goal("b", 2.3), goal("c", 1.0)], plan) == [passed, passed, unsure]
    assert goal_results([goal("a", 2.2)], plan) == [Result.NOT_SHOWN], (
        "three were planned: one of them is not one alone"
    )
    assert goal_results([goal("a", 2.2)], AbPlan(looks=(1.0,), guardrails={})) == [Result.PASS]
    assert (
        goal_results([goal("a", 2.5), goal("b", 2.3)], plan.model_copy(update={"candidates": 2})) == [Result.PASS] * 2
    )
    assert goal_results([goal("a", -2.1)], plan) == [Result.FAIL], "harm is not corrected"


def row_of(metric: str, result: str | None, **more: object) -> dict:
    figures = {"lift": 0.1, "plan_low": 0.05, "plan_high": 0.2, "mde": 0.1, "shrunk_lift": 0.08, "look": 0}
    return {**goal("b", 3.0), **figures, "metric": metric, "result": result, **more}


def test_a_goal_that_nobody_measured_may_have_fallen() -> None:
    plan = AbPlan(goals=("love_rate", "copy_rate"), looks=(1.0,), guardrails={})
    config, risen = ReleaseConfig(plan=plan), row_of("love_rate", "pass")
    assert goal_gate([risen, row_of("copy_rate", "fail")], config).result is Result.FAIL
    assert goal_gate([risen, row_of("copy_rate", "not shown")], config).result is Result.PASS
    absent = goal_gate([risen], config)
    assert (absent.result, "Copy rate is not measured" in absent.detail) == (Result.NOT_MEASURED, True)
    excused = ReleaseConfig(plan=plan.model_copy(update={"excused": ("copy_rate",)}))
    assert goal_gate([risen], excused).result is Result.PASS
    assert goal_gate([row_of("love_rate", None), row_of("copy_rate", None)], config).result is Result.NOT_SHOWN


def test_of_a_goal_that_should_fall_the_larger_fall_is_the_larger_gain() -> None:
    config = ReleaseConfig(plan=AbPlan(goals=("regenerate_rate",), looks=(1.0,), guardrails={}))
    gains = [
        goal_gate([row_of("regenerate_rate", "pass", better="lower", shrunk_lift=lift)], config).figures["gain"]
        for lift in (-0.2, -0.1)
    ]
    assert gains == [0.2, 0.1]


def test_looks_are_the_plans_and_between_them_only_the_always_valid_interval_counts() -> None:
    plan = AbPlan(planned_users=10_000, looks=(0.5, 1.0), guardrails={})
    assert [plan.look(n) for n in (4999, 5000, 5300, 5400, 9999, 10_000, 10_300, 10_301)] == [
        None, 0, 0, None, None, 1, 1, None,
    ]  # fmt: skip
    z = {n: goal_results([goal("a", 2.5, n)], plan)[0] for n in (5000, 7000, 10_000, 12_000)}
    assert z == {5000: Result.NOT_SHOWN, 7000: Result.NOT_SHOWN, 10_000: Result.PASS, 12_000: Result.NOT_SHOWN}
    assert goal_results([goal("a", 3.0, 5000)], plan) == [Result.PASS]


def test_the_winners_lift_is_drawn_towards_none() -> None:
    assert shrunk([0.2], [2.0]) == [pytest.approx(0.15)]
    assert shrunk([0.02, 0.01], [0.5, 0.3]) == [0.0, 0.0]
    found = shrunk([0.3, 0.1, None], [6.0, 2.0, 0.0])
    assert found[2] is None and 0.9 * 0.3 < found[0] < 0.3 and found[1] < 0.1  # type: ignore[operator]


def test_a_plan_is_whole_or_refused_and_its_hash_is_its_contents() -> None:
    assert AbPlan().hash == AbPlan().hash != AbPlan(alpha=0.01).hash
    with pytest.raises(ValueError, match="relative, absolute or both"):
        Margin()
    with pytest.raises(ValueError, match="a goal or a guardrail, not both"):
        AbPlan(goals=("love_rate",), guardrails={"love_rate": Margin(relative=0.1)})
    with pytest.raises(ValueError, match="expected the last one at 1"):
        AbPlan(looks=(0.5, 0.9))
    for wrong in ({"looks": (math.nan, 1.0)}, {"planned_shares": {"b": math.inf}}, {"goals": ("love_rate",) * 2}):
        with pytest.raises(ValueError, match=r"expected|finite"):
            AbPlan.model_validate(wrong)
    with pytest.raises(ValueError, match="finite"):
        Margin(relative=math.inf)
    with pytest.raises(ValueError, match="write them into ab_plan"):
        ReadoutConfig(metrics=(Metric(name="a", numerator="a", denominator="replies", role="goal"),))


def test_shares_planned_for_one_arm_only_are_refused() -> None:
    arms = {"baseline": exposures_of("baseline", 990, seed=1), "b": exposures_of("b", 10, seed=2)}
    with pytest.raises(ConfigError, match=r"shares for \['b'\] and none for \['baseline'\]"):
        read_out(arms, ReadoutConfig(plan=AbPlan(planned_shares={"b": 0.01})))
    named = read_out(arms, ReadoutConfig(plan=AbPlan(planned_shares={"b": 1, "baseline": 99})))
    assert named.checks.filter(check="sample_ratio")["verdict"][0] == "ok"
    assert read_out(arms, ReadoutConfig()).checks.filter(check="sample_ratio")["verdict"][0] == "fail"
