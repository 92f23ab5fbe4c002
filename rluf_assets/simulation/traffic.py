"""One day of conversations, turn by turn over all of the day's conversations at once.

`simulate_day` moves the population by a day and returns what was said and felt; `messages_of` makes the canonical
message rows of it. Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rluf_assets.simulation import phrases, truth, users
from rluf_assets.simulation.grammar import Ints, Replies, draw_topics, render, render_requests
from rluf_assets.simulation.policies import DRAWS, ReplyPolicy, log_probability, write
from rluf_assets.simulation.reading import Attributes, attributes_of
from rluf_assets.simulation.topics import SHARES, USE_CASES
from rluf_assets.simulation.truth import Bools, Floats

MAX_TURNS = 12
DAY_US = 86_400_000_000
ARMS = (None, "exp-0412:control", "exp-0412:treatment")
# Share of the day's conversations that start in each hour (UTC).
_HOURS = np.array([3, 2, 2, 1, 1, 1, 2, 3, 4, 4, 4, 5, 6, 6, 5, 5, 5, 5, 6, 7, 8, 7, 5, 4], dtype=float)
_SHARES = np.array(SHARES) / sum(SHARES)
_N_NEUTRAL, _N_PLEASED = len(phrases.NEUTRAL_FOLLOW_UPS), len(phrases.PLEASED_FOLLOW_UPS)


@dataclass(frozen=True)
class Turns:
    """What happened at some turns; arrays of one length, one entry per turn."""

    conversation: Ints  # index within the day
    user: Ints  # index into the population
    turn: Ints
    template: Ints
    follow_up: Ints
    request_tail: Ints
    replies: Replies
    happy: Bools
    felt: Floats
    left: Bools

    def __len__(self) -> int:
        return len(self.turn)

    @property
    def attributes(self) -> Attributes:
        return attributes_of(self.replies, self.turn)

    @classmethod
    def concat(cls, parts: list[Turns]) -> Turns:
        names = [name for name in cls.__dataclass_fields__ if name != "replies"]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(replies=Replies.concat([part.replies for part in parts]), **arrays)


def converse(
    policy: ReplyPolicy, population: users.Population, user: Ints, use_case: Ints, rng: np.random.Generator
) -> Turns:
    """Conversations of the given users, to their end. `user` and `use_case` have one entry per conversation."""
    alive = np.arange(len(user))
    felt = np.full(len(user), 0.5)
    parts = []
    for turn in range(MAX_TURNS):
        step = _one_turn(policy, population, alive, user[alive], use_case[alive], felt[alive], turn, rng)
        parts.append(step)
        felt[alive] = step.felt
        alive = alive[~step.left]
        if len(alive) == 0:
            break
    return Turns.concat(parts)


def _one_turn(
    policy: ReplyPolicy,
    population: users.Population,
    conversation: Ints,
    user: Ints,
    use_case: Ints,
    felt_before: Floats,
    turn: int,
    rng: np.random.Generator,
) -> Turns:
    count = len(conversation)
    turns = np.full(count, turn)
    topic = draw_topics(use_case, rng)
    happy = rng.random(count) < truth.happy_probability(turns)
    extra = population.in_experiment[user] == 2
    replies = write(policy, topic, happy, rng.random((count, DRAWS)), extra_filler=extra)
    text = attributes_of(replies, turns)
    felt = truth.satisfaction(text, population.taste[user], happy)
    left = (rng.random(count) < truth.leave_probability(text, felt, happy)) | (turn == MAX_TURNS - 1)
    return Turns(
        conversation=conversation,
        user=user,
        turn=turns,
        template=rng.integers(0, 4, count),
        follow_up=_follow_ups(felt_before, rng) if turn else np.zeros(count, dtype=np.int64),
        request_tail=rng.integers(0, len(phrases.REQUEST_TAILS), count),
        replies=replies,
        happy=happy,
        felt=felt,
        left=left,
    )


def _follow_ups(felt_before: Floats, rng: np.random.Generator) -> Ints:
    """Follow-up words: half neutral, the others pleased or displeased with the reply before."""
    count = len(felt_before)
    pleased = rng.random(count) < truth.sigmoid(2.0 * (felt_before - 0.4))
    group = np.where(rng.random(count) < 0.5, 0, np.where(pleased, 1, 2))
    start = np.array([0, _N_NEUTRAL, _N_NEUTRAL + _N_PLEASED])[group]
    return start + rng.integers(0, 4, count)


def simulate_day(
    policy: ReplyPolicy,
    population: users.Population,
    day: int,
    replies_per_day: int,
    rng: np.random.Generator,
    salt: str,
) -> tuple[users.Population, Turns]:
    """One day: who comes back, who arrives, what they say. Returns the population after it and the day's turns."""
    active = users.returning(population, day, rng)
    arrivals = users.draw_users(users.new_users(replies_per_day, rng), day, rng, salt)
    population = users.join(population, arrivals)
    active = np.concatenate([active, np.arange(len(population) - len(arrivals), len(population))])
    per_user = users.conversations_today(population, active, rng)
    user = np.repeat(active, per_user)
    use_case = rng.choice(len(USE_CASES), len(user), p=_SHARES)
    turns = converse(policy, population, user, use_case, rng)
    said = np.bincount(turns.user, minlength=len(population))
    total = np.bincount(turns.user, weights=turns.felt, minlength=len(population))
    population.felt[active] = total[active] / said[active]
    population.last_active[active] = day
    return population, turns


