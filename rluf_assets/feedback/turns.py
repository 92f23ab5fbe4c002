"""From the spans of traces to turns: one question with its history and one reply, however many spans it took.

A span that holds a question and an answer is a turn, with all spans below it, unless those are turns of their own: a
later call whose history holds an earlier call's reply. Calls side by side are steps of one turn, of which the last
answers, unless the user spoke in between. What a span lacks (user, conversation) is taken from its trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rluf_assets.feedback.chat_json import Message, moment

Span = dict[str, Any]
SHARED = (
    "conversation_id", "user_id", "policy_version", "use_case", "locale", "experiment_arm", "assignment_probability",
)  # fmt: skip
# The log-probability is of one reply: no other turn of the trace has it.
FACTS = (*SHARED, "reply_logprob")
# Nobody reads a reply and asks again in less; a tool that suggests titles or questions does.
_SHORTEST_PAUSE_S = 1.0
# Calls of one name, without histories, this far apart are questions of their own.
_PAUSE_S = 10.0


@dataclass
class Turn:
    """A question with the messages before it, the reply, and every id that a reaction may name the reply by."""

    reply_id: str
    messages: list[Message]
    reply: str | None
    started: str | None
    ended: str | None
    name: str | None
    parent: str | None
    facts: dict[str, str | None]
    ids: list[str] = field(default_factory=list)
    trace: str | None = None

    @property
    def asked(self) -> int | None:
        """Place of the last user message."""
        return max((place for place, one in enumerate(self.messages) if one["role"] == "user"), default=None)

    @property
    def question(self) -> str | None:
        """The last user message."""
        return None if self.asked is None else self.messages[self.asked]["content"]

    @property
    def whole(self) -> bool:
        """Whether it has a question and a reply."""
        return self.asked is not None and bool(self.reply)


def turns_of(spans: list[Span]) -> list[Turn]:
    """The turns of one trace, in time; where no span has both question and reply, one turn of what there is."""
    spans = _merged(spans)
    facts = {name: next((one[name] for one in spans if one[name]), None) for name in SHARED}
    parent_of = _parents(spans)
    found: dict[str | None, list[Turn]] = {}
    loose: dict[str | None, list[str]] = {}
    for span in sorted(spans, key=lambda one: -_depth(one["span"], parent_of)):
        above = parent_of[span["span"]]
        turns, ids = _with_own(span, _joined(found.pop(span["span"], [])), loose.pop(span["span"], []))
        found.setdefault(above, []).extend(turns)
        loose.setdefault(above, []).extend(ids)
    turns = _joined([turn for rest in found.values() for turn in rest])
    ids = [one for rest in loose.values() for one in rest]
    if not turns:
        turns = [_turn(one) for one in spans if one["speaks"] and (one["messages"] or one["reply"])][-1:]
    for turn in turns:
        turn.facts |= {name: turn.facts[name] or facts[name] for name in SHARED}
        turn.trace = spans[0]["trace"]
    if len(turns) == 1:
        turns[0].ids += ids
    if trace := spans[0]["trace"]:
        _name_trace(turns, str(trace), spans[0]["trace_is_reply"])
    return turns


def _name_trace(turns: list[Turn], trace: str, is_reply: bool) -> None:
    """The trace's reply is its last; where it has no other, its id may be the trace's."""
    if len(turns) == 1 and is_reply:
        turns[0].ids.append(turns[0].reply_id)
        turns[0].reply_id = trace
    elif turns:
        turns[-1].ids.append(trace)


def _merged(spans: list[Span]) -> list[Span]:
    """One span per id: instrumentations may log one call on its span and as an event."""
    by_id: dict[str, Span] = {}
    for number, span in enumerate(sorted(spans, key=in_time)):
        key = span["span"] or span["reply_id"] or f"{span['trace'] or ''}#{number}"
        one = by_id.setdefault(key, {**span, "span": key})
        for name, value in span.items():
            if one[name] in (None, [], ""):
                one[name] = value
    return sorted(by_id.values(), key=in_time)


def in_time(span: Span) -> tuple[bool, float, str]:
    """Sort key: by start, those without one last; the id makes it the same whatever order they came in."""
    at = moment(span["started"] or span["ended"])
    return at is None, at or 0.0, str(span["span"])


def _parents(spans: list[Span]) -> dict[str, str | None]:
    """Parent of each span; one whose parent is not there, or is itself below it, hangs on the trace's own record."""
    known = {one["span"]: one["parent"] for one in spans}
    top = spans[0]["trace"] if spans[0]["trace"] in known else None
    parent_of = {span: above if above in known else top if span != top else None for span, above in known.items()}
    for span in known:
        seen, at = {span}, parent_of[span]
        while at is not None and at not in seen:
            seen.add(at)
            at = parent_of[at]
        if at == span:
            parent_of[span] = top if top not in seen else None
    return parent_of


