"""What can be wrong with a row, by name, and what finds it in a message.

A message is judged by itself, then against its conversation (`conversations.py`); a reaction by itself, then against the
others and its message (`reactions.py`). The first defect that applies names the row.
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.conversations import TOOL, judge_conversations, past_tools
from rluf_assets.feedback.screens import ROLES, suspect_conversations, suspect_messages, touching

# An opening tag that breaks off at or within an attribute's value; no tag is longer than what is looked at.
_CUT_TAG, _TAG_CHARS = r"<[A-Za-z][\w-]*(\s+[\w-]+=\"[^\"]*\")*\s+[\w-]+=(\"[^\"<>]*)?$", 200

# name -> what it means. The first that applies is the one a row is quarantined under.
MESSAGE_DEFECTS = {
    "missing_id": "conversation or message id is null or empty, or a user's message has no user id",
    "tool_message": "a tool's message, or a call of one without a text: no defect, and no part of what the user read",
    "unknown_role": "role is not system, user or assistant",
    "bad_turn_index": "turn index is null or, on a user or system message, negative",
    "missing_time": "created_at is null or unreadable, in a source that has times",
    "future_time": "created_at lies after `as_of`",
    "other_day": "created_at lies on another day than the partition's",
    "empty_text": "content is null or blank",
    "overlong_text": "content is longer than `max_chars`",
    "cut_markup": "content ends inside an HTML tag: it was cut on its way into the log",
    "invalid_text": "content has U+FFFD: bytes that were no UTF-8, here or in the system that logged it",
    "duplicate_id": "another row of its conversation, of this day or one before, has the same id, role and text",
    "conflicting_id": "another row of its conversation has the same id and other content: which one was shown is not known",
    "duplicate_conversation": "the same user's conversation is there under another id: same texts, same times",
    "other_user": "a user's message of another user than the one who opened the conversation",
    "before_conversation": "created_at lies before the conversation's first message",
    "turn_order": "created_at lies before that of its parent or an earlier turn, or a reply's before its question's",
    "parent_cycle": "its parents lead back to itself",
    "missing_parent": "a reply whose parent is not there or was set aside",
    "reply_without_user_message": "a reply of which a message of the user since the last reply is not there or was set aside",
}
REACTION_DEFECTS = {
    "missing_id": "reaction or message id is null or empty, or user id empty (null: the conversation's own user)",
    "missing_signal": "signal is null or empty",
    "unknown_signal": "signal is not one of the configured ones",
    "bad_value": "value is neither 1 (set) nor 0 (revoked)",
    "missing_time": "reacted_at is null or unreadable, in a source that has times (see `undated_reactions`)",
    "future_time": "reacted_at lies after `as_of`",
    "other_day": "reacted_at lies on another day than the partition's, and so does updated_at",
    "duplicate_id": "another row is the same record, sent again",
    "superseded": "an earlier state of a record that was changed later: the last state counts",
    "conflicting_id": "another row has the same reaction id and other content, and nothing tells which is the later",
    "ambiguous_message": "it names no conversation, and its message id stands in several",
    "other_conversation": "its message is not in the conversation that it names, but in another",
    "message_of_another_day": "it has no time, and its message is not of this day: it counts with the day of its message",
    "unknown_message": "no such message within the attribution window",
    "quarantined_message": "its message is in the quarantine",
    "on_tool_message": "its message is a tool's, or a call of one: which reply was meant is not known",
    "not_a_reply": "the message is not the assistant's",
    "on_greeting": "its message is a greeting: nothing was asked before it, so it has no labels",
    "before_reply": "reacted_at lies before the reply",
    "not_offered": "the reply was logged as shown without reactions",
    "after_window": "given after the reply's attribution window had closed",
    "scripted_burst": "one of more reactions of a user within seconds than a hand gives; the reply's labels are unknown",
}
# Set aside without a fault of their own: they do not count as bad rows.
ANOTHER_DAYS = "message_of_another_day"
FAULTLESS = ("tool_message", "superseded", "on_greeting", ANOTHER_DAYS)


def judge_messages(
    messages: pl.DataFrame, config: ContractConfig, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The day's messages with `source_row`, `defect` (null: accepted), `greeting` and `continued`, in source order.

    `user_id` is the conversation's user in every row of it. `previous`: the days before, of which only what touches this
    day counts (turn order, parents, message ids). `greeting` and `continued`: see `judge_conversations`.
    """
    rows, before = [messages.with_columns(_row_defects(messages, config))], 0
    if previous is not None:
        near, lenient = touching(previous, messages), config.model_copy(update={"day": None})
        rows.insert(0, near.with_columns(_row_defects(near, lenient)))
        before = near.height
    judged = past_tools(pl.concat(rows, how="diagonal").select(rows[-1].columns))
    judged = _repeated_ids(judged, before)
    suspects = suspect_conversations(judged, timed=config.time == "logged").arg_true()
    flags = {name: pl.repeat(False, judged.height, dtype=pl.Boolean, eager=True) for name in ("greeting", "continued")}
    if not suspects.is_empty():
        close = judged[suspects].with_row_index("position").with_columns(old=pl.lit(suspects < before))
        found = judge_conversations(close, config).sort("position")
        own = {name: judged[name].scatter(suspects, found[name]) for name in ("defect", "user_id", "parent_id")}
        flags = {name: column.scatter(suspects, found[name]) for name, column in flags.items()}
        judged = judged.with_columns(**own)
    return judged.with_columns(**flags)[before:].with_row_index("source_row")


