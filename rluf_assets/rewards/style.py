"""Surface features of replies that a reward should not simply follow: length, emoji, exclamation marks, farewells."""

from __future__ import annotations

import polars as pl

from rluf_assets.text import EMOJI, FAREWELL


def style_features(replies: pl.Series) -> pl.DataFrame:
    """Columns length (characters), emoji and exclamation (counts), farewell (0/1), all Float64, one row per reply."""
    text = pl.col("reply")
    return pl.DataFrame({"reply": replies}).select(
        length=text.str.len_chars().cast(pl.Float64),
        emoji=text.str.count_matches(EMOJI).cast(pl.Float64),
        exclamation=text.str.count_matches("!", literal=True).cast(pl.Float64),
        farewell=FAREWELL.share(text),
    )
