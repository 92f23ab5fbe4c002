"""Surface features of replies that a reward should not simply follow: length, emoji, exclamation marks, farewells."""

from __future__ import annotations

import polars as pl

EMOJI = r"[\x{2600}-\x{27BF}\x{1F300}-\x{1FAFF}]"
FAREWELL = r"(?i)\b(good ?bye|bye|farewell|see you|take care|talk (to you )?soon|until next time|sending (you )?love)\b"


def style_features(replies: pl.Series) -> pl.DataFrame:
    """Columns length (characters), emoji and exclamation (counts), farewell (0/1), all Float64, one row per reply."""
    text = pl.col("reply")
    return pl.DataFrame({"reply": replies}).select(
        length=text.str.len_chars().cast(pl.Float64),
        emoji=text.str.count_matches(EMOJI).cast(pl.Float64),
        exclamation=text.str.count_matches("!", literal=True).cast(pl.Float64),
        farewell=text.str.contains(FAREWELL).cast(pl.Float64),
    )