def _row_defects(rows: pl.DataFrame, config: ContractConfig) -> pl.Series:
    """`defect` of each row by itself; only those that the screen lets through are looked at closely."""
    times = pl.any_horizontal(pl.lit(False), *time_checks("created_at", config).values())
    suspects = rows.select(suspect_messages(config, times)).to_series().arg_true()
    defects = pl.repeat(None, rows.height, dtype=pl.String, eager=True).alias("defect")
    return defects.scatter(suspects, rows[suspects].select(_message_defect(config)).to_series())


def _repeated_ids(rows: pl.DataFrame, before: int) -> pl.DataFrame:
    """The rows, with sound ones that share conversation and message id named: all but the earliest, or all in conflict."""
    again = rows["message_id"].hash().is_duplicated().arg_true()
    if again.is_empty():
        return rows
    key = ["conversation_id", "message_id"]
    close = rows[again].with_columns(old=pl.lit(again < before), row=again)
    sound = close.filter(pl.col("defect").is_null()).sort(
        pl.col("old").not_(), "created_at", "turn_index", "row", nulls_last=True
    )
    named = sound.with_columns(
        conflict=(pl.struct("role", "content").n_unique() > 1).over(key), first=pl.struct(key).is_first_distinct()
    )
    name = pl.when("conflict").then(pl.lit("conflicting_id")).when(~pl.col("first")).then(pl.lit("duplicate_id"))
    found = named.select("row", defect=name).drop_nulls()
    return rows.with_columns(defect=rows["defect"].scatter(found["row"], found["defect"]))


def _message_defect(config: ContractConfig) -> pl.Expr:
    content, turn = pl.col("content"), pl.col("turn_index")
    checks = {
        "missing_id": blank("conversation_id", "message_id")
        | ((pl.col("role") == "user").fill_null(True) & blank("user_id")),
        "tool_message": pl.col("role") == TOOL,
        "unknown_role": ~pl.col("role").is_in(list(ROLES)).fill_null(False),
        "bad_turn_index": turn.is_null() | ((turn < 0) & (pl.col("role") != "assistant")),
        **time_checks("created_at", config),
        "empty_text": (content.str.strip_chars() == "").fill_null(True),
        "overlong_text": content.str.len_chars() > config.max_chars,
        "cut_markup": content.str.tail(_TAG_CHARS).str.contains(_CUT_TAG),
        "invalid_text": content.str.contains("\ufffd", literal=True),
    }
    return first_that_applies(checks).alias("defect")


def time_checks(column: str, config: ContractConfig) -> dict[str, pl.Expr]:
    time = pl.col(column)
    checks = {} if config.time == "none" else {"missing_time": time.is_null()}
    if config.as_of is not None:
        checks["future_time"] = time > _instant(config.as_of)
    if config.day is not None:
        checks["other_day"] = time.dt.date() != config.day
    return checks


def first_that_applies(checks: dict[str, pl.Expr]) -> pl.Expr:
    return pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in checks.items()))


def blank(*columns: str) -> pl.Expr:
    return pl.any_horizontal((pl.col(name).str.strip_chars() == "").fill_null(True) for name in columns)


def _instant(moment: datetime) -> pl.Expr:
    # Made of microseconds: a literal of a zoned moment costs a millisecond.
    return pl.lit(round(moment.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))
