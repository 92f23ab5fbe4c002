"""What can be wrong with a row, by name, and the Polars expressions that find it.

A message is judged by itself, then against its conversation; a reaction by itself, then against its message. The first
defect that applies names the row; what is judged later is judged among the rows that are still sound.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.screens import ROLES, suspect_conversations, suspect_messages, touching

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
# An opening tag that breaks off at or within an attribute's value; no tag is longer than what is looked at.
_CUT_TAG, _TAG_CHARS = r"<[A-Za-z][\w-]*(\s+[\w-]+=\"[^\"]*\")*\s+[\w-]+=(\"[^\"<>]*)?$", 200

# name -> what it means. The first that applies is the one a row is quarantined under.
MESSAGE_DEFECTS = {
    "missing_id": "conversation, message or user id is null or empty",
    "unknown_role": "role is not system, user or assistant",
    "bad_turn_index": "turn index is null or, on a user or system message, negative",
    "missing_time": "created_at is null or unreadable, in a source that has times",
    "future_time": "created_at lies after `as_of`",
    "other_day": "created_at lies on another day than the partition's",
    "empty_text": "content is null or blank",
    "overlong_text": "content is longer than `max_chars`",
    "cut_markup": "content ends inside an HTML tag: it was cut on its way into the log",
    "invalid_text": "content has U+FFFD: bytes that were no UTF-8, here or in the system that logged it",
    "duplicate_id": "an earlier row, of this day or the day before, has the same message id",
    "duplicate_conversation": "the same user's conversation came before under another id: same texts, same times",
    "other_user": "another user than the one who opened the conversation",
    "before_conversation": "created_at lies before the conversation's first message",
    "turn_order": "created_at lies before that of an earlier turn",
    "reply_without_user_message": "no accepted user message before it in the same turn",
}
REACTION_DEFECTS = {
    "missing_id": "reaction or message id is null or empty, or user id empty (null: the conversation's own user)",
    "unknown_signal": "signal is not one of the configured ones",
    "bad_value": "value is neither 1 (set) nor 0 (revoked)",
    "missing_time": "reacted_at is null or unreadable, in a source that has times",
    "future_time": "reacted_at lies after `as_of`",
    "other_day": "reacted_at lies on another day than the partition's",
    "duplicate_id": "an earlier row has the same reaction id",
    "unknown_message": "no such message, that day or the day before",
    "quarantined_message": "its message is in the quarantine",
    "not_a_reply": "the message is not the assistant's",
    "before_reply": "reacted_at lies before the reply",
    "not_offered": "the reply was logged as shown without reactions",
    "after_window": "given after the reply's attribution window had closed",
    "scripted_burst": "one of more reactions of a user within seconds than a hand gives; the reply's labels are unknown",
}


def judge_messages(
    messages: pl.DataFrame, config: ContractConfig, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The day's messages with `source_row` and `defect` (null: accepted), in source order.

    `previous`: the day before, of which only what touches this day counts (turn order, message ids).
    """
    rows, before = [messages.with_columns(_row_defects(messages, config))], 0
    if previous is not None:
        near, lenient = touching(previous, messages), config.model_copy(update={"day": None})
        rows.insert(0, near.with_columns(_row_defects(near, lenient)))
        before = near.height
    judged = pl.concat(rows, how="diagonal").select(rows[-1].columns)
    judged = judged.with_columns(_repeated_ids(judged))
    suspects = suspect_conversations(judged, timed=config.time == "logged").arg_true()
    if not suspects.is_empty():
        close = judged[suspects].with_row_index("position")
        found = _judge_conversations(close, config).sort("position")["defect"]
        judged = judged.with_columns(judged["defect"].scatter(suspects, found))
    return judged[before:].with_row_index("source_row")


def _row_defects(rows: pl.DataFrame, config: ContractConfig) -> pl.Series:
    """`defect` of each row by itself; only those that the screen lets through are looked at closely."""
    times = pl.any_horizontal(pl.lit(False), *_time_checks("created_at", config).values())
    suspects = rows.select(suspect_messages(config, times)).to_series().arg_true()
    defects = pl.repeat(None, rows.height, dtype=pl.String, eager=True).alias("defect")
    return defects.scatter(suspects, rows[suspects].select(_message_defect(config)).to_series())


