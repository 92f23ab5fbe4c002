"""Ten past launches: separate policies, the text they wrote for the evaluation prompts, and their own A/B counts.

They ran before the log period. A policy's true love rate is integrated over natural contexts and users; its A/B test
then samples users with unequal propensity to react, so the observed change has the error of a real test.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.simulation import truth
from rluf_assets.simulation.config import LaunchesConfig
from rluf_assets.simulation.contexts import natural_turns
from rluf_assets.simulation.grammar import N_TOPICS, render
from rluf_assets.simulation.policies import DRAWS, LOGGING, PAST_POLICIES, ReplyPolicy, write
from rluf_assets.simulation.reading import attributes_of, read_requests

CONTROL = "control"
REPLIES_PER_USER = 6.5
WEEKS_APART = 3
_Z = 1.959964


def write_texts(prompts: pl.DataFrame, seed: int, stream: int) -> pl.DataFrame:
    """(policy, prompt_id, completion) of the control and of each past policy, for prompts (prompt_id, prompt).

    All policies answer with the same luck, so that their texts differ only where the policies do. Raises DataError for
    missing columns or no prompts.
    """
    missing = {"prompt_id", "prompt"} - set(prompts.columns)
    if missing or prompts.is_empty():
        raise DataError(
            f"evaluation prompts: found {len(prompts)} rows with columns {prompts.columns}, expected at least one row "
            "with prompt_id and prompt. Materialise evaluation_prompts."
        )
    rng = np.random.default_rng([stream, seed, 0])
    turn, topic = read_requests(prompts["prompt"])
    topic = np.where(topic < 0, rng.integers(0, N_TOPICS, len(topic)), topic)
    happy = rng.random(len(topic)) < truth.happy_probability(turn)
    draws = rng.random((len(topic), DRAWS))
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "policy": [name] * len(prompts),
                    "prompt_id": prompts["prompt_id"],
                    "completion": render(write(policy, topic, happy, draws)),
                }
            )
            for name, policy in ((CONTROL, LOGGING), *((policy.name, policy) for policy in PAST_POLICIES))
        ]
    )


def true_love_rates(policies: list[ReplyPolicy], contexts: int, rng: np.random.Generator) -> list[float]:
    """P(love) of a reply of each policy in natural traffic, over the same contexts and draws."""
    turns = natural_turns(contexts // 3, rng, "launch")
    draws = rng.random((len(turns), DRAWS))
    rates = []
    for policy in policies:
        text = attributes_of(write(policy, turns.replies.topic, turns.happy, draws), turns.turn)
        rates.append(float(truth.expected_love(text, turns.happy.astype(np.float64)).mean()))
    return rates


def ab_counts(rate: float, user_count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Replies and loves per user of an arm with the given love rate; heavy-tailed usage, unequal propensities."""
    usage = rng.gamma(0.8, 1 / 0.8, user_count)
    replies = 1 + rng.poisson((REPLIES_PER_USER - 1) * usage)
    propensity = rng.lognormal(-(truth.LOG_PROPENSITY_SD**2) / 2, truth.LOG_PROPENSITY_SD, user_count)
    return replies, rng.binomial(replies, np.minimum(rate * propensity, 1.0))


def play_launches(
    config: LaunchesConfig, seed: int, stream: int, progress: Callable[[int, int, str], None] | None = None
) -> pl.DataFrame:
    """One row per past policy: its launch, both arms' counts, the observed change of love and its interval."""
    rng = np.random.default_rng([stream, seed, 1])
    rates = true_love_rates([LOGGING, *PAST_POLICIES], config.contexts, rng)
    first = datetime.combine(config.logs_start, time(), UTC) - timedelta(weeks=WEEKS_APART * len(PAST_POLICIES))
    rows = []
    for number, policy in enumerate(PAST_POLICIES):
        treatment = ab_counts(rates[1 + number], config.users_per_arm, rng)
        control = ab_counts(rates[0], config.users_per_arm, rng)
        change, low, high = _change(treatment, control)
        rows.append(
            {
                "policy": policy.name,
                "description": policy.description,
                "launched_at": first + timedelta(weeks=WEEKS_APART * number),
                "treatment_users": config.users_per_arm,
                "treatment_replies": int(treatment[0].sum()),
                "treatment_loves": int(treatment[1].sum()),
                "control_users": config.users_per_arm,
                "control_replies": int(control[0].sum()),
                "control_loves": int(control[1].sum()),
                "observed_change": change,
                "observed_change_ci_low": low,
                "observed_change_ci_high": high,
            }
        )
        if progress:
            progress(number + 1, len(PAST_POLICIES), policy.name)
    return pl.DataFrame(rows).with_columns(pl.col("launched_at").cast(pl.Datetime("us", "UTC")))


def _change(
    treatment: tuple[np.ndarray, np.ndarray], control: tuple[np.ndarray, np.ndarray]
) -> tuple[float | None, float | None, float | None]:
    """Relative change of the love rate with a 95% interval on the log scale, users as clusters (delta method)."""
    if treatment[1].sum() == 0 or control[1].sum() == 0:
        return None, None, None
    log_ratio, variance = 0.0, 0.0
    for sign, (replies, loves) in ((1, treatment), (-1, control)):
        rate = loves.sum() / replies.sum()
        log_ratio += sign * np.log(rate)
        variance += float(((loves - rate * replies) ** 2).sum()) / loves.sum() ** 2
    margin = _Z * np.sqrt(variance)
    return tuple(float(np.expm1(log_ratio + shift)) for shift in (0.0, -margin, margin))  # type: ignore[return-value]
