"""Users' reactions to a day's replies, and the defects planted in the raw logs for the data contract to find."""

from __future__ import annotations

import numpy as np
import polars as pl

from rluf_assets.simulation import truth, users
from rluf_assets.simulation.traffic import Turns

REACTION_COLUMNS = ("reaction_id", "message_id", "user_id", "signal", "value", "reacted_at", "source")
LATE_SHARE = 0.04  # of reactions: one to thirty hours after the reply, some beyond a 24 h attribution window
REVOKED_SHARE = 0.02


def reactions_of(
    turns: Turns, replies: pl.DataFrame, population: users.Population, day: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Canonical reaction rows to the replies of a day (`replies` in the order of `turns`), revocations included."""
    chances = truth.reaction_probabilities(turns.attributes, population.hidden(turns.user, turns.happy))
    shown = replies["reactions_shown"].to_numpy()
    parts = []
    for signal in truth.SIGNALS:
        hit = np.flatnonzero((rng.random(len(turns)) < chances[signal]) & shown)
        late = rng.random(len(hit)) < LATE_SHARE
        delay_s = np.where(late, rng.uniform(3_600, 108_000, len(hit)), 1 + rng.lognormal(2.5, 0.9, len(hit)))
        parts.append(_rows(replies, hit, signal, 1, delay_s))
        revoked = rng.random(len(hit)) < REVOKED_SHARE
        parts.append(_rows(replies, hit[revoked], signal, 0, delay_s[revoked] + rng.uniform(5, 600, revoked.sum())))
    rows = pl.concat(parts)
    return rows.with_columns(
        (pl.lit(f"r{day:03d}-") + pl.int_range(pl.len()).cast(pl.String).str.zfill(6)).alias("reaction_id"),
        pl.Series("source", np.array(["app", "web"])[(rng.random(len(rows)) < 0.3).astype(int)], dtype=pl.String),
    ).select(*REACTION_COLUMNS)


def _rows(replies: pl.DataFrame, hit: np.ndarray, signal: str, value: int, delay_s: np.ndarray) -> pl.DataFrame:
    return replies[hit].select(
        "message_id",
        "user_id",
        pl.lit(signal).alias("signal"),
        pl.lit(value, dtype=pl.Int8).alias("value"),
        (pl.col("created_at") + pl.Series(delay_s * 1e6).cast(pl.Int64).cast(pl.Duration("us"))).alias("reacted_at"),
    )


def plant_message_defects(messages: pl.DataFrame, rate: float, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """Empty some replies and write some messages twice; returns the rows and the number of planted defects."""
    empty = (rng.random(len(messages)) < rate) & (messages["role"] == "assistant").to_numpy()
    twice = np.flatnonzero(rng.random(len(messages)) < rate / 2)
    damaged = messages.with_columns(
        pl.when(pl.Series(empty)).then(pl.lit("")).otherwise(pl.col("content")).alias("content")
    )
    return pl.concat([damaged, damaged[twice]]), int(empty.sum()) + len(twice)


def plant_reaction_defects(reactions: pl.DataFrame, rate: float, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """Add reactions to messages that nobody wrote, and write some reactions twice."""
    expected = max(rate * 20 * len(reactions), 0.0)  # reactions are some twenty times rarer than messages
    orphans = reactions[rng.integers(0, max(len(reactions), 1), rng.poisson(expected) if len(reactions) else 0)]
    orphans = orphans.with_columns(
        pl.lit("lost-").add(pl.col("message_id")).alias("message_id"),
        ("o" + pl.col("reaction_id")).alias("reaction_id"),
    ).unique("reaction_id", maintain_order=True)
    twice = reactions[np.flatnonzero(rng.random(len(reactions)) < rate * 20)]
    return pl.concat([reactions, orphans, twice]), len(orphans) + len(twice)
