"""Labels of replies: last write wins, a revoked reaction is none, and silence counts only where it could have spoken.

A reply is a negative only where the reaction was offered and its attribution window has closed at `as_of`; until then
it is pending and has no label. (What the user could not react to is unknown, not disliked: ImplicitRM, 2603.23184.)
"""

from __future__ import annotations

import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.schemas import TIME, label_column


def label_replies(replies: pl.LazyFrame, reactions: pl.LazyFrame, config: ContractConfig) -> pl.LazyFrame:
    """Accepted replies with `status` (mature or pending) and `label_<signal>` (1, 0, null), in the order given.

    `reactions`: judged events with `source_row`; accepted ones count, and of equal times the later row wins. What a
    script reacted to has no label: neither the reaction nor its absence is the user's word.
    """
    scripted = reactions.filter(pl.col("defect") == "scripted_burst").select("message_id", scripted=True).unique()
    last = (
        reactions.filter(pl.col("defect").is_null())
        .sort("reacted_at", "source_row", nulls_last=False)
        .group_by("message_id", "user_id", "signal")
        .agg(pl.col("value").last())
        .filter(pl.col("value") == 1)
    )
    set_ones = last.group_by("message_id").agg(
        (pl.col("signal") == signal).any().alias(f"set_{signal}") for signal in config.signals
    )
    labelled = replies.join(set_ones, on="message_id", how="left", maintain_order="left").with_columns(
        status=pl.when(_mature(config)).then(pl.lit("mature")).otherwise(pl.lit("pending")),
        # Declared for what the source does not say; what it does say stands.
        reactions_shown=pl.col("reactions_shown").fill_null(True)
        if config.exposure == "all_shown"
        else pl.col("reactions_shown"),
    )
    labelled = labelled.join(scripted, on="message_id", how="left", maintain_order="left")
    offered = pl.col("reactions_shown").fill_null(False) & pl.col("scripted").is_null()
    known = (pl.col("status") == "mature") & offered
    return labelled.with_columns(
        pl.when(known).then(pl.col(f"set_{signal}").fill_null(False).cast(pl.Int8)).alias(label_column(signal))
        for signal in config.signals
    ).drop(f"set_{signal}" for signal in config.signals)


def _mature(config: ContractConfig) -> pl.Expr:
    if config.time == "none" or config.as_of is None:
        return pl.lit(True)
    closes = pl.col("created_at") + pl.duration(microseconds=int(config.attribution_window.total_seconds() * 1e6))
    return closes <= pl.lit(config.as_of).cast(TIME)
