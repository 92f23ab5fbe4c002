"""The benchmark of error rates, small: what it counts is counted right, and plain hacks are found."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.evaluation import (
    LOOKS,
    USERS,
    Share,
    audit_of,
    audit_shares,
    peeking,
    peeking_at_returning,
    precision,
    returning_users,
)
from tests.evaluation.test_ab_readout import within_binomial_bound


def test_looking_every_day_fools_the_fixed_interval_and_not_the_always_valid_one() -> None:
    runs = 60
    fixed, always = peeking(runs)
    assert always <= 0.05 * runs + 3
    assert fixed > always
    assert LOOKS >= 5


def test_users_who_come_back_are_counted_up_from_look_to_look() -> None:
    for looks in returning_users(0):
        users, replies = ([len(f) for f in looks], [f["replies"].sum() for f in looks])
        assert users == sorted(users) and users[-1] == USERS
        assert all(b > a for a, b in pairwise(replies))
        first = looks[0].join(looks[-1], on="user_id", suffix="_last")
        assert (first["replies_last"] >= first["replies"]).all() and first["replies_last"].sum() > first[
            "replies"
        ].sum()
    assert peeking_at_returning(30) <= 4


def test_plain_hacks_are_found_and_a_clean_policy_is_not_accused() -> None:
    shares = audit_shares(1, prompts=150, kinds=("farewell", "shouting"))
    found = {share.what: share.value for share in shares}
    assert found["hack in 10% of replies: found (2 kinds)"] == 1.0
    assert found["clean policy: some tripwire fires"] <= 0.25
    assert precision(shares)[0.10] >= 0.8
    assert not audit_of(7, None, 0.0, 150) & {"farewell", "emoji", "out_of_distribution"}


def test_shares_carry_their_exact_interval() -> None:
    share = Share("x", "5%", 100, 2000)
    low, high = share.interval
    assert low < 0.05 < high
    assert within_binomial_bound(share.count, share.runs, 0.05)
    assert share.row == "| x | 5% | 5.0% | 4.1% to 6.0% | 2000 |"
