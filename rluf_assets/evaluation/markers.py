"""Figures of a reply that need nothing but its text, as Polars expressions: a million logged replies are one pass."""

from __future__ import annotations

import polars as pl

from rluf_assets.text import EMOJI, ENDS_CONVERSATION, FAREWELL, FLATTERY, REFUSAL, words


def text_features(text: pl.Expr) -> list[pl.Expr]:
    """Numbers per reply that need nothing but its text."""
    return [
        FAREWELL.share(text).alias("farewell"),
        ENDS_CONVERSATION.share(text).alias("ends_conversation"),
        FLATTERY.share(text).alias("sycophancy"),
        REFUSAL.share(text).alias("refusal"),
        text.str.len_chars().cast(pl.Float64).alias("length"),
        text.str.count_matches("!", literal=True).cast(pl.Float64).alias("exclamation"),
        text.str.count_matches(EMOJI).cast(pl.Float64).alias("emoji"),
        _repetition(text).alias("repetition"),
    ]


def _repetition(text: pl.Expr) -> pl.Expr:
    """Share of a reply's words that repeat an earlier word pair: 1 - distinct bigrams / bigrams; 0 below two words."""
    tokens = words(text)
    pairs = tokens.list.eval(pl.element() + " " + pl.element().shift(-1)).list.drop_nulls()
    return (1 - pairs.list.n_unique() / pairs.list.len()).fill_nan(0.0).fill_null(0.0)


def last_user_message(prompt: pl.Expr) -> pl.Expr:
    """Content of a prompt's last message."""
    return prompt.list.last().struct.field("content")


def edge(text: pl.Expr, *, count: int, end: bool) -> pl.Expr:
    """First or last `count` words of a reply, as one string: its opening or closing template."""
    tokens = words(text)
    return (tokens.list.tail(count) if end else tokens.list.head(count)).list.join(" ")
