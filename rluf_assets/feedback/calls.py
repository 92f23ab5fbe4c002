"""From logged model calls and scores to the canonical tables: what the readers of tracing tools have in common.

Tracing tools log calls, not conversations: each carries some of the history, and a turn takes one or many of them.
`turns.py` finds the turns, `threads.py` the conversations. Replies of a history that were not logged as calls were not
offered here (`reactions_shown` false), and their time is the call's, the latest it can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.chat_json import Message, instant
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.ledger import ledger_in_use
from rluf_assets.feedback.redaction import excerpt
from rluf_assets.feedback.schemas import MESSAGES, REACTIONS, conform
from rluf_assets.feedback.threads import Thread
from rluf_assets.feedback.turns import Turn, turns_of

Row = dict[str, Any]
_SAID = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
# A span of a trace. `speaks`: it may hold what the user said and read; `trace_is_reply`: a trace's only reply has its id;
# `user_field`: the record has a place for its user, even if none is there.
SPAN = {
    "trace": pl.String, "span": pl.String, "parent": pl.String, "name": pl.String, "reply_id": pl.String,
    "conversation_id": pl.String, "user_id": pl.String, "started": pl.String, "ended": pl.String, "messages": _SAID,
    "reply": pl.String, "policy_version": pl.String, "use_case": pl.String, "locale": pl.String, "speaks": pl.Boolean,
    "trace_is_reply": pl.Boolean, "user_field": pl.Boolean, "experiment_arm": pl.String,
    "assignment_probability": pl.String, "reply_logprob": pl.String,
}  # fmt: skip
EXPERIMENT = ("experiment_arm", "assignment_probability", "reply_logprob")
_TOLD: dict[str, pl.DataType] = {
    **MESSAGES, **dict.fromkeys(("created_at", "assignment_probability", "reply_logprob"), pl.String()),
}  # fmt: skip
SCORE = {**REACTIONS, "reacted_at": pl.String, "updated_at": pl.String}


def rows_of(lines: pl.LazyFrame, read: Callable[[Any], list[Row]], schema: dict[str, Any]) -> pl.LazyFrame:
    """One row per dict that `read` makes of each JSON line; missing keys are null."""
    dtype, ledger = pl.List(pl.Struct(schema)), ledger_in_use()
    texts_of = {name: one == pl.String for name, one in schema.items()}

    def parse(records: pl.Series) -> pl.Series:
        numbers, texts = records.struct.field("record"), records.struct.field("line")
        found = []
        for number, text in zip(numbers, texts, strict=True):
            record = _loaded(text)
            rows = read(record)
            found.append([{name: _scalar(row.get(name), texts_of[name]) for name in schema} for row in rows])
            if ledger is not None:
                ledger.note(number, record, len(rows), text)
        return pl.Series("row", found, dtype=dtype, strict=False)

    numbered = lines.with_row_index("record").select(row=pl.struct("record", "line"))
    rows = numbered.select(pl.col("row").map_batches(parse, return_dtype=dtype, is_elementwise=True))
    return rows.explode("row", empty_as_null=False).unnest("row")


def span_row(messages: list[Message], reply: str | None, **facts: Any) -> Row:
    """A row of `SPAN`; only one that speaks keeps its text."""
    times = {name: instant(facts.pop(name, None)) for name in ("started", "ended")}
    spoken = {"messages": messages, "reply": reply} if facts.get("speaks") else {}
    return {"trace_is_reply": True, "user_field": True, **facts, **times, **spoken}


def from_spans(spans: pl.LazyFrame, layout: MessagesLayout, where: str, no_users: str = "") -> pl.LazyFrame:
    """Canonical messages of spans (columns of `SPAN`).

    Raises DataError, which says `no_users`, where no span has a place for its user.
    """

    def told(frame: pl.DataFrame) -> pl.DataFrame:
        rows = _told(frame, layout)
        lost = layout.users == "logged" and rows and not any(row["user_id"] for row in rows)
        if lost and not frame["user_field"].any():
            raise DataError(
                f"{where}: none of {frame.height} records says who the user is: {no_users} Or declare layout.users: "
                f"per_conversation."
            )
        return pl.DataFrame([{name: row.get(name) for name in _TOLD} for row in rows], schema=_TOLD)

    # No filter or choice of columns goes below: a conversation is read as a whole.
    rows = spans.map_batches(
        told, schema=_TOLD, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
    )
    return conform(rows, "messages", where)


def _told(spans: pl.DataFrame, layout: MessagesLayout) -> list[Row]:
    """Rows of messages: traces to turns, turns to conversations."""
    traces: dict[str, list[Row]] = {}
    for number, span in enumerate(spans.iter_rows(named=True)):
        traces.setdefault(span["trace"] or span["span"] or span["reply_id"] or f"#{number}", []).append(span)
    turns: dict[str, Turn] = {}
    for trace in traces.values():
        for turn in turns_of(trace):
            turns.setdefault(turn.reply_id, turn)
    conversations: dict[str | None, list[Turn]] = {}
    for turn in turns.values():
        if turn.facts["conversation_id"] is None:
            turn.facts["conversation_id"] = turn.trace or turn.reply_id
        if layout.users == "per_conversation":
            turn.facts["user_id"] = turn.facts["conversation_id"]
        conversations.setdefault(turn.facts["conversation_id"], []).append(turn)
    return [row for said in conversations.values() for row in Thread(said).rows]


def scored(name: str, value: float | str | None, layout: MessagesLayout, **facts: Any) -> list[Row]:
    """Reactions of one score: by `layout.scores` where the name is in it; else its name, set above zero.

    A categorical score's text is the signal itself, and the one that it set before is over when it changes; where a rule
    names signals, another text says nothing of them. A score in between the two bounds revokes both signals.
    """
    record = facts.pop("id")
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    times = {"reacted_at": instant(facts.pop("at", None)), "updated_at": instant(facts.pop("updated", None))}
    rule = layout.scores.get(name)
    set_by_signal: dict[str, bool | None]
    if isinstance(value, str) and (rule is None or value in (rule.up, rule.down)):
        return [{**facts, **times, "reaction_id": str(record), "signal": value, "value": 1}]
    if rule is None:
        set_by_signal = {name: None if value is None else float(value) > 0}
    else:
        value = None if isinstance(value, str) else value
        up = None if value is None else value >= rule.up_from
        down = None if value is None else value <= rule.down_to
        set_by_signal = {signal: on for signal, on in ((rule.up, up), (rule.down, down)) if signal is not None}
    return [
        {**facts, **times, "reaction_id": f"{record}#{signal}", "signal": signal,
         "value": None if on is None else int(on)}
        for signal, on in set_by_signal.items()
    ]  # fmt: skip


def _scalar(value: Any, text: bool) -> Any:
    """What goes into a column: a number where text belongs as text; what is no single value there says nothing."""
    if not text or value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise OSError(f"a line is no JSON: {excerpt(text)!r} ({error})") from error
