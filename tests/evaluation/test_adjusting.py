"""What users brought with them is taken out: sharper with a history, never worse without, blind to the arm's own replies."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from rluf_assets.evaluation import adjusting
from rluf_assets.evaluation.clustering import TwoWay, reply_log
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, per_user
from rluf_assets.evaluation.metric import compare_metric
from tests.evaluation.test_ab_readout import LOVE
from tests.evaluation.world import exposures_of

CONFIG = ReadoutConfig()


def arms(seed: int, users: int = 600, lift: float = 0.0, *, scored: bool = True) -> tuple[Arm, Arm]:
    """A baseline and an arm."""
    pair = [
        exposures_of(n, users, seed=2 * seed + k, love_lift=lift * k, scored=scored) for k, n in enumerate(("a", "b"))
    ]
    base, arm = (Arm(per_user(str(f["arm"][0]), f)) for f in pair)
    return base, arm


def row_of(base: Arm, arm: Arm) -> dict:
    row = compare_metric(LOVE, arm, base, CONFIG)
    assert row is not None
    return row


def without_prediction(base: Arm, arm: Arm) -> dict:
    with patch.object(adjusting, "MIN_USERS", 10**9):
        return row_of(base, arm)


def test_what_p_love_said_before_makes_the_test_sharper_and_moves_nothing() -> None:
    pairs = [arms(seed, lift=0.3) for seed in range(25)]
    sharp, plain = [row_of(*p) for p in pairs], [without_prediction(*p) for p in pairs]
    width = np.mean(
        [(s["ci_high"] - s["ci_low"]) / (p["ci_high"] - p["ci_low"]) for s, p in zip(sharp, plain, strict=True)]
    )
    assert width < 0.97
    assert {s["adjusted_by"] for s in sharp} >= {"prediction"} and {p["adjusted_by"] for p in plain} == {"pre-period"}
    moved = np.array([s["lift"] - p["lift"] for s, p in zip(sharp, plain, strict=True)])
    assert abs(moved.mean()) < 4 * moved.std() / np.sqrt(len(moved))
    assert row_of(*pairs[0]) == sharp[0], "the same users give the same figures"


@pytest.mark.parametrize("history", ["none", "noise", "backwards", "too few users"])
def test_it_does_no_harm(history: str) -> None:
    """Where there is nothing to gain the figures are, to the last digit, those without a prediction."""
    for seed in range(8):
        base, arm = arms(seed, users=80 if history == "too few users" else 600, scored=history == "too few users")
        if history == "none":
            base, arm = (Arm(a.users.select(~pl.selectors.starts_with("pre_"))) for a in (base, arm))
        if history == "noise":
            drawn = np.random.default_rng(seed).gamma(0.5, 1.0, 1200)
            parts = (drawn[:600], drawn[600:])
            base, arm = (
                Arm(a.users.with_columns(pre_p_love=pl.Series(x))) for a, x in zip((base, arm), parts, strict=True)
            )
        found = row_of(base, arm)
        if history == "backwards":
            with patch.object(adjusting, "predicted", lambda outcome, *_: -outcome):
                assert row_of(base, arm) == found
        assert found == without_prediction(base, arm)
        assert found["adjusted_by"] == ("nothing" if history == "none" else "pre-period")


def test_scores_of_the_arms_own_replies_never_enter() -> None:
    """P[love] over the replies of the test itself, per user and per reply, may say anything: the figures are the same."""
    rng = np.random.default_rng(0)

    def shown(one: Arm, name: str, *, scored: bool) -> Arm:
        replies = one.users.select("user_id", reply_id=pl.int_ranges(pl.col("replies").cast(pl.Int64))).explode(
            "reply_id"
        )
        users = one.users
        if scored:
            users = users.with_columns(p_love=pl.Series(rng.random(len(users)) * 100))
            replies = replies.with_columns(p_love=pl.Series(rng.random(len(replies))))
        return Arm(users, reply_log(name, replies, users))

    def row(*, scored: bool) -> dict | None:
        base, arm = (shown(a, n, scored=scored) for n, a in zip("ab", arms(1), strict=True))
        assert base.log is not None and arm.log is not None
        return compare_metric(LOVE, arm, base, CONFIG, TwoWay.of(arm.log, base.log))

    plain = row(scored=False)
    assert plain is not None and plain["adjusted_by"] == "prediction"
    assert row(scored=True) == row(scored=True) == plain


def test_a_user_is_predicted_by_what_never_saw_that_user() -> None:
    """Another outcome of one user changes the predictions of others, and not their own; in whichever arm they are."""
    base, _ = arms(2, users=150)
    twin = Arm(base.users)  # a user in both arms
    outcome = np.random.default_rng(0).standard_normal(300)
    before = adjusting.predicted(outcome, twin, base)
    outcome[7] += 100
    after = adjusting.predicted(outcome, twin, base)
    assert before is not None and after is not None
    assert before[7] == after[7] and before[157] == after[157]
    assert (before != after).sum() > 200
