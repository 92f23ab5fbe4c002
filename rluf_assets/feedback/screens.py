"""Cheap screens before the row contract: which messages, and which conversations, could have any defect at all.

Nearly all rows are sound. The conditions here are necessary ones, over integers and hashes and one pass over the
texts; only what they let through is judged in full (`defects.py`). A screen may pass too much, never too little: that
both ways find the same is a property test.
"""

from __future__ import annotations

import polars as pl

from rluf_assets.feedback.config import ContractConfig

ROLES = {"system": 0, "user": 1, "assistant": 2}  # the order within a turn


def suspect_messages(config: ContractConfig, times: pl.Expr) -> pl.Expr:
    """Expression: whether a message by itself could be bad; `times` says whether its time is."""
    content, turn = pl.col("content"), pl.col("turn_index")
    return pl.any_horizontal(
        *((pl.col(name).str.strip_chars() == "").fill_null(True) for name in ("conversation_id", "message_id")),
        (pl.col("user_id").str.strip_chars() == "").fill_null(True),
        ~pl.col("role").is_in(list(ROLES)).fill_null(False),
        turn.is_null() | (turn < 0),
        times,
        (content.str.strip_chars() == "").fill_null(True),
        content.str.len_bytes() > config.max_chars,
        content.str.contains_any(["<", "\ufffd"]),
    ).fill_null(True)


def touching(previous: pl.DataFrame, today: pl.DataFrame) -> pl.DataFrame:
    """The rows of the day before that share a conversation, or a message id, with today's."""
    shared = [
        pl.col(name).hash().is_in(today[name].hash().implode()) for name in ("conversation_id", "message_id")
    ]  # fmt: skip
    return previous.filter(pl.any_horizontal(shared).fill_null(False))


def suspect_conversations(rows: pl.DataFrame, *, timed: bool) -> pl.Series:
    """Per row (with `defect`): whether something could be odd about its conversation as a whole.

    That is: a bad row in it, two users (a bot's id counts), turns or times that fall, parents, a reply that does not
    follow a user's message, or (where there are times) the same texts and times as in another conversation.
    """
    rank = pl.col("role").replace_strict(ROLES, default=3, return_dtype=pl.Int64)
    narrow = rows.select(
        conversation=pl.col("conversation_id").hash(), user=pl.col("user_id").hash(), content=pl.col("content").hash(),
        place=pl.col("turn_index").cast(pl.Int64) * 4 + rank, time=pl.col("created_at").to_physical(),
        sound=pl.col("defect").is_null(), parent=pl.col("parent_id").is_not_null(),
    )  # fmt: skip
    ordered = narrow.sort("conversation", maintain_order=True)
    same = pl.col("conversation") == pl.col("conversation").shift(1)
    place, before = pl.col("place"), pl.col("place").shift(1)
    answers = same & (before % 4 == ROLES["user"])
    falls = pl.any_horizontal(pl.col(name) < pl.col(name).shift(1) for name in ("place", "time"))
    odd = pl.any_horizontal(
        ~pl.col("sound"),
        "parent",
        same & falls,
        same & pl.col("user").ne_missing(pl.col("user").shift(1)),
        (place % 4 == ROLES["assistant"]) & ~answers.fill_null(False),
    ).fill_null(False)
    suspects = [ordered.filter(odd)["conversation"]]
    if timed:
        suspects.append(_repeated(ordered))
    found = pl.concat(suspects).unique()
    return narrow["conversation"].is_in(found.implode())


def _repeated(ordered: pl.DataFrame) -> pl.Series:
    """Conversations whose sound texts, and times, added up equal those of another one."""
    sums = (
        ordered.filter("sound")
        .with_columns(pl.col("conversation").set_sorted())
        .group_by("conversation")
        .agg(pl.col("content", "time").sum())
    )
    return sums.filter(pl.struct("content", "time").is_duplicated())["conversation"]
