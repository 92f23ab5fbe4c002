"""What became of every record of a source whose formats read records one by one: it gave rows, or it is named.

The reader of a format notes each record once (`calls.rows_of`), under its number in the source; how often Polars runs
that reader does not matter.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """Records by number: those that gave rows, and the kind of each that gave none."""

    used: set[int] = field(default_factory=set)
    ignored: dict[int, str] = field(default_factory=dict)
    media: dict[int, Counter[str]] = field(default_factory=dict)

    def note(self, record: int, value: Any, rows: int, text: str = "") -> None:
        """Write down that this record gave so many rows, and what other than text it holds."""
        if MEDIA.search(text):
            self.media[record] = media_in(value)
        if rows:
            self.used.add(record)
        else:
            self.ignored[record] = kind_of(value)

    @property
    def kinds(self) -> dict[str, int]:
        """How many records of which kind gave no row."""
        return dict(Counter(self.ignored[record] for record in self.ignored if record not in self.used).most_common())

    @property
    def parts(self) -> dict[str, int]:
        """How many parts of messages are no text, by kind."""
        return dict(sum(self.media.values(), Counter[str]()))


NAMELESS = "call without an id"
# Parts of a message that are no text, as JSON or within a JSON text.
MEDIA = re.compile(r'"type\\*"\s*:\s*\\*"[a-z_]*(image|audio|video|file|document|media)')
_MEDIUM = re.compile(r"image|audio|video|file|document|media")


def media_in(value: Any) -> Counter[str]:
    """Parts that are no text in a record or a message's content, by the kind that they name."""
    found: Counter[str] = Counter()
    if isinstance(value, str) and MEDIA.search(value) and value.lstrip()[:1] in ("{", "["):
        try:
            return media_in(json.loads(value))
        except ValueError:
            return found
    if isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and _MEDIUM.search(kind):
            found[kind] += 1
            return found
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += media_in(one)
    return found


_LEDGER: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


@contextmanager
def counting(ledger: Ledger) -> Iterator[Ledger]:
    """Readers that are put together within note their records in this ledger, whenever they run."""
    token = _LEDGER.set(ledger)
    try:
        yield ledger
    finally:
        _LEDGER.reset(token)


def ledger_in_use() -> Ledger | None:
    """The ledger to note records in, if there is one."""
    return _LEDGER.get()


def kind_of(record: Any) -> str:
    """What a record calls itself, for people to recognise it by."""
    if not isinstance(record, dict):
        return type(record).__name__
    if "snapshot" in record and not (isinstance(record["snapshot"], dict) and record["snapshot"].get("chat")):
        return "feedback without a chat"
    named = any(record.get(name) for name in ("id", "_id", "span_id", "spanId", "context", "message_id"))
    if not named and any(record.get(name) for name in ("inputs", "outputs", "input", "output")):
        return NAMELESS
    attributes = record.get("attributes")
    said = attributes.get("gen_ai.operation.name") if isinstance(attributes, dict) else None
    names = (
        said,
        *(record.get(key) for key in ("type", "run_type", "event_name", "eventName", "name", "key", "object")),
    )
    found = next((name for name in names if isinstance(name, str) and name), None)
    return found[:40] if found else f"record with {', '.join(list(record)[:4])}"
