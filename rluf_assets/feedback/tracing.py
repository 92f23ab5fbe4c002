"""Langfuse exports (observations, scores) and LangSmith exports (runs, feedback) as canonical tables.

Both log a tree of calls per trace, of which one is what the user saw: the root where it holds text, else the last
model call. That reply's message id is the trace's, which scores and feedback carry too, so no table is needed to join
the other. Only what came through the API counts as the users' own; scores of annotators and judges get their source
before the name ("eval:helpful"), which the row contract then names as unknown.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from rluf_assets.feedback.calls import CALL, SCORE, Row, call, from_calls, rows_of, scored
from rluf_assets.feedback.chat_json import messages_of, parsed, reply_of
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.schemas import conform

_CALL = {**CALL, "rank": pl.Int8}


def langfuse_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Observations, in the names of the blob export (snake case) or of the API (camel case)."""
    return from_calls(_seen_by_users(rows_of(lines, _observation, _CALL)), where)


def langfuse_scores(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Scores: NUMERIC and BOOLEAN by value, CATEGORICAL by their text."""
    return conform(rows_of(lines, lambda record: _langfuse_score(record, layout), SCORE), "reactions", where)


def langsmith_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Runs; the conversation is the thread named in the run's metadata, or else the trace."""
    return from_calls(_seen_by_users(rows_of(lines, _run, _CALL)), where)


def langsmith_feedback(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Feedback rows; of one that was modified the later time counts."""
    return conform(rows_of(lines, lambda record: _feedback(record, layout), SCORE), "reactions", where)


def _seen_by_users(calls: pl.LazyFrame) -> pl.LazyFrame:
    """One call per trace: the highest rank, of equals the last to end."""
    order = pl.struct("rank", pl.coalesce("ended", "started"), "number").rank("ordinal", descending=True)
    return calls.with_row_index("number").filter(order.over("message_id") == 1).drop("rank", "number")


def _observation(record: dict[str, Any]) -> list[Row]:
    get = _either(record)
    kind = str(get("type") or "").upper()
    asked, answered = messages_of(get("input"), "user"), reply_of(get("output"))
    root = not get("parent_observation_id", "parentObservationId")
    if kind == "EVENT" or not (kind in ("GENERATION", "AGENT", "CHAIN") or root):
        return []
    metadata = parsed(get("metadata")) or {}
    trace = get("trace_id", "traceId")
    return [
        call(
            asked, answered, conversation_id=get("session_id", "sessionId") or trace, message_id=trace,
            user_id=get("user_id", "userId"), started=get("start_time", "startTime"), ended=get("end_time", "endTime"),
            policy_version=get("provided_model_name", "model", "version"), use_case=get("trace_name", "traceName"),
            locale=metadata.get("locale") if isinstance(metadata, dict) else None, rank=_rank(asked, answered, root),
        )
    ]  # fmt: skip


def _langfuse_score(record: dict[str, Any], layout: MessagesLayout) -> list[Row]:
    get = _either(record)
    source = str(get("source") or "API").upper()
    name = str(get("name")) if source == "API" else f"{source.lower()}:{get('name')}"
    text = get("string_value", "stringValue")
    categorical = str(get("data_type", "dataType") or "").upper() == "CATEGORICAL"
    value = (text if source == "API" else None) if categorical else _number(get("value"))
    return scored(
        name, value, layout, id=get("id"), at=get("timestamp", "updatedAt", "updated_at"),
        message_id=get("trace_id", "traceId") or get("observation_id", "observationId"), source=source.lower(),
    )  # fmt: skip


def _run(record: dict[str, Any]) -> list[Row]:
    inputs, outputs = messages_of(record.get("inputs"), "user"), reply_of(record.get("outputs"))
    root = not (record.get("parent_run_id") or record.get("parent_run_ids"))
    if not root and record.get("run_type") not in ("llm", "chain"):
        return []
    extra = parsed(record.get("extra")) or {}
    metadata = parsed(extra.get("metadata")) or {}
    trace = record.get("trace_id") or record.get("id")
    thread = next((metadata[key] for key in ("session_id", "thread_id", "conversation_id") if metadata.get(key)), trace)
    model = metadata.get("ls_model_name") or metadata.get("revision_id")
    return [
        call(
            inputs, outputs, conversation_id=thread, message_id=trace, user_id=metadata.get("user_id"),
            started=record.get("start_time"), ended=record.get("end_time"), policy_version=model,
            use_case=metadata.get("use_case"), locale=metadata.get("locale"), rank=_rank(inputs, outputs, root),
        )
    ]  # fmt: skip


def _feedback(record: dict[str, Any], layout: MessagesLayout) -> list[Row]:
    source = parsed(record.get("feedback_source")) or {}
    kind = str(source.get("type") or "api").lower()
    key, score, value = str(record.get("key")), _number(record.get("score")), record.get("value")
    return scored(
        key if kind == "api" else f"{kind}:{key}",
        value if kind == "api" and score is None and isinstance(value, str) else score,
        layout, id=record.get("id"), at=record.get("modified_at") or record.get("created_at"),
        message_id=record.get("trace_id") or record.get("run_id"), source=kind,
    )  # fmt: skip


def _rank(asked: list[dict[str, str]], answered: str | None, root: bool) -> int:
    return (2 if root else 1) if asked and answered else 0


def _either(record: dict[str, Any]) -> Any:
    return lambda *names: next((record[name] for name in names if record.get(name) is not None), None)


def _number(value: Any) -> float | None:
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return None
