"""OpenTelemetry GenAI telemetry as canonical tables: spans, log events, and OTLP/JSON lines of the file exporter.

Current names: `gen_ai.input.messages`, `gen_ai.output.messages`, `gen_ai.system_instructions`, on spans or on
`gen_ai.client.inference.operation.details` events; reactions are `gen_ai.evaluation.result` events. Older ones:
`gen_ai.prompt`/`gen_ai.completion` (whole, or `gen_ai.prompt.0.content`), span events `gen_ai.content.prompt`,
`gen_ai.user.message`, `gen_ai.choice`. A reply's id is its response id, or else its span's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from rluf_assets.feedback.calls import EXPERIMENT, SCORE, SPAN, Row, from_spans, rows_of, scored, span_row
from rluf_assets.feedback.chat_json import Message, messages_of, parsed, reply_of
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.schemas import conform

_EVALUATION = "gen_ai.evaluation.result"
_TURN_EVENTS = {
    "gen_ai.system.message": "system", "gen_ai.user.message": "user", "gen_ai.assistant.message": "assistant",
}  # fmt: skip
_INDEXED = re.compile(r"gen_ai\.(prompt|completion)\.(\d+)\.(role|content)")
_ASSOCIATED = "traceloop.association.properties."
_USERS = (
    "user.id", "enduser.id", "gen_ai.user.id", "user_id", f"{_ASSOCIATED}user_id", f"{_ASSOCIATED}user.id",
    "langfuse.user.id",
)  # fmt: skip
_CONVERSATIONS = (
    "gen_ai.conversation.id", "session.id", "conversation.id", f"{_ASSOCIATED}conversation_id",
    f"{_ASSOCIATED}session_id", f"{_ASSOCIATED}chat_id", f"{_ASSOCIATED}thread_id", "langfuse.session.id",
)  # fmt: skip


def otel_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Every turn in the telemetry: an agent's span with those below it is one, as is a model call on its own."""
    read = rows_of(lines, lambda record: [row for one in _records(record) for row in _call(one)], SPAN)
    return from_spans(read, layout, where)


