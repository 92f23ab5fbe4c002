"""Prompts and replies as people write them in files, brought to one form: messages of a role and a text.

Text, a list of messages, contents that are text or a list of parts (alone or mixed in one column), and either of them
written as JSON once more. Parts that are no text are not read past: the row is named for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rluf_assets.chat import Message
from rluf_assets.feedback.values import ROLE_NAMES
from rluf_assets.rewards.set_aside import REASONS

TEXT_PARTS = ("text", "input_text", "output_text")
OTHER_PARTS = (
    "image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file", "input_file", "document",
    "tool_use", "tool_call", "tool_result", "thinking", "reasoning", "refusal",
)  # fmt: skip


class Unread(ValueError):
    """A value that cannot be read; its argument is the reason, one of REASONS."""

    @property
    def reason(self) -> str:
        reason = str(self.args[0])
        assert reason in REASONS
        return reason


def messages_of(value: Any, role: str) -> list[Message] | None:
    """A prompt's or a reply's messages; plain text is one of `role`. None for null. Raises Unread."""
    value = _decoded(value)
    if value is None:
        return None
    if isinstance(value, str):
        return [Message(role=role, content=value)]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or not all(isinstance(message, Mapping) for message in value):
        raise Unread("not_messages")
    if value and all("type" in part and "role" not in part for part in value):
        return [Message(role=role, content=_text(value) or "")]
    return [_message(message) for message in value]


def _message(message: Mapping[str, Any]) -> Message:
    if not {"role", "content"} <= message.keys():
        raise Unread("not_messages")
    role = ROLE_NAMES.get(str(message["role"]).strip().lower())
    if role is None:
        raise Unread("wrong_role" if message["role"] is not None else "empty_prompt")
    return Message(role=role, content=_text(message["content"]))  # type: ignore[typeddict-item]  # null: named later


def _text(content: Any) -> str | None:
    """The text of a content: text parts joined. Raises Unread for a part that is no text."""
    content = _decoded(content)
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise Unread("not_messages")
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Unread("not_messages")
    text = part.get("text")
    if part.get("type", "text") not in TEXT_PARTS or not isinstance(text, str):
        raise Unread("parts_other_than_text")
    return text


def _decoded(value: Any) -> Any:
    """What a text holds that is a list of messages or parts written as JSON; any other text as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    known = isinstance(found, list) and found and all(_is_message(item) or _is_part(item) for item in found)
    return found if known else value


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "content" in item and str(item.get("role")).lower() in ROLE_NAMES


def _is_part(item: Any) -> bool:
    return isinstance(item, dict) and (
        (item.get("type") in TEXT_PARTS and isinstance(item.get("text"), str)) or item.get("type") in OTHER_PARTS
    )