def _repeated_ids(rows: pl.DataFrame) -> pl.Series:
    """`defect`, with the later ones of sound rows that share a message id named."""
    again = rows["message_id"].hash().is_duplicated().arg_true()
    if again.is_empty():
        return rows["defect"]
    later = ~pl.struct("message_id", pl.col("defect").is_null()).is_first_distinct()
    return rows["defect"].scatter(again, _name_where(rows[again], later, "duplicate_id")["defect"])


def judge_reactions(reactions: pl.LazyFrame, targets: pl.LazyFrame, config: ContractConfig) -> pl.LazyFrame:
    """The reactions (of `mark_bursts`) with `source_row` and `defect` (null: accepted), in source order.

    `targets`: what they can be about, see `contract._targets`.
    """
    rows = reactions.with_row_index("source_row").with_columns(defect=_reaction_defect(config))
    rows = _name_where(rows, ~pl.struct("reaction_id", pl.col("defect").is_null()).is_first_distinct(), "duplicate_id")
    rows = rows.join(targets, on="message_id", how="left", maintain_order="left")
    window = pl.duration(microseconds=int(config.attribution_window.total_seconds() * 1e6))
    checks = {
        "unknown_message": pl.col("target_role").is_null(),
        "quarantined_message": pl.col("target_defect").is_not_null(),
        "not_a_reply": pl.col("target_role") != "assistant",
        "before_reply": pl.col("reacted_at") < pl.col("target_created_at"),
        "not_offered": ~pl.col("target_shown") if config.exposure == "logged" else pl.lit(False),
        "after_window": pl.col("reacted_at") > pl.col("target_created_at") + window,
        "scripted_burst": pl.col("burst"),
    }
    named = rows.with_columns(
        defect=pl.coalesce("defect", _first_that_applies(checks)), user_id=pl.coalesce("user_id", "target_user_id")
    )
    return named.drop("target_role", "target_created_at", "target_shown", "target_defect", "target_user_id", "burst")


def mark_bursts(reactions: pl.LazyFrame, config: ContractConfig) -> pl.LazyFrame:
    """The reactions with `burst`: true for each of `burst.reactions` or more that a user gave within the time."""
    n, within = config.burst.reactions, pl.duration(microseconds=int(config.burst.within_s * 1e6))
    at = pl.col("reacted_at")
    opens = (at.shift(-(n - 1)) - at <= within).fill_null(False).cast(pl.Int8)
    users = reactions.with_row_index("order").filter(pl.col("user_id").is_not_null(), at.is_not_null())
    flagged = users.sort("user_id", "reacted_at").with_columns(
        burst=opens.over("user_id").rolling_max(n, min_samples=1).over("user_id").cast(pl.Boolean)
    )
    return (
        reactions.with_row_index("order")
        .join(flagged.filter("burst").select("order", "burst"), on="order", how="left", maintain_order="left")
        .with_columns(pl.col("burst").fill_null(False))
        .drop("order")
    )


def _message_defect(config: ContractConfig) -> pl.Expr:
    content, turn = pl.col("content"), pl.col("turn_index")
    checks = {
        "missing_id": _blank("conversation_id", "message_id", "user_id"),
        "unknown_role": ~pl.col("role").is_in(list(ROLES)).fill_null(False),
        "bad_turn_index": turn.is_null() | ((turn < 0) & (pl.col("role") != "assistant")),
        **_time_checks("created_at", config),
        "empty_text": (content.str.strip_chars() == "").fill_null(True),
        "overlong_text": content.str.len_chars() > config.max_chars,
        "cut_markup": content.str.tail(_TAG_CHARS).str.contains(_CUT_TAG),
        "invalid_text": content.str.contains("\ufffd", literal=True),
    }
    return _first_that_applies(checks).alias("defect")


def _reaction_defect(config: ContractConfig) -> pl.Expr:
    checks = {
        "missing_id": _blank("reaction_id", "message_id")
        | (pl.col("user_id").str.strip_chars() == "").fill_null(False),
        "unknown_signal": ~pl.col("signal").is_in(config.signals).fill_null(False),
        "bad_value": ~pl.col("value").is_in([0, 1]).fill_null(False),
        **_time_checks("reacted_at", config),
    }
    return _first_that_applies(checks)


