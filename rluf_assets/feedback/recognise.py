"""What the records of a file look like: the known log formats, and others that people try, by their telling keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from rluf_assets.feedback.config import Format
from rluf_assets.feedback.sources import Opened

Record = Mapping[str, Any]
_SHOWN, _REASON_CHARS = 12, 300


def recognised(records: list[dict[str, Any]], name: str) -> bool:
    """Whether any of the records looks like this format's."""
    return any(_LOOKS[name](one) for one in records) if name in _LOOKS else False


def looks_like(records: list[dict[str, Any]]) -> list[str]:
    """Names of the formats that the records look like, the likeliest first."""
    votes = {name: sum(test(one) for one in records) for name, test in _LOOKS.items()}
    return sorted((name for name, count in votes.items() if count), key=lambda name: -votes[name])


def found_instead(opened: Opened, name: str, reason: str = "") -> str:
    """One line for people: what was found in place of this format, what it looks like, and what to do."""
    keys = list(dict.fromkeys(key for record in opened.heads for key in record))
    shown = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
    likely = [one for one in looks_like(opened.heads) if one != name]
    known = [one for one in likely if one in get_args(Format)]
    remedy = "Name the right format, or the columns in a layout."
    if known:
        remedy = f"Name the format: {' or '.join(known)}."
    elif likely:
        remedy = "Those are not read as they are: write them as `messages` (`parent_id` keeps a tree)."
    guess = f" They look like {' or '.join(likely)}." if likely else ""
    why = reason.removeprefix(f"{opened.source}: ")
    why = f" ({why if len(why) <= _REASON_CHARS else why[:_REASON_CHARS] + '...'})" if why else ""
    return (
        f"{opened.source}: nothing recognised as {name} in {opened.records} records with {shown or 'no keys'}."
        f"{guess} {remedy}{why}"
    )


def _has(record: Record, *names: str) -> bool:
    return all(record.get(name) is not None for name in names)


def _any(record: Record, *names: str) -> bool:
    return any(record.get(name) is not None for name in names)


def _entries(record: Record, *names: str) -> list[Any]:
    """The dicts in the first of these lists."""
    found: list[Any] = next((record[name] for name in names if isinstance(record.get(name), list)), [])
    return [one for one in found if isinstance(one, dict)]


def _langfuse(one: Record) -> bool:
    traced = _any(one, "trace_id", "traceId", "observation_id", "observationId")
    call = _any(one, "start_time", "startTime") and _any(one, "type") and not _any(one, "run_type")
    score = _any(one, "name") and _any(one, "value", "string_value", "stringValue", "data_type", "dataType")
    trace = _any(one, "timestamp") and _any(one, "sessionId", "session_id") and _any(one, "input", "output")
    return (traced and (call or score)) or trace


def _langsmith(one: Record) -> bool:
    return _any(one, "run_type") or (
        _any(one, "key") and _any(one, "run_id", "trace_id") and _any(one, "score", "value")
    )


def _otel(one: Record) -> bool:
    spans = _any(one, "span_id", "spanId", "context", "event_name", "eventName")
    return _any(one, "resourceSpans", "resourceLogs", "resource_spans") or ("attributes" in one and spans)


def _open_webui(one: Record) -> bool:
    chat = one.get("chat")
    rating = one.get("type") == "rating" and _any(one, "data", "meta")
    return rating or (isinstance(chat, dict) and _any(chat, "history", "messages"))


def _librechat(one: Record) -> bool:
    inner = next(iter(_entries(one, "messages")), one)
    return _has(inner, "messageId") and _any(inner, "isCreatedByUser", "parentMessageId", "sender")


def _mlflow(one: Record) -> bool:
    info, data = one.get("info"), one.get("data")
    return (isinstance(info, dict) and isinstance(data, dict) and "spans" in data) or _has(one, "trace_metadata")


def _canonical(one: Record) -> bool:
    return "message_id" in one and (_has(one, "role", "conversation_id") or ("signal" in one and "reaction_id" in one))


def _messages(one: Record) -> bool:
    return any(_any(entry, "role", "content", "from") for entry in _entries(one, "messages", "conversations"))


_LOOKS: Mapping[str, Callable[[Record], bool]] = {
    "canonical": _canonical,
    "messages": _messages,
    "sharegpt": _messages,
    "langfuse": _langfuse,
    "langsmith": _langsmith,
    "otel": _otel,
    "open_webui": _open_webui,
    "chatgpt": lambda one: isinstance(one.get("mapping"), dict),
    "librechat": _librechat,
    "mlflow": _mlflow,
    "dify": lambda one: _has(one, "query", "answer") and _any(one, "conversation_id", "message_id", "inputs"),
    "claude": lambda one: isinstance(one.get("chat_messages"), list),
}
