"""Off-policy estimates in the simulated production: its logs say with which chance each reply came, and the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rluf_assets.evaluation.off_policy import (
    LoggedReplies,
    Measured,
    NotEnoughOverlap,
    OverlapRule,
    OwnReplies,
    Reading,
    read_replies,
)
from rluf_assets.simulation import truth, users
from rluf_assets.simulation.grammar import N_TOPICS, render
from rluf_assets.simulation.policies import DRAWS, LOGGING, PAST_POLICIES, ReplyPolicy, log_probability, write
from rluf_assets.simulation.reading import Attributes, attributes_of
from rluf_assets.simulation.traffic import Turns, converse
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


@dataclass(frozen=True)
class Played:
    """What users did with a policy's logged replies, and what is known of any other policy in the same places."""

    turns: Turns
    hidden: truth.Hidden
    logged: Floats
    rows: LoggedReplies
    rng: np.random.Generator

    @classmethod
    def of(cls, seed: int, people: int, signal: str = "copy") -> Played:
        rng = np.random.default_rng(seed)
        population = users.draw_users(people, 0, rng, f"off-policy/{seed}")
        user = np.repeat(np.arange(people), 2)
        turns = converse(LOGGING, population, user, rng.integers(0, 11, len(user)), rng)
        longer = population.in_experiment[turns.user] == 2
        hidden = population.hidden(turns.user, turns.happy)
        outcome = rng.random(len(turns)) < truth.reaction_probabilities(turns.attributes, hidden)[signal]
        rows = LoggedReplies(turns.user, outcome.astype(float), wrong(turns.attributes), np.ones(len(turns)))
        return cls(turns, hidden, log_probability(LOGGING, turns.replies, turns.happy, longer), rows, rng)

    def read(self, policy: ReplyPolicy, signal: str = "copy") -> tuple[Reading, float, float]:
        """The reading of a policy, its true rate, and what the outcome model alone says."""
        replies = write(policy, self.turns.replies.topic, self.turns.happy, self.rng.random((len(self.turns), DRAWS)))
        text = attributes_of(replies, self.turns.turn)
        true = float(truth.reaction_probabilities(text, self.hidden)[signal].mean())
        own = OwnReplies(self.turns.user, wrong(text), np.ones(len(self.turns)))
        chance = log_probability(policy, self.turns.replies, self.turns.happy)
        return read_replies(self.rows, chance, self.logged, OverlapRule(), own=own), true, float(own.predicted.mean())


def wrong(text: Attributes) -> Floats:
    """An outcome model that believes in help alone, and too much."""
    return np.asarray(0.02 + 0.04 * text.helpfulness)


def test_candidates_are_read_from_the_logs_as_they_truly_are() -> None:
    played, misses = Played.of(seed=11, people=2_500), []
    for policy in PAST_POLICIES:
        reading, true, modelled = played.read(policy)
        assert isinstance(reading, Measured), policy.name
        rate = reading.rate
        assert rate.value is not None and rate.low is not None and rate.high is not None
        assert abs(modelled - true) > rate.high - rate.value, "the model alone is outside the interval"
        misses.append(not rate.low <= true <= rate.high)
    assert sum(misses) <= 2
    far, *_ = played.read(GOODBYES)
    assert isinstance(far, NotEnoughOverlap) and far.reasons
