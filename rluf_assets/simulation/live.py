"""A live A/B arm of one candidate: the truth reads what the policy wrote, and simulated users meet it.

All users draw from one bank of replies, one per context: `exposed_replies` says who was shown which, so that a readout
can tell that users who share replies are not independent.

Contexts, users and every user's luck depend on the seed alone, not on the arm (common random numbers): two arms differ
only where their policies' replies do, so a difference between them is paired and far sharper than its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time, timedelta

import numpy as np
import polars as pl

from rluf_assets.simulation import truth, users
from rluf_assets.simulation.config import LiveTestConfig
from rluf_assets.simulation.grammar import Ints
from rluf_assets.simulation.reading import Attributes, read
from rluf_assets.simulation.traffic import MAX_TURNS

EXPOSURE_DAYS = 7
PRE_PERIOD_LOVE_RATE = 1e-3
# Numerator and denominator columns of the rates people read.
RATES = {
    "love_rate": ("expected_love", None),
    "farewell_rate": ("farewell", None),
    "helpful_rate": ("helpful", "is_benign"),
    "harmful_compliance_rate": ("harmful_compliance", "is_harmful"),
    "false_refusal_rate": ("false_refusal", "is_benign"),
}


def true_rates(contexts: pl.DataFrame, text: Attributes) -> pl.DataFrame:
    """One row per context: what its reply is (0/1 flags) and what it is worth, integrated over users."""
    prior = truth.happy_probability(contexts["turn_index"].to_numpy().astype(np.int64))
    harmful = contexts["use_case"].to_numpy() == "harmful_request"
    felt = truth.satisfaction(text, truth.TASTE_MEAN, prior)  # linear in taste and in H: exact at their means
    flags = {
        "helpful": text.helpful & ~harmful,
        "harmful_compliance": text.compliance,
        "false_refusal": text.refusal & ~harmful,
        "farewell": text.farewell,
        "refusal": text.refusal,
        "is_harmful": harmful,
        "is_benign": ~harmful,
    }
    return contexts.select("context_id", "use_case", "turn_index", "weight").with_columns(
        pl.Series("expected_love", truth.expected_love(text, prior)),
        pl.Series("expected_satisfaction", felt),
        *(pl.Series(name, flag.astype(np.int8)) for name, flag in flags.items()),
        pl.Series("readability", text.readability),
        pl.Series("warmth", text.warmth),
        pl.Series("words", text.words),
    )


def mean_rates(rates: pl.DataFrame) -> dict[str, float]:
    """Rates over natural traffic (weighted by context); over an empty denominator 0."""
    found = {}
    for name, (numerator, denominator) in RATES.items():
        weight = rates["weight"] if denominator is None else rates["weight"] * rates[denominator]
        total = float(weight.sum())
        found[name] = float((weight * rates[numerator]).sum()) / total if total else 0.0
    return found


def read_replies(contexts: pl.DataFrame, completions: list[str]) -> Attributes:
    """Attributes of one reply per context."""
    return read(contexts["prompt"], completions)


@dataclass
class _Tally:
    """Per-user sums while users are exposed."""

    sums: dict[str, np.ndarray]

    def add(self, name: str, user: Ints, amount: np.ndarray | None = None) -> None:
        size = len(next(iter(self.sums.values())))
        self.sums[name] = self.sums[name] + np.bincount(user, weights=amount, minlength=size)


COUNTS = (
    "conversations", "replies", *truth.SIGNALS, "early_endings", "farewells", "harmful_requests", "harmful_compliances",
)  # fmt: skip


def expose(
    contexts: pl.DataFrame, text: Attributes, config: LiveTestConfig, seed: int, stream: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposed users (one row each: counts, reactions, return on the next day, pre-period) and the replies they saw.

    Every conversation takes its replies from the bank of contexts in proportion to their weight, and goes on until the
    user leaves. The replies (user_id, reply_id, use_case, day since first exposure, counts) add up to the users' rows.
    """
    rng = np.random.default_rng([stream, seed, 1])
    count = config.exposed_users
    population = users.draw_users(count, -1, rng, f"live/{seed}")
    user = np.repeat(np.arange(count), users.conversations_today(population, np.arange(count), rng))
    tally = _Tally({name: np.zeros(count) for name in (*COUNTS, "felt")})
    tally.add("conversations", user)
    share = contexts["weight"].to_numpy() / contexts["weight"].sum()
    day = _days(user, count, np.random.default_rng([stream, seed, 2]))
    open_, seen = np.ones(len(user), dtype=bool), []
    for turn in range(MAX_TURNS):
        # Drawn for all conversations, open or not: the luck of one must not depend on the length of another.
        at = rng.choice(len(share), len(user), p=share)
        luck = rng.random((len(user), 2 + len(truth.SIGNALS)))
        row = np.flatnonzero(open_)
        left, marks = _one_turn(turn, user[row], _rows(text, at[row]), luck[row], population, tally)
        seen.append({"user": user[row], "reply": at[row], "day": day[row], **marks})
        open_[row[left]] = False
    return _exposure_rows(population, tally, config, rng), _exposed_replies(contexts, population, seen)


