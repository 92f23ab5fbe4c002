"""A team's own logs as an A/B test: users from replies, sizes and days of a test, and the error rate of the readout there."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.joint_power import joint_power, size_table, sizings
from rluf_assets.evaluation.own_logs import aa_test, days_needed, users_of_logs
from rluf_assets.evaluation.plan import AbPlan, Margin
from rluf_assets.feedback.config import AdversarialConfig
from tests.evaluation.world import exposures_of

PLAN = AbPlan(
    planned_users=8000,
    looks=(0.5, 1.0),
    minimum_detectable_effect=0.3,
    guardrails={"next_day_return": Margin(relative=0.1)},
)


def logs() -> pl.LazyFrame:
    """Three users: one only before, one in both periods, one new who comes back on the next day."""
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    said = [("old", 0, 1), ("both", 1, 0), ("both", 8, 1), ("both", 8, None), ("new", 8, 0), ("new", 9, 1)]
    rows = [
        {
            "user_id": user,
            "conversation_id": f"{user}{day}",
            "created_at": start + timedelta(days=day),
            "label_love": love,
        }
        for user, day, love in said
    ]
    return pl.DataFrame(rows).lazy()


def test_users_of_the_last_days_with_what_they_did_before() -> None:
    found = users_of_logs(logs(), 5)
    assert found["user_id"].to_list() == ["both", "new"]
    assert found.select("replies", "conversations", "love", "pre_replies", "pre_loves").rows() == [
        (1, 1, 1, 1, 0), (2, 2, 1, 0, 0),
    ]  # fmt: skip
    assert found["returned_next_day"].to_list() == [False, True]
    assert found["replies"][0] == 1, "of a reply whose label is not known nobody knows that it was not loved"
    assert found.select("pre_conversations", "pre_days").rows() == [(1, 1), (0, 0)]
    named = logs().with_row_index("message_id")
    scores = pl.DataFrame(
        {"message_id": [1, 2], "conversation_id": named.collect()["conversation_id"].gather([1, 2]),
         "live_probability": [0.25, 0.5]}, schema_overrides={"message_id": pl.UInt32},
    )  # fmt: skip
    scored = users_of_logs(named, 5, scores)
    assert scored["pre_p_love"].to_list() == [0.25, 0.0], "of replies shown before the last five days, and of no other"
    assert scored.drop("pre_p_love").equals(found)
    elsewhere = scores.with_columns(conversation_id=pl.lit("another"))
    assert not users_of_logs(named, 5, elsewhere)["pre_p_love"].sum(), (
        "the same id in another conversation is another reply"
    )
    with pytest.raises(DataError, match="a user, a day and a known label"):
        users_of_logs(logs().filter(pl.lit(False)), 5)


def test_users_who_judge_nearly_everything_are_no_evidence_of_what_users_do() -> None:
    shown = logs().collect()
    bot = pl.concat([shown.tail(1).with_columns(user_id=pl.lit("bot"))] * 30)
    both = pl.concat([shown, bot]).lazy()
    assert "bot" in users_of_logs(both, 5)["user_id"].to_list()
    found = users_of_logs(both, 5, signal="love", adversarial=AdversarialConfig())
    assert found.equals(users_of_logs(logs(), 5))
    with pytest.raises(DataError, match="a known label of 'thumbs_up'"):
        users_of_logs(both, 5, signal="thumbs_up")


def test_what_does_not_vary_sizes_nothing_and_uneven_arms_take_more_users() -> None:
    users = exposures_of("a", 2000, seed=1).drop("arm")
    plan = PLAN.model_copy(update={"guardrails": {"next_day_return": Margin(relative=0.1)}})
    same = sizings(users.with_columns(returned_next_day=pl.lit(True)), ReadoutConfig(plan=plan))
    assert {s.metric.name for s in same} == {"love_rate"} and joint_power(same, plan) > 0
    assert sizings(users.head(1), ReadoutConfig(plan=plan)) == []
    uneven = plan.model_copy(update={"planned_shares": {"baseline": 0.99, "b": 0.01}})
    needed = [
        size_table(sizings(users, ReadoutConfig(plan=p)), p).filter(metric="love_rate")["users_needed"][0]
        for p in (plan, uneven)
    ]
    assert needed[1] == pytest.approx(needed[0] / (4 * 0.99 * 0.01), rel=0.01)


def test_days_until_enough_users_have_come() -> None:
    first = pl.Series([datetime(2026, 1, 1 + d).date() for d in range(6) for _ in range(100)])
    assert [days_needed(first, n, 6) for n in (150, 600, 1200)] == [2, 6, 12]
    assert days_needed(pl.Series([], dtype=pl.Date), 10, 6) is None


def test_size_follows_the_variance_and_the_margins() -> None:
    users = exposures_of("a", 20_000, seed=1).drop("arm")
    found = sizings(users, ReadoutConfig(plan=PLAN))
    assert {s.metric.name for s in found} == {"love_rate", "next_day_return"}
    table = {row["metric"]: row for row in size_table(found, PLAN).iter_rows(named=True)}
    share = table["next_day_return"]["rate"]
    textbook = 2 * ((1.9686 + 0.8416) / (0.1 * share / math.sqrt((1 + 0.9**2) * share * (1 - share)))) ** 2
    assert table["next_day_return"]["users_needed"] == pytest.approx(textbook, rel=0.01)
    together = joint_power(found, PLAN)
    assert 0 < together <= min(row["power"] for row in table.values()) + 0.02
    assert joint_power(found, PLAN, users=2000) < together < joint_power(found, PLAN, users=40_000)
    strict = PLAN.model_copy(update={"guardrails": {"next_day_return": Margin(relative=0.02)}})
    assert joint_power(sizings(users, ReadoutConfig(plan=strict)), strict) < 0.5 * together
    assert joint_power([], PLAN) == 0.0


def test_random_splits_are_called_different_as_often_as_they_should_be() -> None:
    config = ReadoutConfig(plan=PLAN)
    config = config.model_copy(
        update={"metrics": tuple(m for m in config.metrics if m.name in ("love_rate", "copy_rate"))}
    )
    users = exposures_of("a", 800, seed=3).drop("arm")
    found = aa_test(users, config, runs=150, seed=0)
    assert found["metric"].to_list() == ["love_rate", "copy_rate"]
    assert found["keeps"].all() and found["runs"].to_list() == [150, 150]
    silent = aa_test(users.with_columns(love=pl.lit(0)), config, runs=20, seed=0)
    assert silent.filter(metric="love_rate")["keeps"][0] is None
