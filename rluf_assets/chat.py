"""Chat messages, the default chat template, and cutting a context to whole turns.

Shared by reward models and policies so that both see one rendering. No torch here: the control plane uses it too.
A *turn* is a user's messages since the last reply, with the reply that follows, in all its parts; a *prompt* is a list of
messages that ends with a user's, or with the earlier part of the reply to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from rluf_assets.errors import DataError


class Message(TypedDict):
    """One chat message in the form TRL and Hugging Face chat templates take."""

    role: str
    content: str


ROLES = ("system", "user", "assistant")
END = "<|end|>"
PAD = "<|pad|>"
# What a template that writes today's date writes instead, unless a model's tokenizer says another: prompts, and what is
# known by them, must be the same tomorrow. The date that Llama's own template falls back to.
CHAT_DATE = "2024-07-26"
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))

# Used where a base model has no chat template of its own; saved with every model we train.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def as_messages(prompt: str | Sequence[Message]) -> list[Message]:
    """A prompt as messages; a text is one user message. Raises DataError unless it ends with a user's words."""
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise DataError(f"prompt: found {prompt!r}, expected a text, or messages that end with a user's.")
    return messages


def drop_oldest_turn(prompt: Sequence[Message]) -> list[Message]:
    """Remove the oldest turn (its user messages and everything up to the next turn's), keeping a system message.

    A prompt of a single turn cannot be shortened and is returned unchanged.
    """
    head = [m for m in prompt[:1] if m["role"] == "system"]
    body = list(prompt[len(head) :])
    starts = _turn_starts(body)
    if len(starts) < 2:
        return list(prompt)
    return head + body[starts[1] :]


def keep_last_turns(prompt: Sequence[Message], ctx_turns: int) -> list[Message]:
    """The last `ctx_turns` turns (one at least), cut at whole turns from the left."""
    cut = list(prompt)
    for _ in range(len(_turn_starts(cut)) - max(1, ctx_turns)):
        cut = drop_oldest_turn(cut)
    return cut


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """Places of the user's messages that follow no other one."""
    user = [message["role"] == "user" for message in messages]
    return [i for i, is_user in enumerate(user) if is_user and not (i and user[i - 1])]


def fit_prompt(prompt: Sequence[Message], fits: Callable[[list[Message]], bool]) -> tuple[list[Message], int]:
    """Drop oldest turns until `fits(prompt)` holds or one turn is left.

    Returns the prompt and the number of turns dropped; the caller decides what to do if even one turn does not fit.
    """
    cut, dropped = list(prompt), 0
    while not fits(cut):
        shorter = drop_oldest_turn(cut)
        if len(shorter) == len(cut):
            break
        cut, dropped = shorter, dropped + 1
    return cut, dropped
