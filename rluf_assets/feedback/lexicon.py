"""A small sentiment lexicon for users' next messages: what counts as pleased or displeased, stated in full.

Deliberately short and general; it ignores negation and irony. It is used only to ask whether a signal agrees with what
users say next more often than chance, never to label anything.
"""

from __future__ import annotations

import polars as pl

PLEASED = (
    "thanks", "thank you", "thx", "ty", "great", "good", "nice", "perfect", "awesome", "amazing", "excellent",
    "lovely", "love", "loved", "wonderful", "brilliant", "helpful", "helped", "cool", "fun", "funny", "haha",
    "lol", "happy", "glad", "beautiful", "sweet", "fantastic", "works", "worked", "exactly", "yay", "wow",
    "appreciate", "best",
)  # fmt: skip
DISPLEASED = (
    "wrong", "bad", "useless", "unhelpful", "no", "nope", "not", "terrible", "awful", "horrible", "stupid", "hate",
    "hated", "annoying", "boring", "confusing", "confused", "incorrect", "mistake", "false", "broken", "fails",
    "failed", "ugh", "worse", "worst", "rude", "disappointed", "disappointing", "nonsense", "rubbish", "again",
    "instead", "still", "sad",
)  # fmt: skip


def sentiment(text: pl.Expr) -> pl.Expr:
    """Expression: 1 pleased, -1 displeased, 0 neither or both alike (more words of one list than of the other)."""
    low = text.str.to_lowercase()
    return (low.str.count_matches(_words(PLEASED)).cast(pl.Int32) - low.str.count_matches(_words(DISPLEASED))).sign()


def _words(words: tuple[str, ...]) -> str:
    return rf"\b(?:{'|'.join(words)})\b"
