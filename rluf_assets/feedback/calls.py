"""From logged model calls (a prompt with its history, and the reply) and scores to the canonical tables.

Tracing tools log calls, not conversations: each carries the whole history. Every call gives its last user message and
its reply; only a conversation's first call gives the history before it too, so that nothing is there twice. Replies
of that history were not offered here (`reactions_shown` false), and their time is the call's, the latest it can be.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl

from rluf_assets.feedback.chat_json import Message, instant
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.schemas import REACTIONS, conform

Row = dict[str, Any]
_PAST = pl.List(pl.Struct({"turn_index": pl.Int32, "role": pl.String, "content": pl.String}))
CALL = {
    "conversation_id": pl.String, "message_id": pl.String, "user_id": pl.String, "started": pl.String,
    "ended": pl.String, "past": _PAST, "question": pl.String, "users": pl.Int32, "reply": pl.String,
    "policy_version": pl.String, "use_case": pl.String, "locale": pl.String,
}  # fmt: skip
SCORE = {**REACTIONS, "value": pl.Int8, "reacted_at": pl.String}


def rows_of(lines: pl.LazyFrame, read: Callable[[Any], list[Row]], schema: dict[str, Any]) -> pl.LazyFrame:
    """One row per dict that `read` makes of each JSON line; missing keys are null."""
    dtype = pl.List(pl.Struct(schema))

    def parse(texts: pl.Series) -> pl.Series:
        found = [[{name: row.get(name) for name in schema} for row in read(_loaded(text))] for text in texts]
        return pl.Series(texts.name, found, dtype=dtype, strict=False)

    rows = lines.select(row=pl.col("line").map_batches(parse, return_dtype=dtype, is_elementwise=True))
    return rows.explode("row", empty_as_null=False).unnest("row")


def call(messages: list[Message], reply: str | None, **facts: Any) -> Row:
    """A call's row: the last user message as its question, what came before as its past, turns counted."""
    asked = max((place for place, one in enumerate(messages) if one["role"] == "user"), default=None)
    past, turn = [], -1
    for one in messages[:asked]:
        turn += one["role"] == "user"
        past.append({"turn_index": turn if one["role"] != "system" else max(turn, 0), **one})
    times = {name: instant(facts.pop(name, None)) for name in ("started", "ended")}
    question = messages[asked]["content"] if asked is not None else None
    users = turn + 1 + (asked is not None)
    return {**facts, **times, "past": past, "question": question, "users": users, "reply": reply}


def from_calls(calls: pl.LazyFrame, where: str) -> pl.LazyFrame:
    """Canonical messages of calls (columns of `CALL`)."""
    in_conversation = pl.struct("started", "number").rank("ordinal").over("conversation_id").cast(pl.Int32) - 1
    # Where no call carries a history, calls are counted; where they do, the users' messages in it are.
    cumulative = pl.col("users").max().over("conversation_id") > 1
    placed = calls.with_row_index("number").with_columns(nth=in_conversation, cumulative=cumulative)
    placed = placed.with_columns(turn_index=pl.when("cumulative").then(pl.col("users") - 1).otherwise("nth"))
    repeats = pl.col("nth") > pl.col("nth").min().over("conversation_id", "turn_index")  # the same question, retried
    placed = placed.with_columns(repeats=repeats, nothing=pl.lit(None, pl.Boolean))
    about = ["conversation_id", "user_id", "policy_version", "use_case", "locale"]
    replies = placed.select(
        *about, "message_id", "turn_index", role=pl.lit("assistant"), content="reply",
        created_at=pl.coalesce("ended", "started"), reactions_shown="nothing", number="number", place=pl.lit(1),
    )  # fmt: skip
    questions = placed.filter(~pl.col("repeats"), pl.col("question").is_not_null()).select(
        *about, pl.format("{}/{}/user", "conversation_id", "turn_index").alias("message_id"), "turn_index",
        role=pl.lit("user"), content="question", created_at="started", reactions_shown="nothing", number="number",
        place=pl.lit(0),
    )  # fmt: skip
    first = placed.filter(pl.col("nth") == 0, pl.col("past").list.len() > 0)
    past = first.select(*about, "started", "number", nth=pl.int_ranges(pl.col("past").list.len()), past="past")
    past = past.explode("nth", "past", empty_as_null=False).drop("nth").with_columns(
        message_id=pl.format("{}/past/{}", "conversation_id", pl.int_range(pl.len()).over("number"))
    )  # fmt: skip
    history = past.unnest("past").select(
        *about, "message_id", "turn_index", "role", "content", created_at="started",
        reactions_shown=pl.when(pl.col("role") == "assistant").then(pl.lit(False)), number="number", place=pl.lit(-1),
    )  # fmt: skip
    rows = pl.concat([history, questions, replies]).sort("number", "place", maintain_order=True)
    return conform(rows, "messages", where)


def scored(name: str, value: float | str | None, layout: MessagesLayout, **facts: Any) -> list[Row]:
    """Reactions of one score: by `layout.scores` where the name is in it; else its name, set above zero.

    A categorical score's text is the signal itself. A score in between the two bounds revokes both signals.
    """
    reaction_id, at = facts.pop("id"), instant(facts.pop("at", None))
    rule = layout.scores.get(name)
    set_by_signal: dict[str, bool | None]
    if isinstance(value, str):
        set_by_signal = {value: True}
    elif rule is None:
        set_by_signal = {name: None if value is None else value > 0}
    else:
        up = None if value is None else value >= rule.up_from
        down = None if value is None else value <= rule.down_to
        set_by_signal = {signal: on for signal, on in ((rule.up, up), (rule.down, down)) if signal is not None}
    return [
        {**facts, "reaction_id": f"{reaction_id}#{signal}", "signal": signal, "reacted_at": at,
         "value": None if on is None else int(on)}
        for signal, on in set_by_signal.items()
    ]  # fmt: skip


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise OSError(f"a line is no JSON: {text[:60]!r} ({error})") from error
