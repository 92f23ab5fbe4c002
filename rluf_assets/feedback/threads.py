"""From the turns of a conversation to its tree of messages, each once, with parents.

Each turn was logged with the history before it: all of it, or its last messages only. A history is placed where it overlaps
most with what is known already; the turn goes on from there. So a question that was asked before at the same place was
retried, another one was edited or came next. Where no turn has a history, they follow each other.
"""

from __future__ import annotations

from typing import Any

from rluf_assets.feedback.chat_json import Message
from rluf_assets.feedback.turns import Turn, in_time

_ROOT = -1
# Of messages with the same text, so many of the latest are looked at.
_ALIKE = 32


class Thread:
    """One conversation: `rows` are its messages, parents before their children."""

    def __init__(self, turns: list[Turn]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._up: list[int] = []
        self._same: dict[tuple[str, str], list[int]] = {}
        self._below: dict[int, list[int]] = {}
        self._head = self._last = _ROOT
        self._windowed = False
        ordered = sorted(
            turns, key=lambda one: in_time({"started": one.started, "ended": one.ended, "span": one.reply_id})
        )
        self._histories = any(_past(one) for one in ordered)
        for turn in ordered:
            self._add_turn(turn)

    def _add_turn(self, turn: Turn) -> None:
        if not self.rows:
            for place, one in enumerate(turn.messages):
                if one["role"] == "system":
                    self._head = self._add(turn, one, self._head, f"past/{place}")
            self._last = self._head
        at = self._place(turn, _past(turn))
        if turn.question is not None:
            at = self._replied(at)
            asked = self._child(at, "user", turn.question) if self._histories else self._unanswered(at, turn.question)
            at = self._add(turn, turn.messages[turn.asked or 0], at, "user") if asked is None else asked
        self._last = self._add(turn, {"role": "assistant", "content": turn.reply or ""}, at, None)
        if not turn.reply:  # it failed: what comes next follows the question
            self.rows[self._last]["content"] = None
            self._last = at

    def _place(self, turn: Turn, past: list[tuple[int, Message]]) -> int:
        """The message that the turn's question follows; messages of its history that are new are added."""
        if not past:
            return self._last if self._windowed or not self._histories else self._head
        at, known, rooted = self._overlap([message for _, message in past])
        if at is None:
            at = self._last if self._windowed else self._head
        elif not rooted:
            self._windowed = True
        for place, message in past[known:]:
            at = self._add(turn, message, self._replied(at) if message["role"] == "user" else at, f"past/{place}")
        return at

    def _overlap(self, past: list[Message]) -> tuple[int | None, int, bool]:
        """Where the history overlaps most: the message, how much of the history ends there, whether it began at the root."""
        best, found = (0, False, False, 0, 0), None
        for end in range(len(past), 0, -1):
            for node in self._same.get(_key(past[end - 1]), [])[-_ALIKE:]:
                matched, whole, rooted = self._match(node, past[:end])
                if (score := (matched, whole, rooted, end, node)) > best:
                    best, found = score, node
            if best[0] >= end:
                break  # a shorter part of the history cannot agree in more
        return found, best[3], best[2]

    def _match(self, node: int, past: list[Message]) -> tuple[int, bool, bool]:
        """How many messages agree going back from `node`; whether all of the history did; whether the way ended with it."""
        at, left, matched = node, len(past), 0
        while at not in (_ROOT, self._head) and left:
            if _key(self.rows[at]) == _key(past[left - 1]):
                left, matched = left - 1, matched + 1
            elif not (self.rows[at]["role"] == "assistant" and past[left - 1]["role"] == "user"):
                break  # a history of the user's messages alone passes over replies
            at = self._up[at]
        return matched, not left, not left and at in (_ROOT, self._head)

    def _replied(self, at: int) -> int:
        """The latest reply to a user's message, which is what the next one follows; others as they are."""
        replies = [one for one in self._below.get(at, []) if self.rows[one]["role"] == "assistant"]
        asked = at != _ROOT and self.rows[at]["role"] == "user"
        return next((one for one in reversed(replies) if self.rows[one]["content"]), at) if asked else at

    def _child(self, at: int, role: str, content: str) -> int | None:
        wanted = _key({"role": role, "content": content})
        return next((one for one in self._below.get(at, []) if _key(self.rows[one]) == wanted), None)

    def _unanswered(self, at: int, question: str) -> int | None:
        """The question just asked, where it is asked again after a call that gave no text (it failed, or called a tool)."""
        same = at != _ROOT and _key(self.rows[at]) == _key({"role": "user", "content": question})
        return at if same else None

    def _add(self, turn: Turn, message: Message, up: int, name: str | None) -> int:
        """A new message: the reply (`name` None), its question, or one of the history before, not offered for reactions."""
        node, role = len(self.rows), message["role"]
        before = -1 if up == _ROOT else self.rows[up]["turn_index"] if self.rows[up]["role"] != "system" else -1
        turn_index = before + (role == "user")
        self.rows.append({
            **turn.facts, "message_id": turn.reply_id if name is None else f"{turn.reply_id}/{name}",
            "parent_id": None if up == _ROOT else self.rows[up]["message_id"], "role": role, "content": message["content"],
            "turn_index": max(turn_index, 0) if role == "system" else turn_index,
            "created_at": (turn.ended or turn.started) if name is None else turn.started or turn.ended,
            "reactions_shown": False if name is not None and role == "assistant" else None,
            "aliases": "\n".join(dict.fromkeys(one for one in turn.ids if one != turn.reply_id)) or None
            if name is None else None,
            "trace_id": turn.trace if name is None else None,
            "reply_logprob": turn.facts["reply_logprob"] if name is None else None,
        })  # fmt: skip
        self._up.append(up)
        self._same.setdefault(_key(message), []).append(node)
        self._below.setdefault(up, []).append(node)
        return node


def _past(turn: Turn) -> list[tuple[int, Message]]:
    """The messages before the question with their places, system messages left out."""
    before = turn.messages if turn.asked is None else turn.messages[: turn.asked]
    return [(place, one) for place, one in enumerate(before) if one["role"] != "system"]


def _key(message: dict[str, Any]) -> tuple[str, str]:
    return message["role"], (message["content"] or "").strip()
