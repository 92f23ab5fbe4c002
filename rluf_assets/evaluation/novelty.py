"""How far a reply lies from the logged ones: the share of its word n-grams that no logged reply holds.

The reference is what P[signal] learned from; the threshold comes from later logged replies that it never saw, so "far"
means farther than (almost) all real traffic is.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import HackingAuditConfig
from rluf_assets.text import words


@dataclass(frozen=True)
class Novelty:
    """Known n-grams (one column, `gram`) and the novelty above which a reply counts as far from the logs."""

    known: pl.DataFrame
    size: int
    threshold: float

    def of(self, completions: pl.Series) -> pl.Series:
        """Share of unseen n-grams per reply, in order; 0 for replies shorter than one n-gram."""
        replies = pl.DataFrame({"completion": completions}).with_row_index("doc")
        grams = _grams(replies, self.size)
        unseen = (
            grams.join(self.known.with_columns(pl.lit(True).alias("seen")), on="gram", how="left")
            .group_by("doc")
            .agg(pl.col("seen").is_null().mean().alias("novelty"))
        )
        return replies.join(unseen, on="doc", how="left", maintain_order="left")["novelty"].fill_null(0.0)

    def far(self, completions: pl.Series) -> pl.Series:
        """1.0 for replies beyond the threshold."""
        return (self.of(completions) > self.threshold).cast(pl.Float64)


def fit_novelty(reference: pl.Series, recent: pl.Series, config: HackingAuditConfig) -> Novelty:
    """Learn the known n-grams from `reference` replies and the threshold from `recent` ones.

    Raises DataError if either is empty.
    """
    if not len(reference) or not len(recent):
        raise DataError(
            f"logged replies: found {len(reference)} to learn from and {len(recent)} to set the threshold by, expected "
            "some of each. Materialise signal_set with a holdout."
        )
    frame = pl.DataFrame({"completion": reference}).with_row_index("doc")
    known = _grams(frame, config.novelty_ngram).select("gram").unique()
    free = Novelty(known, config.novelty_ngram, 0.0)
    quantile = free.of(recent).quantile(config.novelty_quantile) or 0.0
    return Novelty(known, config.novelty_ngram, max(config.novelty_floor, float(quantile)))


def _grams(replies: pl.DataFrame, size: int) -> pl.DataFrame:
    flat = replies.select("doc", words(pl.col("completion")).alias("word")).explode("word", empty_as_null=False)
    following = [pl.col("word").shift(-k) for k in range(size)]
    same = pl.col("doc").shift(-(size - 1)) == pl.col("doc")
    return flat.select("doc", pl.concat_str(following, separator=" ").alias("gram"), same.alias("inside")).filter(
        pl.col("inside")
    )