def clock(turns: Turns, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times of the request and of the reply of each turn, in microseconds since the day's midnight."""
    conversations = int(turns.conversation.max()) + 1
    hour = rng.choice(24, conversations, p=_HOURS / _HOURS.sum())
    start = ((hour + rng.random(conversations)) * 3_600e6).astype(np.int64)
    pause = np.zeros((conversations, MAX_TURNS), dtype=np.int64)
    pause[turns.conversation, turns.turn] = (10e6 + rng.exponential(50e6, len(turns))).astype(np.int64)
    pause[:, 0] = 0
    asked = start[turns.conversation] + pause.cumsum(axis=1)[turns.conversation, turns.turn]
    return asked, asked + (1e6 + rng.random(len(turns)) * 6e6).astype(np.int64)


def messages_of(
    turns: Turns,
    population: users.Population,
    policy: ReplyPolicy,
    day: int,
    midnight_us: int,
    button_hidden_share: float,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Canonical message rows of a day's turns: all requests, then all replies, in the order of `turns`."""
    asked, answered = clock(turns, rng)
    shown = rng.random(len(turns)) >= button_hidden_share
    longer = population.in_experiment[turns.user] == 2
    conversation = pl.select(
        (pl.lit(f"c{day:03d}-") + pl.Series(turns.conversation).cast(pl.String).str.zfill(6)).alias("conversation_id")
    ).to_series()
    common = pl.DataFrame(
        {
            "conversation_id": conversation,
            "turn_index": pl.Series(turns.turn, dtype=pl.Int32),
            "user_id": pl.Series(population.user_id).gather(turns.user),
            "experiment_arm": pl.Series(ARMS, dtype=pl.String).gather(population.in_experiment[turns.user]),
            "use_case": pl.Series(USE_CASES).gather(turns.attributes.use_case),
            "locale": pl.Series(users.LOCALES).gather(population.locale[turns.user]),
            "assignment_probability": pl.Series(users.ARM_SHARES).gather(population.in_experiment[turns.user]),
        }
    ).with_columns(pl.lit(policy.name).alias("policy_version"))
    number = pl.col("conversation_id") + "-" + pl.col("turn_index").cast(pl.String).str.zfill(2)
    requests = common.with_columns(
        (number + "-u").alias("message_id"),
        pl.lit("user").alias("role"),
        render_requests(turns.replies.topic, turns.template, turns.follow_up, turns.request_tail).alias("content"),
        pl.Series("created_at", midnight_us + asked),
        pl.lit(None, dtype=pl.Boolean).alias("reactions_shown"),
        pl.lit(None, dtype=pl.Float64).alias("reply_logprob"),
    )
    replies = common.with_columns(
        (number + "-a").alias("message_id"),
        pl.lit("assistant").alias("role"),
        render(turns.replies).alias("content"),
        pl.Series("created_at", midnight_us + answered),
        pl.Series("reactions_shown", shown),
        pl.Series("reply_logprob", log_probability(policy, turns.replies, turns.happy, longer)),
    )
    return (
        pl.concat([requests, replies])
        .select(*MESSAGE_COLUMNS)
        .with_columns(pl.col("created_at").cast(pl.Datetime("us", "UTC")))
    )


MESSAGE_COLUMNS = (
    "conversation_id", "message_id", "turn_index", "role", "content", "user_id", "created_at", "policy_version",
    "experiment_arm", "use_case", "locale", "reactions_shown", "assignment_probability", "reply_logprob",
)  # fmt: skip
