"""Play the production: daily message and reaction logs and expert pairs, written as a store of Parquet files.

    play_production(SimulationConfig(days=20, replies_per_day=6000), seed=0, out=Path("store"))

Every day is drawn from its own generator (seed, day) and from the users' state after the day before, and what crosses
midnight is carried over: the files of a day are the same bytes however many days follow.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from rluf_assets.lake import Produced
from rluf_assets.simulation import experts, users
from rluf_assets.simulation.config import SimulationConfig
from rluf_assets.simulation.policies import LOGGING, LOGGING_NEXT
from rluf_assets.simulation.reactions import plant_message_defects, plant_reaction_defects, reactions_of
from rluf_assets.simulation.traffic import DAY_US, messages_of, simulate_day

Progress = Callable[[int, int, str], None]
Carried = tuple[pl.DataFrame, pl.DataFrame]  # messages and reactions after the day's midnight
# First entries of the seeds of independent random streams.
DAY_STREAM, START_STREAM, EXPERT_STREAM, LIVE_STREAM, LAUNCH_STREAM, ORACLE_STREAM = range(1, 7)


def play_production(config: SimulationConfig, seed: int, out: Path, progress: Progress | None = None) -> Produced:
    """Write `messages/date=.../messages.parquet`, `reactions/date=.../reactions.parquet` and `preferences/*.parquet`.

    Returns row counts and the rates of the log (replies, loves not revoked, users, planted defects).
    """
    salt = f"user/{seed}"
    population = users.initial_population(config.replies_per_day, np.random.default_rng([START_STREAM, seed]), salt)
    counts = {"messages": 0, "reactions": 0, "replies": 0, "loves": 0, "farewells": 0, "defects": 0}
    carried: Carried | None = None
    seen: set[str] = set()
    for day in range(config.days):
        population, carried, of_day, active = _play_day(config, seed, day, population, carried, salt, out)
        seen.update(active)
        for name, value in of_day.items():
            counts[name] += value
        if progress:
            progress(day + 1, config.days + 1, f"day {day + 1}")
    pairs = experts.write_pairs(config, np.random.default_rng([EXPERT_STREAM, seed]), out / "preferences")
    if progress:
        progress(config.days + 1, config.days + 1, "expert pairs")
    replies = max(counts["replies"], 1)
    return Produced(
        rows={"messages": counts["messages"], "reactions": counts["reactions"], **pairs},
        metrics={
            "days": config.days,
            "replies": counts["replies"],
            "loves": counts["loves"],
            "love_rate": counts["loves"] / replies,
            "farewell_rate": counts["farewells"] / replies,
            "users": len(seen),
            "planted_defects": counts["defects"],
        },
    )


def _play_day(
    config: SimulationConfig,
    seed: int,
    day: int,
    population: users.Population,
    carried: Carried | None,
    salt: str,
    out: Path,
) -> tuple[users.Population, Carried, dict[str, int], list[str]]:
    """Simulate and write one day; what happens after its midnight is handed to the next."""
    rng = np.random.default_rng([DAY_STREAM, seed, day])
    date = config.start_date + timedelta(days=day)
    midnight = datetime.combine(date, time(), UTC)
    midnight_us = int(midnight.timestamp()) * 1_000_000
    policy = LOGGING if day < config.policy_change_day else LOGGING_NEXT
    population, turns = simulate_day(policy, population, day, config.replies_per_day, rng, salt)
    messages = messages_of(turns, population, policy, day, midnight_us, config.button_hidden_share, rng)
    replies = messages.tail(len(turns))
    reactions = reactions_of(turns, replies, population, day, rng)
    counts = {
        "replies": len(turns),
        "farewells": int((turns.replies.farewell > 0).sum()),
        "loves": int((reactions.filter(pl.col("signal") == "love")["value"].cast(pl.Int64) * 2 - 1).sum()),
    }
    messages, message_defects = plant_message_defects(messages, config.defect_rate, rng)
    reactions, reaction_defects = plant_reaction_defects(reactions, config.defect_rate, rng)
    if carried is not None:
        messages, reactions = pl.concat([carried[0], messages]), pl.concat([carried[1], reactions])
    end = pl.lit(midnight_us + DAY_US).cast(pl.Datetime("us", "UTC"))
    today, later = _split(messages, "created_at", end), _split(reactions, "reacted_at", end)
    _write(today[0].sort("created_at", "message_id"), out, "messages", date.isoformat())
    _write(later[0].sort("reacted_at", "reaction_id"), out, "reactions", date.isoformat())
    counts |= {"messages": len(today[0]), "reactions": len(later[0]), "defects": message_defects + reaction_defects}
    active = [population.user_id[user] for user in np.unique(turns.user)]
    return population, (today[1], later[1]), counts, active


def _split(rows: pl.DataFrame, time_column: str, end: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    return rows.filter(pl.col(time_column) < end), rows.filter(pl.col(time_column) >= end)


def _write(rows: pl.DataFrame, out: Path, table: str, date: str) -> None:
    folder = out / table / f"date={date}"
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / f"{table}.parquet", compression="zstd", compression_level=1)
