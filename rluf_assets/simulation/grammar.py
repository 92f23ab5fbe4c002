"""From latent choices to text: [lead | flattery | warm opening] core [fillers] [tail] [closing] [emoji] [farewell].

`Replies` is a struct of arrays of indices into phrase lists; `render` gathers and joins them in Polars, so that a
million replies take seconds. `PIECES` order is the order in the text.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rluf_assets.simulation import phrases
from rluf_assets.simulation.topics import (
    HARMFUL,
    REQUESTS,
    REQUESTS_PER_TOPIC,
    SOUNDS_HARMFUL,
    TOPICS,
    TOPICS_PER_USE_CASE,
    USE_CASES,
)

Ints = NDArray[np.int64]

N_TOPICS = len(TOPICS)
FIRST_VAGUE = N_TOPICS
FIRST_REFUSAL = FIRST_VAGUE + len(phrases.VAGUE)
# The core sentence of a reply: a topic's answer, a vague sentence or a refusal.
CORES: tuple[str, ...] = tuple(
    f"{text} " for text in (*(topic.answer for topic in TOPICS), *phrases.VAGUE, *phrases.REFUSALS)
)
USE_CASE_OF_TOPIC: Ints = np.repeat(np.arange(len(USE_CASES)), TOPICS_PER_USE_CASE)
HARMFUL_INDEX = USE_CASES.index(HARMFUL)
SOUNDS_HARMFUL_INDEX = USE_CASES.index(SOUNDS_HARMFUL)
EMOJI_CHOICES = (*phrases.EMOJI, *phrases.EMOJI_BURSTS[1:])

PIECES: dict[str, tuple[str, ...]] = {
    "lead": phrases.LEADS,
    "flattery": phrases.FLATTERY,
    "warm_opening": phrases.WARM_OPENINGS,
    "core": CORES,
    "filler": phrases.FILLERS,
    "second_filler": phrases.FILLERS,
    "refusal_tail": phrases.REFUSAL_TAILS,
    "warm_closing": phrases.WARM_CLOSINGS,
    "emoji": EMOJI_CHOICES,
    "farewell": phrases.FAREWELLS,
}


@dataclass(frozen=True)
class Replies:
    """Indices into PIECES, one array per piece, all of one length; `topic` is what the user asked about."""

    topic: Ints
    lead: Ints
    flattery: Ints
    warm_opening: Ints
    core: Ints
    filler: Ints
    second_filler: Ints
    refusal_tail: Ints
    warm_closing: Ints
    emoji: Ints
    farewell: Ints

    def __len__(self) -> int:
        return len(self.topic)

    @classmethod
    def concat(cls, parts: list[Replies]) -> Replies:
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def render(replies: Replies) -> pl.Series:
    """The text of each reply."""
    pieces = [pl.Series(name, choices).gather(getattr(replies, name)) for name, choices in PIECES.items()]
    return pl.select(pl.concat_str(pieces).str.strip_chars_end().alias("content")).to_series()


def render_requests(topic: Ints, template: Ints, follow_up: Ints, tail: Ints) -> pl.Series:
    """The text of user messages: follow-up word, request for the topic, tail."""
    request = pl.Series("request", REQUESTS).gather(topic * REQUESTS_PER_TOPIC + template)
    start = pl.Series("start", phrases.FOLLOW_UPS).gather(follow_up)
    end = pl.Series("end", phrases.REQUEST_TAILS).gather(tail)
    return pl.select(pl.concat_str([start, request, end]).alias("content")).to_series()


def draw_topics(use_case: Ints, rng: np.random.Generator) -> Ints:
    """A topic of each use case, uniformly."""
    return use_case * TOPICS_PER_USE_CASE + rng.integers(0, TOPICS_PER_USE_CASE, len(use_case))
