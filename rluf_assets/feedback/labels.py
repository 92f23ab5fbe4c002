"""Labels of replies have three values: yes, no and unknown. Worse data can only turn a label into unknown.

*Yes*: an accepted reaction is in force (the last write of a user; a revoked one is none). *No*: the reaction was offered,
its window has closed with all its days of reactions read, and nothing about this reply's reactions is in doubt. *Unknown*
otherwise: not offered, pending, a reaction set aside for its own defect, scripted, the earlier part of a reply in parts
that nobody marked. (What the user could not react to is unknown, not disliked: ImplicitRM, 2603.23184.)
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.schemas import TIME, label_column

_KEY = ["conversation_id", "message_id"]


def label_replies(
    replies: pl.DataFrame, reactions: pl.DataFrame, doubts: pl.DataFrame, config: ContractConfig
) -> pl.DataFrame:
    """Accepted replies with `status` (mature or pending) and `label_<signal>` (1, 0, null), in the order given.

    `reactions`: what `judge_reactions` made; `doubts`: labels that are unknown. Of several events of a user about one
    reply and signal the last counts; where two of the last time say different things, nothing is known.
    """
    heard = _heard(reactions, doubts, config)
    # Few replies have a reaction: theirs are found by the small side, and written into columns of silence.
    ids = replies.select(*_KEY).with_row_index("row")
    ids = ids.filter(pl.col("message_id").hash().is_in(heard["message_id"].hash().implode()))
    heard = heard.join(ids, on=_KEY)
    facts = {name: _spread(heard, name, replies.height) for name in heard.columns if name not in (*_KEY, "row")}
    shown = pl.col("reactions_shown")
    labelled = replies.with_columns(
        status=pl.when(_mature(config)).then(pl.lit("mature")).otherwise(pl.lit("pending")),
        # Declared for what the source does not say; what it does say stands.
        reactions_shown=shown.fill_null(True) if config.exposure == "all_shown" else shown,
    )
    known = (pl.col("status") == "mature") & pl.col("reactions_shown").fill_null(False)
    # Silence about a part that another part follows says nothing: who marks a reply marks its end.
    silent = ~pl.col("continued")
    return labelled.with_columns(
        pl.when(known & ~facts[f"doubt_{signal}"] & (facts[f"set_{signal}"] | silent))
        .then(facts[f"set_{signal}"].cast(pl.Int8))
        .alias(label_column(signal))
        for signal in config.signals
    )


def _heard(reactions: pl.DataFrame, doubts: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
    """Per reply that any record names: `set_<signal>` and `doubt_<signal>`."""
    when = pl.coalesce("updated_at", "at")
    last = when.is_null() | (when == when.max())
    values = pl.col("value").filter(last.fill_null(True))
    # An event without a time of its own can stand before or after any other.
    undated = pl.col("reacted_at").is_null()
    mixed = pl.col("value").n_unique() > 1
    users = (
        reactions.filter(pl.col("defect").is_null())
        .group_by(conversation_id="reply_conversation", message_id="message_id", user_id="user_id", signal="signal")
        .agg(on=values.max() == 1, doubt=(values.n_unique() > 1) | (undated.any() & mixed))
    )
    both = pl.concat([
        users.select(*_KEY, "signal", "on", "doubt"),
        doubts.select(*_KEY, "signal", on=False, doubt=True),
    ])  # fmt: skip
    named = {
        signal: (pl.col("signal") == signal) | pl.col("signal").is_null() for signal in config.signals
    }  # a doubt without a signal is about all of them
    return both.group_by(_KEY).agg(
        *((one & pl.col("on")).any().alias(f"set_{signal}") for signal, one in named.items()),
        *((one & pl.col("doubt")).any().alias(f"doubt_{signal}") for signal, one in named.items()),
    )


def _spread(heard: pl.DataFrame, name: str, rows: int) -> pl.Series:
    """True in the rows for which `heard` says so."""
    where = heard.filter(pl.col(name).fill_null(False))["row"]
    return pl.repeat(False, rows, dtype=pl.Boolean, eager=True).alias(name).scatter(where, True)


def _mature(config: ContractConfig) -> pl.Expr:
    if config.time == "none" or config.as_of is None:
        return pl.lit(True)
    window = pl.duration(microseconds=config.attribution_window // timedelta(microseconds=1))
    return pl.col("created_at") + window <= pl.lit(config.as_of).cast(TIME)