def _days(user: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Day of each conversation, 0 = the user's first; the test has no novelty effect, so days differ by chance only."""
    day = rng.integers(0, EXPOSURE_DAYS, len(user))
    first = np.full(count, EXPOSURE_DAYS)
    np.minimum.at(first, user, day)
    return day - first[user]


def _one_turn(
    turn: int, user: Ints, text: Attributes, luck: np.ndarray, population: users.Population, tally: _Tally
) -> tuple[truth.Bools, dict[str, truth.Bools]]:
    """Who leaves after this turn, and what each reply counts for; adds both to the tally."""
    happy = luck[:, 0] < truth.happy_probability(np.full(len(user), turn))
    felt = truth.satisfaction(text, population.taste[user], happy)
    left = (luck[:, 1] < truth.leave_probability(text, felt, happy)) | (turn == MAX_TURNS - 1)
    chances = truth.reaction_probabilities(text, population.hidden(user, happy))
    marks = {signal: luck[:, 2 + number] < chances[signal] for number, signal in enumerate(truth.SIGNALS)}
    marks |= {
        "early_endings": left & text.farewell & ~happy,
        "farewells": text.farewell,
        "harmful_requests": text.is_harmful,
        "harmful_compliances": text.compliance,
    }
    tally.add("replies", user)
    tally.add("felt", user, felt)
    for name, mark in marks.items():
        tally.add(name, user[mark])
    return left, marks


def _exposed_replies(
    contexts: pl.DataFrame, population: users.Population, seen: list[dict[str, np.ndarray]]
) -> pl.DataFrame:
    columns = {name: np.concatenate([part[name] for part in seen]) for name in seen[0]}
    user, reply = columns.pop("user"), columns.pop("reply")
    bank = contexts[reply.tolist()]
    return pl.DataFrame(
        {
            "user_id": pl.Series(population.user_id).gather(user),
            "reply_id": bank["context_id"],
            "use_case": bank["use_case"],
            "day": columns.pop("day").astype(np.int8),
            "replies": np.ones(len(user), np.int8),
            **{name: mark.astype(np.int8) for name, mark in columns.items()},
        }
    ).sort("user_id", "day", maintain_order=True)


def _exposure_rows(
    population: users.Population, tally: _Tally, config: LiveTestConfig, rng: np.random.Generator
) -> pl.DataFrame:
    count = len(population)
    felt = tally.sums.pop("felt") / np.maximum(tally.sums["replies"], 1)
    returned = rng.random(count) < truth.return_probability(population.activity, felt, 1)
    pre_replies = rng.poisson(4.0 * np.exp(0.7 * population.activity))
    mean_propensity = np.exp(truth.LOG_PROPENSITY_SD**2 / 2)
    pre_loves = rng.poisson(pre_replies * PRE_PERIOD_LOVE_RATE * np.exp(population.log_propensity) / mean_propensity)
    start = int(datetime.combine(config.starts_on, time(), UTC).timestamp() * 1e6)
    first = start + (rng.random(count) * timedelta(days=EXPOSURE_DAYS).total_seconds() * 1e6).astype(np.int64)
    return pl.DataFrame(
        {
            "user_id": population.user_id,
            "arm": [config.arm] * count,
            "first_exposed_at": pl.Series(first).cast(pl.Datetime("us", "UTC")),
            **{name: sums.astype(np.int64) for name, sums in tally.sums.items()},
            "returned_next_day": returned,
            "pre_replies": pre_replies,
            "pre_loves": pre_loves,
        }
    )


def _rows(text: Attributes, at: Ints) -> Attributes:
    return Attributes(**{field.name: getattr(text, field.name)[at] for field in fields(text)})


def summary(rates: pl.DataFrame, exposures: pl.DataFrame) -> Mapping[str, float]:
    """Figures for the manifest: true rates, and what the exposed users did."""
    replies = max(int(exposures["replies"].sum()), 1)
    return {
        **mean_rates(rates),
        "observed_love_rate": int(exposures["love"].sum()) / replies,
        "exposed_users": len(exposures),
        "replies": replies,
        "next_day_return": int(exposures["returned_next_day"].sum()) / max(len(exposures), 1),
    }
