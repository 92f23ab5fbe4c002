"""Langfuse exports (observations, traces, scores) and LangSmith exports (runs, feedback) as canonical tables.

Both log a tree of calls per trace. A trace's only turn has the trace's id; of several turns each has the id of its call,
and the trace's id stands for the last. A score belongs to the observation or run it names, and to its trace only where it
names none; what is said of a whole session gets that before its name ("session:helpful"). Only what came through the API
counts as the users' own: scores of annotators and judges get their source before the name ("eval:helpful"). The row
contract then names such signals as unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from rluf_assets.feedback.calls import EXPERIMENT, SCORE, SPAN, Row, from_spans, rows_of, scored, span_row
from rluf_assets.feedback.chat_json import instant, messages_of, parsed, reply_of
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.schemas import conform


def langfuse_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Observations, in the names of the blob export (snake case) or of the API (camel case), and their traces.

    What stands on the trace alone (user, session) is read from rows of traces among them, or from the trace that an API
    object wraps its observations in.
    """
    no_users = (
        "Langfuse keeps user and session on the trace. Let the source match the export of traces as well as that of "
        "observations."
    )
    return from_spans(rows_of(lines, _langfuse_spans, SPAN), layout, where, no_users)


def langfuse_scores(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Scores: NUMERIC and BOOLEAN by value, CATEGORICAL by text; ids on a trace stand for scores that are not there."""
    return _read_scores(lines, lambda record: _langfuse_scores(record, layout), where)


def langsmith_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Runs; the conversation is the thread named in the run's metadata, or else the trace."""
    return from_spans(rows_of(lines, _run, SPAN), layout, where)


def langsmith_feedback(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Feedback rows, whose states `modified_at` orders; a run's `feedback_stats` stand for rows that are not there."""
    return _read_scores(lines, lambda record: _feedback(record, layout), where)


def _read_scores(lines: pl.LazyFrame, read: Callable[[Any], list[Row]], where: str) -> pl.LazyFrame:
    """The scores; one that is only told of (`told_of`, its name) stands for itself where no row has that `name_of`."""
    rows = rows_of(lines, read, {**SCORE, "told_of": pl.String, "name_of": pl.String})
    there = rows.filter(pl.col("told_of").is_null()).select(told_of="name_of")
    return conform(rows.join(there, on="told_of", how="anti", maintain_order="left"), "reactions", where)


def _told_of(name: str, signal: str | None, **facts: Any) -> Row:
    """A score that a record speaks of and does not hold: what it said is not known, so its reply has no label."""
    return {**facts, "reaction_id": f"{name}#{signal or ''}", "signal": signal, "told_of": name}


def _langfuse_spans(record: Any) -> list[Row]:
    """A record's observations and traces: one row of either, or a trace with its observations inside."""
    if not isinstance(record, dict):
        return []
    trace, inner = parsed(record.get("trace")), parsed(record.get("observations"))
    if isinstance(inner, list) and any(isinstance(one, dict) for one in inner):
        trace = trace if isinstance(trace, dict) else record
        rows = [row for one in inner if isinstance(one, dict)
                for row in _langfuse_spans({"traceId": trace.get("id"), **one})]  # fmt: skip
        return [*_trace(trace), *rows]
    get = _either(record)
    if _is_score(record):
        return []
    return _observation(record) if get("trace_id", "traceId") else _trace(record)


def _trace(record: dict[str, Any]) -> list[Row]:
    get = _either(record)
    about = get("user_id", "userId", "session_id", "sessionId", "input", "output", "timestamp", "createdAt")
    if not get("id") or about is None:
        return []
    return [
        span_row(
            messages_of(get("input"), "user"), reply_of(get("output")), trace=get("id"), span=get("id"), speaks=True,
            conversation_id=get("session_id", "sessionId"), user_id=get("user_id", "userId"),
            started=get("timestamp", "createdAt", "created_at"), policy_version=get("version", "release"),
            use_case=get("name"), **_told(_metadata(get("metadata")), "locale", *EXPERIMENT[:2]),
        )
    ]  # fmt: skip


def _observation(record: dict[str, Any]) -> list[Row]:
    get = _either(record)
    kind, parent = str(get("type") or "").upper(), get("parent_observation_id", "parentObservationId")
    speaks = kind != "EVENT" and (kind in ("GENERATION", "AGENT", "CHAIN") or not parent)
    return [
        span_row(
            messages_of(get("input"), "user"), reply_of(get("output")), speaks=speaks, name=get("name"),
            trace=get("trace_id", "traceId"), span=get("id"), parent=parent,
            conversation_id=get("session_id", "sessionId"), user_id=get("user_id", "userId"),
            started=get("start_time", "startTime"), ended=get("end_time", "endTime"),
            policy_version=get("provided_model_name", "providedModelName", "model", "version"),
            use_case=get("trace_name", "traceName"), **_told(_metadata(get("metadata")), "locale", *EXPERIMENT),
            user_field="user_id" in record or "userId" in record,
        )
    ]  # fmt: skip


def _langfuse_scores(record: Any, layout: MessagesLayout) -> list[Row]:
    """A score, or those inside a trace of the API; other records are none."""
    if not isinstance(record, dict):
        return []
    trace = parsed(record.get("trace"))
    inner = parsed(record.get("scores")) or (trace.get("scores") if isinstance(trace, dict) else None)
    if isinstance(inner, list):
        named = trace.get("id") if isinstance(trace, dict) else record.get("id")
        at = instant(_either(trace if isinstance(trace, dict) else record)("timestamp", "createdAt", "created_at"))
        listed = [_told_of(one, None, message_id=named, trace_id=named, reacted_at=at, source="api")
                  for one in inner if isinstance(one, str)]  # fmt: skip
        inside = [{"traceId": named, **one} for one in inner if isinstance(one, dict)]
        return [*listed, *(row for one in inside for row in _langfuse_scores(one, layout))]
    get = _either(record)
    if not _is_score(record):
        return []
    source = str(get("source") or "API").upper()
    trace_id, observation = get("trace_id", "traceId"), get("observation_id", "observationId")
    session, run = get("session_id", "sessionId"), get("dataset_run_id", "datasetRunId")
    whole = "" if trace_id or observation else "session:" if session else "dataset_run:" if run else ""
    name = f"{whole}{get('name')}" if source == "API" else f"{source.lower()}:{whole}{get('name')}"
    text = get("string_value", "stringValue")
    categorical = str(get("data_type", "dataType") or "").upper() in ("CATEGORICAL", "TEXT")
    number = None if categorical else _number(get("value", "string_value", "stringValue"))
    value = (text if source == "API" and not whole else None) if categorical else number
    updated = get("updated_at", "updatedAt")
    return scored(
        name, value, layout, id=get("id"), name_of=get("id"),
        at=get("timestamp", "created_at", "createdAt") or updated, updated=updated,
        message_id=observation or trace_id or session or run, source=source.lower(), trace_id=trace_id,
        conversation_id=session if whole == "session:" else None,
    )  # fmt: skip


def _is_score(record: dict[str, Any]) -> bool:
    """Whether a record is a score: it has a name and a place for a value, or a comment, and no start."""
    places = ("value", "string_value", "stringValue", "data_type", "dataType", "comment")
    get = _either(record)
    return get("name") is not None and any(one in record for one in places) and get("start_time", "startTime") is None


def _run(record: Any) -> list[Row]:
    if not isinstance(record, dict) or not (record.get("run_type") or "inputs" in record or "outputs" in record):
        return []
    metadata = _metadata(_metadata(record.get("extra")).get("metadata")) or _metadata(record.get("metadata"))
    if not (record.get("id") or record.get("trace_id")):
        return []
    parent = _parent_run(record)
    thread = next((metadata[key] for key in ("session_id", "thread_id", "conversation_id") if metadata.get(key)), None)
    return [
        span_row(
            messages_of(record.get("inputs"), "user"), reply_of(record.get("outputs")), name=record.get("name"),
            speaks=not parent or record.get("run_type") in ("llm", "chain"), span=record.get("id"), parent=parent,
            trace=record.get("trace_id") or (None if parent else record.get("id")), conversation_id=thread,
            user_id=metadata.get("user_id"), started=record.get("start_time"), ended=record.get("end_time"),
            policy_version=metadata.get("ls_model_name") or metadata.get("revision_id"),
            **_told(metadata, "use_case", "locale", *EXPERIMENT),
        )
    ]  # fmt: skip


def _parent_run(record: dict[str, Any]) -> str | None:
    """The run right above: by name, else by the dotted order (time and id of every run from the root to this one)."""
    if parent := record.get("parent_run_id"):
        return str(parent)
    above = str(record.get("dotted_order") or "").split(".")[:-1]
    if above and len(above[-1]) > 36:
        return above[-1][-36:]
    parents = parsed(record.get("parent_run_ids")) or []
    return str(parents[-1]) if parents and isinstance(parents, list) else None


def _feedback(record: Any, layout: MessagesLayout) -> list[Row]:
    if isinstance(record, dict) and isinstance(stats := parsed(record.get("feedback_stats")), dict):
        run, trace = record.get("id"), record.get("trace_id")
        given = [key for key, one in stats.items() if not isinstance(one, dict) or one.get("n") != 0]
        at = instant(record.get("end_time") or record.get("start_time"))
        return [
            _told_of(f"{run}/{key}", row["signal"], message_id=run, trace_id=trace, reacted_at=at, source="api")
            for key in given for row in scored(key, None, layout, id=run)
        ]  # fmt: skip
    if not isinstance(record, dict) or record.get("key") is None or record.get("run_type"):
        return []
    source = _metadata(record.get("feedback_source"))
    kind = str(source.get("type") or "api").lower()
    run, trace, session = (record.get(name) for name in ("run_id", "trace_id", "session_id"))
    whole = "session:" if not run and not trace else ""
    key, score, value = f"{whole}{record['key']}", _number(record.get("score")), record.get("value")
    text = kind == "api" and not whole and score is None and isinstance(value, str)
    return scored(
        key if kind == "api" else f"{kind}:{key}", value if text else score, layout, id=record.get("id"),
        name_of=f"{run}/{record['key']}",
        at=record.get("created_at") or record.get("modified_at"), updated=record.get("modified_at"),
        message_id=run or trace or session, source=kind, trace_id=trace,
    )  # fmt: skip


def _told(metadata: dict[str, Any], *names: str) -> dict[str, Any]:
    """What people write into the metadata under our own names."""
    return {name: metadata.get(name) for name in names}


def _metadata(value: Any) -> dict[str, Any]:
    value = parsed(value)
    return value if isinstance(value, dict) else {}


def _either(record: dict[str, Any]) -> Any:
    return lambda *names: next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _number(value: Any) -> float | None:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return None
