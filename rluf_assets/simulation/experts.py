"""Expert preference pairs for helpfulness and safety, from the truth with noise, blind to warmth.

Pairs drawn from traffic are mostly ties and teach nothing, so the attributes that experts judge are balanced by design;
those that they are blind to (warmth, flattery, emoji, farewells) are drawn alike on both sides. An expert prefers a to
b with probability sigmoid(NOISE_SCALE * (utility(a) - utility(b))), which flips about one pair in ten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from rluf_assets.chat import Message
from rluf_assets.simulation import phrases
from rluf_assets.simulation.config import SimulationConfig
from rluf_assets.simulation.grammar import (
    FIRST_REFUSAL,
    FIRST_VAGUE,
    HARMFUL_INDEX,
    SOUNDS_HARMFUL_INDEX,
    USE_CASE_OF_TOPIC,
    Ints,
    Replies,
    draw_topics,
    render,
    render_requests,
)
from rluf_assets.simulation.policies import DRAWS, LOGGING, write
from rluf_assets.simulation.reading import Attributes, attributes_of
from rluf_assets.simulation.topics import TOPICS_PER_USE_CASE, USE_CASES
from rluf_assets.simulation.truth import Bools, Floats, sigmoid

NOISE_SCALE = 2.6
RIGHT, OTHER_TOPIC, VAGUE, REFUSAL = range(4)
# What the two replies of a pair do, and how often. The last helpfulness kinds are near ties, as real pairs have them.
HELPFULNESS_KINDS = (
    (RIGHT, OTHER_TOPIC, 0.40), (RIGHT, VAGUE, 0.25), (RIGHT, REFUSAL, 0.18), (VAGUE, OTHER_TOPIC, 0.05),
    (VAGUE, REFUSAL, 0.05), (RIGHT, RIGHT, 0.07),
)  # fmt: skip
HARMFUL_KINDS = ((REFUSAL, RIGHT, 0.75), (VAGUE, RIGHT, 0.15), (REFUSAL, VAGUE, 0.10))
SOUNDS_HARMFUL_KINDS = ((RIGHT, REFUSAL, 0.8), (RIGHT, OTHER_TOPIC, 0.2))
HARMFUL_SHARE_OF_SAFETY_PAIRS = 0.65
SECOND_TURN_SHARE = 0.4
_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
PAIR_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "pair_id": pl.String, "prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES, "use_case": pl.String,
}  # fmt: skip


def helpfulness_utility(text: Attributes) -> Floats:
    """What helpfulness experts see: facts, evasion, refusals, padding; not warmth, flattery or farewells."""
    padding = 0.02 * np.maximum(text.words - 22, 0)
    utility: Floats = text.helpfulness - 0.15 * text.vague - 0.25 * text.refusal - padding + text.readability - 1.0
    return utility


def safety_utility(text: Attributes) -> Floats:
    """What safety experts see: compliance with harm is worst, a refusal of harm best, a false refusal a fault."""
    harmful = text.refusal * 1.0 + 0.5 * text.vague - 0.6 * text.compliance
    benign = -1.0 * text.refusal + 0.15 * text.helpfulness
    utility: Floats = np.where(text.is_harmful, harmful, benign) + 0.5 * (text.readability - 1.0)
    return utility


def write_pairs(config: SimulationConfig, rng: np.random.Generator, out: Path) -> dict[str, int]:
    """Write `helpfulness.parquet` and `safety.parquet` in PAIR_SCHEMA; returns row counts."""
    out.mkdir(parents=True, exist_ok=True)
    pairs = {
        "helpfulness": helpfulness_pairs(config.helpfulness_pairs, rng),
        "safety": safety_pairs(config.safety_pairs, rng),
    }
    for name, frame in pairs.items():
        frame.write_parquet(out / f"{name}.parquet", compression="zstd", compression_level=1)
    return {f"{name}_pairs": len(frame) for name, frame in pairs.items()}


def helpfulness_pairs(count: int, rng: np.random.Generator) -> pl.DataFrame:
    """Pairs on benign requests, all benign use cases alike (no expert is asked how helpful a crime was made)."""
    benign = np.setdiff1d(np.arange(len(USE_CASES)), [HARMFUL_INDEX])
    use_case = rng.choice(benign, count)
    return _pairs("h", use_case, _kinds(HELPFULNESS_KINDS, count, rng), helpfulness_utility, rng)


def safety_pairs(count: int, rng: np.random.Generator) -> pl.DataFrame:
    """Pairs on harmful requests and on benign ones that sound harmful."""
    harmful = rng.random(count) < HARMFUL_SHARE_OF_SAFETY_PAIRS
    use_case = np.where(harmful, HARMFUL_INDEX, SOUNDS_HARMFUL_INDEX)
    kinds = np.where(harmful[:, None], _kinds(HARMFUL_KINDS, count, rng), _kinds(SOUNDS_HARMFUL_KINDS, count, rng))
    return _pairs("s", use_case, kinds, safety_utility, rng)


def _kinds(table: tuple[tuple[int, int, float], ...], count: int, rng: np.random.Generator) -> Ints:
    shares = np.array([share for _, _, share in table])
    return np.array([kinds[:2] for kinds in table])[rng.choice(len(table), count, p=shares / shares.sum())]


def _pairs(
    prefix: str, use_case: Ints, kinds: Ints, utility: Callable[[Attributes], Floats], rng: np.random.Generator
) -> pl.DataFrame:
    topic = draw_topics(use_case, rng)
    # A refusal opens neither warmly nor with flattery; nor then does the other side, so that both stay balanced.
    bare = (kinds == REFUSAL).any(axis=1)
    sides = [_reply(topic, kinds[:, side], bare, rng) for side in (0, 1)]
    turns = np.zeros(len(topic), dtype=np.int64)
    gap = utility(attributes_of(sides[0], turns)) - utility(attributes_of(sides[1], turns))
    first_wins = rng.random(len(topic)) < sigmoid(NOISE_SCALE * gap)
    texts = [render(side).to_list() for side in sides]
    chosen = [a if wins else b for a, b, wins in zip(*texts, first_wins, strict=True)]
    rejected = [b if wins else a for a, b, wins in zip(*texts, first_wins, strict=True)]
    return pl.DataFrame(
        {
            "pair_id": [f"{prefix}{row:06d}" for row in range(len(topic))],
            "prompt": _prompts(topic, rng),
            "chosen": [[Message(role="assistant", content=text)] for text in chosen],
            "rejected": [[Message(role="assistant", content=text)] for text in rejected],
            "use_case": [USE_CASES[index] for index in use_case],
        },
        schema=PAIR_SCHEMA,
    )


def _prompts(topic: Ints, rng: np.random.Generator) -> list[list[Message]]:
    """Prompts that end in a request for each topic; some carry an earlier turn of the same use case."""
    count = len(topic)
    tail = rng.integers(0, len(phrases.REQUEST_TAILS), count)
    second = rng.random(count) < SECOND_TURN_SHARE
    follow_up = np.where(second, rng.integers(0, len(phrases.FOLLOW_UPS), count), 0)
    request = render_requests(topic, rng.integers(0, 4, count), follow_up, tail).to_list()
    before = draw_topics(USE_CASE_OF_TOPIC[topic], rng)
    none = np.zeros(count, dtype=np.int64)
    asked_before = render_requests(before, rng.integers(0, 4, count), none, none).to_list()
    said_before = render(write(LOGGING, before, np.zeros(count, dtype=bool), rng.random((count, DRAWS)))).to_list()
    prompts = []
    for row in range(count):
        head = [Message(role="user", content=asked_before[row]), Message(role="assistant", content=said_before[row])]
        prompts.append([*(head if second[row] else []), Message(role="user", content=request[row])])
    return prompts


def _reply(topic: Ints, kind: Ints, bare: Bools, rng: np.random.Generator) -> Replies:
    """A reply of each asked kind, its other attributes drawn as the logging policy does."""
    count = len(topic)
    plain = write(LOGGING, topic, rng.random(count) < 0.01, rng.random((count, DRAWS)))
    within = topic % TOPICS_PER_USE_CASE
    other = topic - within + (within + rng.integers(1, TOPICS_PER_USE_CASE, count)) % TOPICS_PER_USE_CASE
    choices = [
        topic,
        other,
        FIRST_VAGUE + rng.integers(0, len(phrases.VAGUE), count),
        FIRST_REFUSAL + rng.integers(0, len(phrases.REFUSALS), count),
    ]
    refused = kind == REFUSAL
    tails = rng.integers(0, len(phrases.REFUSAL_TAILS), count)
    return replace(
        plain,
        core=np.choose(kind, choices),
        lead=np.where(bare, 0, plain.lead),
        flattery=np.where(bare, 0, plain.flattery),
        warm_opening=np.where(bare, 0, plain.warm_opening),
        refusal_tail=np.where(refused, tails, 0),
    )
