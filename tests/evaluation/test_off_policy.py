"""Off-policy estimates on a bandit with a known truth: right with a wrong outcome model, and silent without overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.errors import DataError
from rluf_assets.evaluation.off_policy import (
    ArmRows,
    LoggedReplies,
    Measured,
    NotEnoughOverlap,
    OverlapRule,
    OwnReplies,
    read_arms,
    read_replies,
    relative_change,
)
from rluf_assets.evaluation.stats import Array

RULE = OverlapRule()
# Two contexts, four replies: what users give for each, how often the logging policy and the candidate say it.
REWARD = np.array([[0.1, 0.5, 0.3, 0.2], [0.4, 0.1, 0.2, 0.6]])
LOGGING = np.array([[0.4, 0.2, 0.3, 0.1], [0.3, 0.3, 0.2, 0.2]])
CANDIDATE = np.array([[0.2, 0.4, 0.3, 0.1], [0.2, 0.2, 0.2, 0.4]])
WRONG = np.array([[0.5, 0.1, 0.2, 0.2], [0.1, 0.3, 0.6, 0.2]])  # an outcome model that is no good
TRUTH = float((CANDIDATE * REWARD).sum(axis=1).mean())


def _bandit(seed: int, rows: int = 1500, users: int = 600) -> tuple[LoggedReplies, OwnReplies, Array, Array]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    context = rng.integers(0, 2, rows)
    reply = (rng.random(rows)[:, None] > LOGGING[context].cumsum(axis=1)).sum(axis=1)
    outcome = (rng.random(rows) < REWARD[context, reply]).astype(float)
    logged = LoggedReplies(user, outcome, WRONG[context, reply], np.ones(rows))
    own = OwnReplies(user, (CANDIDATE[context] * WRONG[context]).sum(axis=1), np.ones(rows))
    return logged, own, np.log(CANDIDATE[context, reply]), np.log(LOGGING[context, reply])


@pytest.mark.parametrize("doubly", [True, False])
def test_the_truth_is_found_with_a_wrong_outcome_model_and_its_interval_holds(doubly: bool) -> None:
    values, held = [], 0
    for seed in range(150):
        logged, own, candidate, logging = _bandit(seed)
        reading = read_replies(logged, candidate, logging, RULE, own=own if doubly else None)
        assert isinstance(reading, Measured)
        rate = reading.rate
        assert rate.value is not None and rate.low is not None and rate.high is not None
        values.append(rate.value)
        held += rate.low <= TRUTH <= rate.high
    assert abs(np.mean(values) - TRUTH) < 4 * np.std(values) / np.sqrt(len(values))
    assert held >= 133  # of 150 at 95%: fewer would be less likely than one in a thousand
    wrong = float((CANDIDATE * WRONG).sum(axis=1).mean())
    assert abs(wrong - TRUTH) > 0.08, "the model alone is far off"


def test_the_logging_policy_itself_is_the_plain_mean() -> None:
    logged, _, _, logging = _bandit(1)
    reading = read_replies(logged, logging, logging, RULE)
    assert isinstance(reading, Measured)
    assert reading.rate.value == pytest.approx(logged.outcome.mean())
    assert reading.overlap.mean_weight == pytest.approx(1.0) and reading.overlap.clipped_share == pytest.approx(0.0)


def test_replies_that_the_logs_lack_are_no_number() -> None:
    """A candidate that says mostly what was never logged: the rows that are there would give a confident, wrong mean."""
    logged, own, candidate, logging = _bandit(2)
    said = read_replies(logged, candidate - np.log(5), logging, RULE, own=own)
    assert isinstance(said, NotEnoughOverlap) and any("mean weight" in reason for reason in said.reasons)
    never = read_replies(logged, np.full(len(candidate), -np.inf), logging, RULE, own=own)
    assert isinstance(never, NotEnoughOverlap) and not hasattr(never, "rate")
    far = read_replies(logged, np.where(np.arange(len(candidate)) == 7, 0.0, -40.0), logging - 30, RULE, own=own)
    assert isinstance(far, NotEnoughOverlap) and far.overlap is not None and far.overlap.effective_users < 2


def test_one_user_no_reply_no_event_and_figures_that_are_none() -> None:
    logged, own, candidate, logging = _bandit(3)
    alone = read_replies(replace(logged, user=np.zeros(len(candidate), int)), candidate, logging, RULE, own=own)
    assert isinstance(alone, NotEnoughOverlap)
    silent = read_replies(replace(logged, outcome=np.zeros(len(candidate))), candidate, logging, RULE, own=own)
    assert isinstance(silent, NotEnoughOverlap) and any("gave the signal" in reason for reason in silent.reasons)
    nothing = LoggedReplies(*(np.zeros(0) for _ in range(4)))
    assert isinstance(read_replies(nothing, np.zeros(0), np.zeros(0), RULE), NotEnoughOverlap)
    for field in ("outcome", "predicted", "weight"):
        broken = getattr(logged, field).copy()
        broken[5] = np.nan
        with pytest.raises(DataError, match="not a number"):
            read_replies(replace(logged, **{field: broken}), candidate, logging, RULE, own=own)
    with pytest.raises(DataError, match="no numbers"):
        read_replies(logged, np.where(np.arange(len(candidate)) == 3, np.nan, candidate), logging, RULE, own=own)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000), users=st.integers(1, 400), rows=st.integers(1, 400),
    spread=st.floats(0, 8), shift=st.floats(-5, 5), least=st.floats(2, 300),
)  # fmt: skip
def test_never_a_number_below_the_rule(
    seed: int, users: int, rows: int, spread: float, shift: float, least: float
) -> None:
    rng = np.random.default_rng(seed)
    rule = OverlapRule(min_effective_users=least)
    logged = LoggedReplies(
        rng.integers(0, users, rows), (rng.random(rows) < 0.4).astype(float), np.full(rows, 0.3), np.ones(rows)
    )
    reading = read_replies(logged, rng.normal(shift, spread, rows) - 5, np.full(rows, -5.0), rule)
    overlap = reading.overlap
    assert overlap is not None
    sound = overlap.effective_users >= least and 0.8 <= overlap.mean_weight <= 1.25
    if isinstance(reading, Measured):
        assert sound and overlap.effective_users <= overlap.users
        assert overlap.clipped_share <= rule.max_clipped and overlap.effective_events >= rule.min_effective_events
        assert reading.rate.low is not None and np.isfinite(reading.rate.low)
    else:
        assert reading.reasons


def _arms(seed: int, users: int = 4000, spoilt: bool = False) -> ArmRows:
    """Two of three arms are in the table; the chance of an arm depends on the context, and so does what users give."""
    rng = np.random.default_rng(seed)
    context = rng.integers(0, 2, users)
    chance = np.array([[0.1, 0.3, 0.6], [0.4, 0.2, 0.4]])[context]
    arm = (rng.random(users)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    replies = rng.integers(1, 4, users).astype(float)
    rate = np.array([[0.1, 0.3], [0.5, 0.2]])[context, np.minimum(arm, 1)]
    positives = rng.binomial(replies.astype(int), rate).astype(float)
    there = arm < 2
    if spoilt:  # half of the users of one arm got lost on the way
        there &= (arm == 0) | (rng.random(users) < 0.5)
    predicted = {"a": np.full(users, 0.6), "b": np.where(context == 0, 0.05, 0.9)}
    return ArmRows(
        np.arange(users)[there], np.array(["a", "b"])[arm[there]], chance[np.arange(users), np.minimum(arm, 1)][there],
        replies[there], positives[there], {name: values[there] for name, values in predicted.items()},
    )  # fmt: skip


def test_arms_are_read_for_everybody_whatever_their_chances() -> None:
    readings = [read_arms(_arms(seed), RULE) for seed in range(100)]
    for arm, truth in (("a", 0.3), ("b", 0.25)):
        rates = [reading[arm].rate for reading in readings if isinstance(reading[arm], Measured)]  # type: ignore[union-attr]
        assert len(rates) == 100
        values = np.array([rate.value for rate in rates])
        assert abs(values.mean() - truth) < 4 * values.std() / 10
        assert sum(rate.low <= truth <= rate.high for rate in rates) >= 86  # type: ignore[operator]
    naive = _arms(0)
    own = naive.arm == "a"
    assert naive.positives[own].sum() / naive.replies[own].sum() > 0.38, "who was likely to be in the arm gives more"


def test_a_change_is_read_from_the_same_users() -> None:
    lifts = []
    for seed in range(60):
        arms = read_arms(_arms(seed), RULE)
        ours, theirs = arms["b"], arms["a"]
        assert isinstance(ours, Measured) and isinstance(theirs, Measured)
        lift = relative_change(ours, theirs)
        assert lift.low is not None and lift.high is not None
        lifts.append(lift.low <= 0.25 / 0.3 - 1 <= lift.high)
    assert sum(lifts) >= 51


def test_arms_of_other_sizes_than_their_chances_are_not_read() -> None:
    for reading in read_arms(_arms(4, spoilt=True), RULE).values():
        assert isinstance(reading, NotEnoughOverlap) and "sizes" in reading.reasons[0]
    one = _arms(5)
    own = one.arm == "a"
    alone = ArmRows(
        one.user[own], one.arm[own], one.probability[own], one.replies[own], one.positives[own],
        {"a": one.predicted["a"][own]},
    )  # fmt: skip
    assert isinstance(read_arms(alone, RULE)["a"], NotEnoughOverlap)
    with pytest.raises(DataError, match="outside"):
        read_arms(replace(one, probability=np.zeros(len(one.user))), RULE)
