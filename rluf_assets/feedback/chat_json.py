"""Chat messages out of the JSON that tracing tools log: the shapes of OpenAI, Anthropic, LangChain and OTel GenAI.

Every reader takes parsed JSON (or JSON in a string) and gives plain {role, content}; what is no text (images, tool
calls and their results) is left out. Shapes are those of the formats' own documentation.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from rluf_assets.feedback.values import REFUSAL, ROLE_NAMES, TEXT_PARTS

Message = dict[str, str]

_ROLES = {
    "human": "user", "user": "user", "ai": "assistant", "assistant": "assistant", "model": "assistant",
    "aimessagechunk": "assistant", "humanmessage": "user", "aimessage": "assistant", "systemmessage": "system",
    "system": "system", "developer": "system",
}  # fmt: skip
# A list of messages as JSON text.
LISTED = r'^\s*\[\s*\{[\s\S]*"role"'
# Where a call's inputs or outputs keep their messages or text, in the order tried.
_WRAPPERS = (
    "messages", "choices", "generations", "message", "output", "answer", "response", "text", "input", "question",
    "query", "prompt", "completion",
)  # fmt: skip


def parsed(value: Any) -> Any:
    """The value; a string that holds a JSON object or array, encoded once or more often, is parsed."""
    found = value
    while isinstance(found, str) and found.lstrip()[:1] in ("{", "[", '"'):
        try:
            found = json.loads(found)
        except json.JSONDecodeError:
            return value
    return found if isinstance(found, dict | list) else value  # a text in quotes is a text


def messages_of(value: Any, role: str) -> list[Message]:
    """Messages in logged order; bare text is one message of `role`. Messages of tools, and empty ones, are left out."""
    value = parsed(value)
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value else []
    if isinstance(value, list):
        if _is_pair(value) and value[0] in _ROLES:  # LangChain's ("human", "hi")
            return [{"role": _ROLES[value[0]], "content": value[1]}]
        nested = value[0] if value and isinstance(value[0], list) and not _is_pair(value[0]) else value
        return [message for one in nested for message in messages_of(one, role)]
    return _of_object(value, role) if isinstance(value, dict) else []


def reply_of(value: Any) -> str | None:
    """The text of a call's output: its last assistant message, or its only text."""
    said = [message["content"] for message in messages_of(value, "assistant") if message["role"] == "assistant"]
    return said[-1] if said else None


def text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or the text parts of a list of typed parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        kind = content.get("type", "text")
        if kind == REFUSAL:
            return text_of(content.get(REFUSAL, content.get("content")))
        return text_of(content.get("content", content.get("text"))) if kind in TEXT_PARTS else None
    if isinstance(content, list):
        texts = [text for part in content if (text := text_of(part))]
        return "".join(texts) if texts else None
    return None


def listed_messages(text: str | None) -> list[dict[str, str | None]] | None:
    """The messages of a text that is the JSON of a list of them, or None."""
    if text is None or not re.match(LISTED, text):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not all(isinstance(one, dict) and {"role", "content"} <= set(one) for one in found):
        return None
    return [{"role": ROLE_NAMES.get(str(one["role"]).strip().lower(), str(one["role"])),
             "content": _plain_text(one["content"]) or text_of(one.get(REFUSAL))} for one in found]  # fmt: skip


def _plain_text(content: object) -> str | None:
    """A message's text; of typed parts, listed or once more as JSON, the text parts."""
    parts = parsed(content)
    typed = isinstance(parts, list) and all(isinstance(one, dict) and "type" in one for one in parts)
    return text_of(parts if typed else content)


def instant(value: Any) -> str | None:
    """ISO time in UTC of epoch seconds, milliseconds, microseconds or nanoseconds; text as it is (read later)."""
    if isinstance(value, str) and not value.strip().isdigit():
        return value or None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    while abs(number) > 1e11:  # the year 5138 in seconds: it was a finer unit
        number /= 1000
    try:
        return datetime.fromtimestamp(number, UTC).isoformat()
    except (OverflowError, ValueError):
        return None


def moment(text: str | None) -> float | None:
    """Epoch seconds of an ISO time (UTC where it names no zone), or None where it is none."""
    try:
        at = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _is_pair(value: list[Any]) -> bool:
    return len(value) == 2 and all(isinstance(part, str) for part in value)


def _of_object(value: dict[str, Any], role: str) -> list[Message]:
    if isinstance(value.get("kwargs"), dict):  # LangChain: {"id": [..., "HumanMessage"], "kwargs": {"content": ...}}
        path = value.get("id") or [""]
        return _of_object({"role": str(path[-1] if isinstance(path, list) else path), **value["kwargs"]}, role)
    if isinstance(value.get("data"), dict):  # LangChain: {"type": "human", "data": {...}}
        return _of_object({"role": value.get("type"), **value["data"]}, role)
    if "content" in value or "parts" in value:
        named = str(value.get("role") or value.get("type") or role).lower()
        said = parsed(value.get("parts")) if "parts" in value else value["content"]
        text = text_of(said) or text_of(value.get(REFUSAL))
        return [{"role": _ROLES[named], "content": text}] if named in _ROLES and text else []
    for key in _WRAPPERS:
        if value.get(key):
            return messages_of(value[key], role)
    return []
