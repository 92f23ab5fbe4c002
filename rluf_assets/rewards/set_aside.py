"""Rows that cannot be used: set aside with a reason, counted and told, up to a share of the file.

One bad row among many does not end a run, and none vanishes: rows of a file = rows used + rows set aside.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError

# Number of a row in its file, counted from 0: carried along with the rows.
ROW = "_file_row"
# Why a row cannot be read at all, found where the file was read; null where it can.
DEFECT = "_defect"
FILE = "set_aside.jsonl"
NAMED_ROWS = 5

REASONS = {
    "empty_prompt": "the prompt is empty or has a message without text",
    "parts_other_than_text": "a message has parts other than text",
    "not_messages": "prompt or reply is neither text nor messages {role, content}",
    "wrong_role": "the reply is not the assistant's, or a message's role is unknown",
    "invalid_text": "a text has U+FFFD: bytes that were no text, here or in the system that logged it",
    "not_one_message": "the reply is not exactly one message",
    "empty_reply": "empty completion, chosen or rejected",
    "no_label": "label is NaN or null",
    "bad_label": "label is not 0 or 1 (with soft_labels: from 0 to 1)",
    "bad_weight": "sample_weight is not a finite number of at least 0",
    "bad_margin": "margin is no number",
    "no_shared_prompt": "chosen and rejected do not share their prompt",
    "equal_replies": "chosen equals rejected",
    "refused_by_template": "the model's chat template refuses the order of its roles",
    "too_long": "prompt and reply do not fit max_length even with one turn; raise it",
    "alike_when_cut": "chosen and rejected are the same tokens",
}


@dataclass
class SetAside:
    """The rows of one file (`name`, of `total` rows) that cannot be used: row number -> reason.

    `free` are the reasons that a setting drops on purpose: they are told as well, but do not count against `max_share`.
    """

    name: str
    total: int
    max_share: float
    free: frozenset[str] = frozenset()
    rows: dict[int, str] = field(default_factory=dict)

    def drop(self, frame: pl.DataFrame, bad: pl.Expr | np.ndarray, reason: str) -> pl.DataFrame:
        """The frame without the rows where `bad` holds or is null; those are noted under `reason`."""
        mask = frame.select(bad.fill_null(True)).to_series().to_numpy() if isinstance(bad, pl.Expr) else bad
        self.note(frame[ROW].to_numpy()[mask], reason)
        return frame.filter(~mask) if mask.any() else frame

    def note(self, rows: Iterable[int], reason: str) -> None:
        self.rows.update((int(row), reason) for row in rows)

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(self.rows.values()).most_common())

    def check(self) -> None:
        """Raise DataError where more than `max_share` of the rows are lost, with the counts by reason."""
        counted = {row: reason for row, reason in self.rows.items() if reason not in self.free}
        if len(counted) > self.max_share * self.total:
            told = []
            for reason, count in Counter(counted.values()).most_common():
                rows = sorted(row for row, why in counted.items() if why == reason)
                shown = ", ".join(map(str, rows[:NAMED_ROWS])) + (", ..." if count > NAMED_ROWS else "")
                told.append(f"{count} of {self.total} rows: {reason} - {REASONS[reason]} (row {shown})")
            raise DataError(
                f"{self.name}: {len(counted)} of {self.total} rows cannot be used, more than the {self.max_share:.0%} that "
                f"max_set_aside_share allows. {'; '.join(told)}. Rows are counted from 0. Mend or drop them, or raise "
                "max_set_aside_share."
            )
        if len(self.rows) == self.total:
            raise DataError(f"{self.name}: none of {self.total} rows can be used: {self.counts}. Mend the file.")

    def facts(self) -> dict[str, Any]:
        """Counts for metrics.json."""
        return {"rows": self.total, "set_aside": len(self.rows), "reasons": self.counts}

    def records(self) -> list[dict[str, Any]]:
        return [
            {"file": self.name, "row": row, "reason": reason, "why": REASONS[reason]}
            for row, reason in sorted(self.rows.items())
        ]


def told(files: dict[str, dict[str, Any]]) -> str:
    """One line about `facts()` of some files, what was trained on first."""
    parts = []
    for name, facts in sorted(files.items(), key=lambda file: file[0] != "train"):
        why = ", ".join(f"{count} {reason}" for reason, count in facts["reasons"].items())
        parts.append(f"{facts['set_aside']} of {facts['rows']} rows of {name}" + (f" ({why})" if why else ""))
    return f"Set aside: {'; '.join(parts)}."


def write_set_aside(path: Path, asides: Sequence[SetAside]) -> None:
    """One JSON line per row that was set aside: file, row (from 0), reason, why. An empty file where there is none."""
    lines = [json.dumps(record) for aside in asides for record in aside.records()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
