"""Off-policy estimates in the simulated production: its logs say with which chance each reply came, and the truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl

from rluf_assets.evaluation.off_policy import (
    LoggedReplies,
    Measured,
    NotEnoughOverlap,
    OverlapRule,
    OwnReplies,
    read_replies,
)
from rluf_assets.simulation import truth, users
from rluf_assets.simulation.grammar import N_TOPICS, render
from rluf_assets.simulation.policies import DRAWS, LOGGING, PAST_POLICIES, ReplyPolicy, log_probability, write
from rluf_assets.simulation.reading import attributes_of
from rluf_assets.simulation.traffic import converse
from rluf_assets.simulation.truth import Floats

GOODBYES = ReplyPolicy("goodbyes", "closes every reply with what the logs hardly hold", farewell_unasked=0.97)


def test_the_chance_of_a_reply_is_how_often_it_is_written() -> None:
    rng = np.random.default_rng(0)
    count = 60_000
    topic, leaving, longer = rng.integers(0, N_TOPICS, count), rng.random(count) < 0.3, rng.random(count) < 0.5
    replies = write(LOGGING, topic, leaving, rng.random((count, DRAWS)), longer)
    logged = log_probability(LOGGING, replies, leaving, longer)
    assert np.isfinite(logged).all() and (logged < 0).all()
    for policy in PAST_POLICIES:  # a policy's chances over all replies sum to one
        weights = np.exp(log_probability(policy, replies, leaving, longer) - logged)
        assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(count), policy.name
    same = np.full(count, 7), np.zeros(count, bool)
    texts = write(LOGGING, *same, rng.random((count, DRAWS)))
    found = pl.DataFrame({"text": render(texts), "chance": np.exp(log_probability(LOGGING, texts, same[1]))})
    most = found.group_by("text").agg(pl.len() / count, pl.col("chance").first()).sort("len").tail(5)
    assert np.allclose(most["len"], most["chance"], rtol=0.1)


def test_candidates_are_read_from_the_logs_as_they_truly_are() -> None:
    rng = np.random.default_rng(11)
    population = users.draw_users(2_500, 0, rng, "off-policy")
    user = np.repeat(np.arange(2_500), 2)
    turns = converse(LOGGING, population, user, rng.integers(0, 11, len(user)), rng)
    longer = population.in_experiment[turns.user] == 2
    logged, hidden = (
        log_probability(LOGGING, turns.replies, turns.happy, longer),
        population.hidden(turns.user, turns.happy),
    )
    outcome = rng.random(len(turns)) < truth.reaction_probabilities(turns.attributes, hidden)["copy"]

    def wrong(policy_replies: Floats) -> Floats:  # an outcome model that believes in help alone, and twice as much
        return np.asarray(0.02 + 0.04 * policy_replies)

    rows = LoggedReplies(turns.user, outcome.astype(float), wrong(turns.attributes.helpfulness), np.ones(len(turns)))
    misses = []
    for policy in (*PAST_POLICIES, GOODBYES):
        replies = write(policy, turns.replies.topic, turns.happy, rng.random((len(turns), DRAWS)))
        text = attributes_of(replies, turns.turn)
        true = float(truth.reaction_probabilities(text, hidden)["copy"].mean())
        own = OwnReplies(turns.user, wrong(text.helpfulness), np.ones(len(turns)))
        chance = log_probability(policy, turns.replies, turns.happy)
        reading = read_replies(rows, chance, logged, OverlapRule(), own=own)
        if policy is GOODBYES:
            assert isinstance(reading, NotEnoughOverlap) and reading.reasons
            continue
        assert isinstance(reading, Measured), policy.name
        rate = reading.rate
        assert rate.value is not None and rate.low is not None and rate.high is not None
        assert abs(own.predicted.mean() - true) > rate.high - rate.value, "the model alone is outside the interval"
        misses.append(not rate.low <= true <= rate.high)
    assert sum(misses) <= 2