def _time_checks(column: str, config: ContractConfig) -> dict[str, pl.Expr]:
    time = pl.col(column)
    checks = {} if config.time == "none" else {"missing_time": time.is_null()}
    if config.as_of is not None:
        checks["future_time"] = time > _instant(config.as_of)
    if config.day is not None:
        checks["other_day"] = time.dt.date() != config.day
    return checks


def _judge_conversations(rows: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
    """`position` and `defect`, with the defects that only the whole conversation shows named among sound rows."""
    content = pl.struct("turn_index", "role", "content", "created_at").hash()
    narrow = rows.select(
        "position", "conversation_id", "turn_index", "role", "user_id", "created_at", "defect", content=content
    )
    sound = narrow.filter(pl.col("defect").is_null())
    conversations = sound.group_by("conversation_id", maintain_order=True).agg(
        owner=pl.col("user_id").first(),
        number=pl.col("position").first(),
        same=pl.col("content").sum(),
        messages=pl.len(),
    )
    again = ~pl.struct("owner", "same").is_first_distinct() & (pl.col("messages") > 1)
    # Without times, equal texts of one user may be two honest visits.
    conversations = conversations.with_columns(again=again if config.time == "logged" else pl.lit(False))
    judged = narrow.join(
        conversations.drop("same", "messages"), on="conversation_id", how="left", maintain_order="left"
    )
    judged = _name_where(judged, pl.col("again"), "duplicate_conversation")
    judged = _name_where(judged, pl.col("user_id") != pl.col("owner"), "other_user")
    if config.time == "logged":
        judged = _judge_order(judged)
    asked = judged.filter(pl.col("defect").is_null(), pl.col("role") == "user").select(
        "number", "turn_index", asked=True
    )
    judged = judged.join(asked.unique(), on=["number", "turn_index"], how="left", maintain_order="left")
    orphan = (pl.col("role") == "assistant") & pl.col("asked").is_null()
    return _name_where(judged, orphan, "reply_without_user_message").select("position", "defect")


def _judge_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Name rows whose time runs against the turns: earlier than the conversation's start, or than an earlier turn."""
    # User before assistant within a turn; a defective row has no say in what came before.
    rank = pl.col("role").replace_strict(ROLES, default=3, return_dtype=pl.Int8)
    ranked = rows.with_columns(rank=rank, clock=pl.when(pl.col("defect").is_null()).then("created_at"))
    # Where turns and times rise as the rows came there is nothing to find: only other conversations are sorted.
    keys = {"place": pl.col("turn_index").cast(pl.Int64) * 4 + pl.col("rank"), "time": pl.col("clock").to_physical()}
    came = ranked.select("number", **keys).sort("number", maintain_order=True)
    falls = pl.any_horizontal((pl.col(key).diff() < 0) | pl.col(key).is_null() for key in keys)
    within = pl.col("number") == pl.col("number").shift(1)
    tangled = pl.col("number").is_in(came.filter(falls & within)["number"].unique().implode())
    ordered = ranked.filter(tangled).sort("number", "turn_index", "rank", "position", nulls_last=True)
    ordered = ordered.with_columns(
        before=pl.col("clock").cum_max().shift(1).forward_fill().over("number"),
        start=pl.col("clock").drop_nulls().first().over("number"),
    )
    early = pl.col("created_at") < pl.col("before")
    ordered = _name_where(ordered, early & (pl.col("created_at") < pl.col("start")), "before_conversation")
    ordered = _name_where(ordered, early, "turn_order").select(rows.columns)
    return pl.concat([ranked.filter(tangled.not_().fill_null(True)).select(rows.columns), ordered])


def _name_where(rows: Frame, condition: pl.Expr, name: str) -> Frame:
    """Name the still sound rows for which `condition` holds."""
    named = pl.when(pl.col("defect").is_null() & condition).then(pl.lit(name)).otherwise("defect")
    return rows.with_columns(defect=named)


def _first_that_applies(checks: dict[str, pl.Expr]) -> pl.Expr:
    return pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in checks.items()))


def _blank(*columns: str) -> pl.Expr:
    return pl.any_horizontal((pl.col(name).str.strip_chars() == "").fill_null(True) for name in columns)


def _instant(moment: datetime) -> pl.Expr:
    # Made of microseconds: a literal of a zoned moment costs a millisecond.
    return pl.lit(round(moment.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))
