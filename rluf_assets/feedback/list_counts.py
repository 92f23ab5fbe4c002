"""What logs of whole conversations hold, counted where they are read: by Python's JSON, while Polars makes the rows.

Formats whose records are conversations with a list of messages (`messages`, `sharegpt`): of every record, how many messages
it has, or of what kind it is if it has none. What the rows are held against (`reading.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rluf_assets.errors import DataError
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.ledger import MEDIA, kind_of, media_in
from rluf_assets.feedback.sources import Opened
from rluf_assets.feedback.values import ROLE_NAMES

LISTS = ("messages", "sharegpt")
_SHOWN = 30


@dataclass
class Listed:
    """`messages` in the lists of all records; the records without any, and the parts that are no text, by kind."""

    messages: int = 0
    used: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)


# Where people keep what users thought of a message, or of a conversation.
_RATINGS = ("rating", "ratings", "feedback", "thumb", "thumbs", "vote", "votes", "like", "liked", "reaction", "annotation",
            "marks", "reactions")  # fmt: skip
_LABELS = ("label", "kto_tag", "rating", "feedback")


def listed(opened: Opened, layout: MessagesLayout) -> Listed:
    """Count the messages of every record."""
    found = Listed()
    for record in opened.values():
        messages = _messages(record, layout)
        found.messages += len(messages)
        found.used += bool(messages)
        if not messages:
            found.ignored[_kind(record, layout)] += 1
        for one in messages:
            content = (
                next((one[name] for name in layout.content if one.get(name)), None) if isinstance(one, dict) else None
            )
            if not isinstance(content, str) or MEDIA.search(content):
                found.parts += media_in(content)
    return found


def unread(opened: Opened, layout: MessagesLayout, rows: int) -> Counter[str]:
    """What looks like a reaction and sets none: words that the layout does not name, fields that it does not read.

    Raises DataError where such fields are all there is.
    """
    read = {layout.marks, layout.reactions, *layout.ratings}
    words = {name: {word.strip().lower() for word in known} for name, known in layout.ratings.items()}
    found: Counter[str] = Counter()
    known = False
    for record in opened.values():
        labels = {name: _labels(record, name, layout) for name in _LABELS if record.get(name) is not None}
        found.update(f"{name}: label" for name, is_read in labels.items() if not is_read)
        if not _replied(record, layout):
            found.update(f"{name}: conversation without a reply" for name, is_read in labels.items() if is_read)
        for one in (one for one in _messages(record, layout) if isinstance(one, dict)):
            known |= any(one.get(name) is not None for name in read)
            found.update(name for name in _RATINGS if one.get(name) not in (None, "", [], {}) and name not in read)
            for name, named in words.items():
                value = one.get(name)
                if value not in (None, "") and str(value).strip().lower().removesuffix(".0") not in named:
                    found[f"{name}: {str(value)[:_SHOWN]}"] += 1
    if not rows and not known and found:
        fields = ", ".join(f"{name} ({count})" for name, count in found.most_common())
        raise DataError(
            f"{opened.source}: no reaction is read, but there are {fields}. Say in the layout what they mean: `ratings` for "
            "words on messages, `labels` for a column with one label per conversation, `marks` or `reactions` for other fields."
        )
    return found


def _labels(record: dict[str, Any], name: str, layout: MessagesLayout) -> bool:
    """Whether the label is read (see `message_reactions.labels_of`)."""
    named = "labels" in layout.model_fields_set
    return name in layout.labels and (named or isinstance(record[name], bool))


def _replied(record: dict[str, Any], layout: MessagesLayout) -> bool:
    """Whether a conversation has a reply that its label can be of."""
    said = [one for one in _messages(record, layout) if isinstance(one, dict)]
    roles = [str(next((one[name] for name in layout.role if name in one), "")) for one in said]
    known = {ROLE_NAMES.get(layout.roles.get(role, role).strip().lower()) for role in roles}
    return "assistant" in known or isinstance(record.get("completion"), str)


def _messages(record: dict[str, Any], layout: MessagesLayout) -> list[Any]:
    if named := [name for name in layout.messages if name in record]:
        said = record[named[0]]
        return said if isinstance(said, list) else []
    sides = [record.get(name) for name in ("prompt", "completion")]  # TRL's rows, see `adapters._completed`
    if all(isinstance(side, str) for side in sides):
        return list(sides)
    listed = [side for side in sides if isinstance(side, list)]
    return [one for side in listed for one in side] if len(listed) == len(sides) else []


def _kind(record: dict[str, Any], layout: MessagesLayout) -> str:
    named = any(name in record for name in layout.messages)
    return "conversation without messages" if named else kind_of(record)