def otel_evaluations(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Evaluation events; one with a span id alone finds its response id where that span is in the same files."""
    read = rows_of(
        lines, lambda record: [row for one in _records(record) for row in _evaluation(one, layout)],
        {**SCORE, "span_id": pl.String},
    )  # fmt: skip
    pairs = {"span_id": pl.String, "response_id": pl.String}
    spans = rows_of(lines, lambda record: [row for one in _records(record) for row in _span(one)], pairs)
    found = read.join(spans.unique("span_id", keep="first"), on="span_id", how="left", maintain_order="left")
    return conform(
        found.with_columns(message_id=pl.coalesce("message_id", "response_id", "span_id")), "reactions", where
    )


def _records(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Spans and log records with plain `attributes`, whether one per line or nested as in OTLP."""
    if not isinstance(line, dict):
        return
    for outer, scope, inner in (("resourceSpans", "scopeSpans", "spans"), ("resourceLogs", "scopeLogs", "logRecords")):
        for resource in _dicts(line.get(outer)):
            for group in _dicts(resource.get(scope)):
                for record in _dicts(group.get(inner)):
                    shared = _plain(_dict(resource.get("resource")).get("attributes"))
                    yield {**record, "attributes": {**shared, **_plain(record.get("attributes"))}}
    if "resourceSpans" not in line and "resourceLogs" not in line:
        yield {**line, "attributes": _plain(line.get("attributes"))}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    found = parsed(value)
    return found if isinstance(found, dict) else {}


def _plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a flat mapping; OTLP writes them as a list of {key, value: {stringValue: ...}}."""
    attributes = parsed(attributes)
    if isinstance(attributes, list):
        return {str(one["key"]): _value(one.get("value")) for one in _dicts(attributes) if "key" in one}
    return dict(attributes) if isinstance(attributes, dict) else {}


def _value(value: Any) -> Any:
    if not isinstance(value, dict) or not value:
        return value
    kind, inner = next(iter(value.items()))
    if kind == "arrayValue":
        return [_value(one) for one in _dict(inner).get("values") or []]
    if kind == "kvlistValue":
        return _plain(_dict(inner).get("values"))
    return _number(inner) if kind in ("intValue", "doubleValue") else inner


def _call(record: dict[str, Any]) -> list[Row]:
    """A span, or an event of a model call; other events are none."""
    attributes = record["attributes"]
    name = _name(record)
    messages, reply = _current(attributes)
    if reply is None:
        messages, reply = _older(attributes, _dicts(record.get("events")))
    speaks = bool(messages) or reply is not None
    if name == _EVALUATION or not (speaks or _is_span(record)):
        return []
    trace, span = _context(record, "trace_id", "traceId"), _context(record, "span_id", "spanId")
    if not (trace or span or attributes.get("gen_ai.response.id")):
        return []
    return [
        span_row(
            messages, reply, speaks=speaks, trace_is_reply=False, trace=trace, span=span, parent=_parent(record), name=name,
            reply_id=attributes.get("gen_ai.response.id"), conversation_id=_first(attributes, *_CONVERSATIONS),
            user_id=_first(attributes, *_USERS),
            policy_version=_first(attributes, "gen_ai.response.model", "gen_ai.request.model"),
            use_case=_first(attributes, "gen_ai.agent.name", f"{_ASSOCIATED}use_case"),
            started=_first(record, "start_time", "startTimeUnixNano", "timestamp", "timeUnixNano"),
            ended=_first(record, "end_time", "endTimeUnixNano", "timestamp", "timeUnixNano"),
            **{name: _first(attributes, name, f"{_ASSOCIATED}{name}") for name in EXPERIMENT},
        )
    ]  # fmt: skip


def _is_span(record: dict[str, Any]) -> bool:
    started = _first(record, "start_time", "startTimeUnixNano")
    return bool(started and _context(record, "span_id", "spanId") and _context(record, "trace_id", "traceId"))


def _parent(record: dict[str, Any]) -> Any:
    return _first(record, "parent_id", "parent_span_id", "parentSpanId")


def _name(record: dict[str, Any]) -> Any:
    return _first(record, "event_name", "eventName", "name") or record["attributes"].get("event.name")


def _current(attributes: dict[str, Any]) -> tuple[list[Message], str | None]:
    system = messages_of(attributes.get("gen_ai.system_instructions"), "system")
    asked = messages_of(attributes.get("gen_ai.input.messages"), "user")
    return [*({**one, "role": "system"} for one in system), *asked], reply_of(attributes.get("gen_ai.output.messages"))


def _older(attributes: dict[str, Any], events: list[Any]) -> tuple[list[Message], str | None]:
    indexed: dict[str, dict[int, dict[str, Any]]] = {"prompt": {}, "completion": {}}
    for name, value in attributes.items():
        if match := _INDEXED.fullmatch(name):
            indexed[match[1]].setdefault(int(match[2]), {})[match[3]] = value
    asked: Any = attributes.get("gen_ai.prompt") or [indexed["prompt"][n] for n in sorted(indexed["prompt"])]
    answered: Any = attributes.get("gen_ai.completion") or [
        {"role": "assistant", **indexed["completion"][n]} for n in sorted(indexed["completion"])
    ]
    turns: list[dict[str, Any]] = []
    for event in events:
        said = {**_plain(event.get("attributes")), **_dict(event.get("body"))}
        match event.get("name"):
            case "gen_ai.content.prompt":
                asked = said.get("gen_ai.prompt")
            case "gen_ai.content.completion":
                answered = said.get("gen_ai.completion")
            case "gen_ai.choice":
                answered = said.get("message") or said
            case name if name in _TURN_EVENTS:
                turns.append({"role": _TURN_EVENTS[name], "content": said.get("content")})
    return messages_of(turns or asked, "user"), reply_of(answered)


def _evaluation(record: dict[str, Any], layout: MessagesLayout) -> list[Row]:
    attributes = record["attributes"]
    events = [(_name(record), attributes, record)]
    for one in _dicts(record.get("events")):  # the event may stand on the span itself
        events.append((one.get("name"), _plain(one.get("attributes")), {**record, **one}))
    rows = []
    for event, said, place in events:
        if event != _EVALUATION:
            continue
        span, response = _context(place, "span_id", "spanId"), said.get("gen_ai.response.id")
        value, label = said.get("gen_ai.evaluation.score.value"), said.get("gen_ai.evaluation.score.label")
        rows += scored(
            str(said.get("gen_ai.evaluation.name")), _number(value) if value is not None else label, layout,
            id=f"{response or span}/{said.get('gen_ai.evaluation.name')}/{_at(place)}", at=_at(place),
            message_id=response, span_id=span, user_id=_first(said, *_USERS), source="otel",
            trace_id=_context(place, "trace_id", "traceId"),
            conversation_id=_first(said, *_CONVERSATIONS),
        )  # fmt: skip
    return rows


def _span(record: dict[str, Any]) -> list[Row]:
    response, span = record["attributes"].get("gen_ai.response.id"), _context(record, "span_id", "spanId")
    return [{"span_id": span, "response_id": response}] if response and span and _call(record) else []


def _at(record: dict[str, Any]) -> Any:
    return _first(record, "timestamp", "timeUnixNano", "time", "end_time", "endTimeUnixNano")


def _context(record: dict[str, Any], *names: str) -> Any:
    """Trace and span ids stand on the record, or (console exporter) in its `context`."""
    return _first(record, *names) or _first(_dict(record.get("context")), *names)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _first(found: dict[str, Any], *names: str) -> Any:
    return next((found[name] for name in names if found.get(name) not in (None, "")), None)
