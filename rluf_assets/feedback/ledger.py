"""What became of every record of a source whose formats read records one by one: it gave rows, or it is named.

The reader of a format notes each record once (`calls.rows_of`), under its number in the source; how often Polars runs
that reader does not matter.
"""

from __future__ import annotations

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

    def note(self, record: int, value: Any, rows: int) -> None:
        """Write down that this record gave so many rows."""
        if rows:
            self.used.add(record)
        else:
            self.ignored[record] = kind_of(value)

    @property
    def kinds(self) -> dict[str, int]:
        """How many records of which kind gave no row."""
        return dict(Counter(self.ignored[record] for record in self.ignored if record not in self.used).most_common())


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
    attributes = record.get("attributes")
    said = attributes.get("gen_ai.operation.name") if isinstance(attributes, dict) else None
    names = (
        said,
        *(record.get(key) for key in ("type", "run_type", "event_name", "eventName", "name", "key", "object")),
    )
    found = next((name for name in names if isinstance(name, str) and name), None)
    return found[:40] if found else f"record with {', '.join(list(record)[:4])}"