def _depth(span: str, parent_of: dict[str, str | None]) -> int:
    depth, at = 0, parent_of[span]
    while at is not None:
        depth, at = depth + 1, parent_of[at]
    return depth


def _ids(span: Span) -> list[str]:
    return [one for one in (span["span"], span["reply_id"]) if one]


def _turn(span: Span) -> Turn:
    return Turn(
        span["reply_id"] or span["span"], span["messages"] or [], span["reply"], span["started"], span["ended"],
        span["name"], span["parent"], {name: span[name] for name in FACTS}, _ids(span),
    )  # fmt: skip


def _with_own(span: Span, inner: list[Turn], loose: list[str]) -> tuple[list[Turn], list[str]]:
    """The turns of a span, from its own text or from those below it; and the ids below it that belong to no turn."""
    own = _turn(span)
    if not (span["speaks"] and own.whole) or len(inner) > 1:
        if len(inner) == 1:
            inner[0].ids += [*loose, *_ids(span)]
            return inner, []
        return inner, [] if inner else [*loose, *_ids(span)]
    for turn in inner:
        own.ids += [turn.reply_id, *turn.ids]
        lent = FACTS if turn.reply == own.reply else SHARED
        own.facts |= {name: own.facts[name] or turn.facts[name] for name in lent}
        if turn.question == own.question and len(turn.messages) > len(own.messages):
            own.messages = turn.messages  # the same question, with its history
        own.started, own.ended = own.started or turn.started, own.ended or turn.ended
    own.ids += loose
    return [own], []


def _joined(turns: list[Turn]) -> list[Turn]:
    """Calls side by side, put together where they are steps of one turn."""
    together: list[Turn] = []
    for turn in sorted(
        turns, key=lambda one: in_time({"started": one.started, "ended": one.ended, "span": one.reply_id})
    ):
        before = together[-1] if together else None
        if before is None or _spoke_between(before, turn):
            together.append(turn)
            continue
        kept, other = (before, turn) if _heard(before, turn) else (turn, before)
        kept.ids += [other.reply_id, *other.ids]
        together[-1] = kept
    return together


def _spoke_between(before: Turn, turn: Turn) -> bool:
    """Whether the user spoke again after the reply of `before`."""
    ended, started = moment(before.ended or before.started), moment(turn.started)
    pause = None if ended is None or started is None else started - ended
    if _heard(before, turn):
        return pause is None or pause >= _SHORTEST_PAUSE_S
    alike = before.name == turn.name and before.parent == turn.parent and before.question != turn.question
    alone = all(one.asked == sum(said["role"] == "system" for said in one.messages) for one in (before, turn))
    return alike and alone and pause is not None and pause >= _PAUSE_S


def _heard(before: Turn, turn: Turn) -> bool:
    """Whether the history of `turn`, before its question, holds the reply of `before`."""
    past = turn.messages[: turn.asked or 0]
    said = (before.reply or "").strip()
    return any(one["role"] == "assistant" and one["content"].strip() == said for one in past)
