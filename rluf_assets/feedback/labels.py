"""Labels of replies: last write wins, a revoked reaction is none, and silence counts only where it could have spoken.

A reply is a negative only where the reaction was offered and its attribution window has closed at `as_of`; until then
it is pending and has no label. (What the user could not react to is unknown, not disliked: ImplicitRM, 2603.23184.)
"""

from __future__ import annotations

import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.schemas import TIME, label_column


def label_replies(replies: pl.DataFrame, reactions: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
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
    # Few replies have a reaction: theirs are found by the small side, and written into columns of silence.
    heard = set_ones.join(scripted, on="message_id", how="full", coalesce=True)
    ids = replies.select("message_id").with_row_index("row")
    ids = ids.filter(pl.col("message_id").hash().is_in(heard["message_id"].hash().implode()))
    heard = heard.join(ids, on="message_id")
    facts = {name: _spread(heard, name, replies.height) for name in heard.columns if name not in ("message_id", "row")}
    shown = pl.col("reactions_shown")
    labelled = replies.with_columns(
        status=pl.when(_mature(config)).then(pl.lit("mature")).otherwise(pl.lit("pending")),
        # Declared for what the source does not say; what it does say stands.
        reactions_shown=shown.fill_null(True) if config.exposure == "all_shown" else shown,
    )
    known = (pl.col("status") == "mature") & pl.col("reactions_shown").fill_null(False) & ~facts["scripted"]
    return labelled.with_columns(
        pl.when(known).then(facts[f"set_{signal}"].cast(pl.Int8)).alias(label_column(signal))
        for signal in config.signals
    )


def _spread(heard: pl.DataFrame, name: str, rows: int) -> pl.Series:
    """True in the rows for which `heard` says so."""
    where = heard.filter(pl.col(name).fill_null(False))["row"]
    return pl.repeat(False, rows, dtype=pl.Boolean, eager=True).alias(name).scatter(where, True)


def _mature(config: ContractConfig) -> pl.Expr:
    if config.time == "none" or config.as_of is None:
        return pl.lit(True)
    closes = pl.col("created_at") + pl.duration(microseconds=int(config.attribution_window.total_seconds() * 1e6))
    return closes <= pl.lit(config.as_of).cast(TIME)
