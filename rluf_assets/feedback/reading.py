"""Read a day of a source into a Parquet file, and account for every record that the source holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.adapters import canonical_parts, canonical_unreadable
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.forgetting import without_forgotten
from rluf_assets.feedback.ingest import OTHERS, TIME_OF, Part, parts_of
from rluf_assets.feedback.ledger import NAMELESS
from rluf_assets.feedback.list_counts import LISTS, listed, unread
from rluf_assets.feedback.recognise import found_instead, looks_like, recognised
from rluf_assets.feedback.schemas import empty
from rluf_assets.feedback.sources import Opened, structural_errors

_ROW_GROUP = 100_000
_SAYS = {"messages": "content", "reactions": "message_id"}
_IGNORED, _PARTS, _UNREAD = "ignored: ", "parts: ", "unread: "


@dataclass
class DayRead:
    """What a day's source held: `records` counted in the files, `rows` of the day, and the others by why.

    `source_rows` are those of all days, counted where they are read if they can be; `no_time` of the day's rows have no
    time; `parts` are no text, `unread` fields and words set no signal, by kind; `unreadable` are lines for people.
    """

    table: str
    records: int = 0
    source_rows: int = 0
    rows: int = 0
    users: int = 0
    no_time: int = 0
    others: dict[str, int] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, Any]:
        """Figures for the manifest."""
        others = {name: self.others.get(name, 0) for name in OTHERS}
        ignored = {f"{_IGNORED}{kind}": count for kind, count in self.ignored.items()}
        ignored |= {f"{_PARTS}{kind}": count for kind, count in self.parts.items()}
        ignored |= {f"{_UNREAD}{kind}": count for kind, count in self.unread.items()}
        return {"rows": self.rows, "records": self.records, "source_rows": self.source_rows, "users": self.users,
                "no_time": self.no_time, **others, **ignored}  # fmt: skip


def told(metrics: Mapping[str, Any], table: str) -> list[str]:
    """One line each of what a source held beside the day's rows, from the metrics of its artifact."""
    others = [f"{metrics[name]} {table} {why}" for name, why in OTHERS.items() if metrics.get(name)]
    ignored = {name.removeprefix(_IGNORED): count for name, count in metrics.items() if name.startswith(_IGNORED)}
    parts = {name.removeprefix(_PARTS): count for name, count in metrics.items() if name.startswith(_PARTS)}
    unnamed = {name.removeprefix(_UNREAD): count for name, count in metrics.items() if name.startswith(_UNREAD)}
    return [
        *others,
        *(f"{count} records without {table} ({kind})" for kind, count in ignored.items()),
        *(f"{count} parts of messages that are no text, left out ({kind})" for kind, count in parts.items()),
        *(
            f"{count} times what sets no signal ({kind}): name it in the layout if it should"
            for kind, count in unnamed.items()
        ),
    ]


def survey(config: IngestConfig) -> tuple[DayRead, list[date | None]]:
    """What a whole source holds, and its days in order; a None among them stands for rows without a time."""
    found, days, users = DayRead(config.table), set(), set()
    for part in parts_of(config):
        with structural_errors(part.opened.source):
            day = pl.col(TIME_OF[config.table]).dt.date()
            table = part.rows.select("user_id", "other", _SAYS[config.table], day=day).collect(engine="streaming")
            _account(part, table.lazy(), config, found)
        days |= set(table["day"].unique())
        users |= set(table["user_id"].drop_nulls().unique())
    found.users = len(users)
    return found, sorted(days, key=lambda day: (day is None, day or date.max))


def read_day(config: IngestConfig, path: Path, output_uri: str) -> DayRead:
    """Write the day's canonical rows to `path`; `output_uri` is the artifact's folder in the lake.

    Raises DataError where nothing in the files is recognised, where no value of a column can be read, or where the
    records do not add up.
    """
    found, rows = DayRead(config.table), []
    for part in parts_of(config):
        with structural_errors(part.opened.source):
            apart = part.rows
            if part.ledger is not None:  # read in Python, record by record: once is enough
                apart = apart.collect(engine="streaming").lazy()
            _account(part, apart, config, found)
        rows.append(apart.filter(pl.col("other").is_null()).drop("other"))
    of_day = pl.concat(rows) if rows else empty(config.table).lazy()
    kept = without_forgotten(of_day, output_uri)
    with structural_errors(config.source):
        kept.sink_parquet(path, maintain_order=True, row_group_size=_ROW_GROUP)
        untimed = pl.col(TIME_OF[config.table]).is_null().sum()
        written = pl.scan_parquet(path).select(pl.len(), users=pl.col("user_id").n_unique(), no_time=untimed).collect()
    # Counted in what was written, not in what was to be.
    expected, (found.rows, found.users, found.no_time) = found.rows, written.row(0)
    if kept is not of_day:
        found.others["forgotten_user"] = expected - found.rows
    elif found.rows != expected:
        raise DataError(f"{config.source}: {expected} {config.table} of the day were read, {found.rows} written.")
    return found


def _account(part: Part, apart: pl.LazyFrame, config: IngestConfig, found: DayRead) -> None:
    opened, ledger = part.opened, part.ledger
    counts = Counter(dict(apart.group_by("other").len().collect().iter_rows()))
    rows, of_day = counts.total(), counts.pop(None, 0)
    canonical = config.format == "canonical"
    unreadable = opened.once("unreadable", lambda: canonical_unreadable(opened, config)) if canonical else []
    strange = opened.records and not recognised(opened.heads, config.format)
    # A reader that goes record by record makes rows of anything: they must say something, and to no other reader.
    said = apart.select(pl.col(_SAYS[config.table]).is_not_null().any()).collect().item()
    if config.format in LISTS and config.table == "reactions":
        found.unread.update(opened.once("unread", lambda: unread(opened, config.layout, rows)))
    if ledger is not None and opened.records and set(ledger.kinds) == {NAMELESS} and not ledger.used:
        raise DataError(
            f"{opened.source}: none of {opened.records} records has an id, of its own or of its trace, so that no score could "
            "name it. Export the ids too."
        )
    if strange and (not said or (ledger is not None and looks_like(opened.heads))):
        raise DataError(found_instead(opened, config.format))
    lists = config.format in LISTS and config.table == "messages"
    in_lists = opened.once("listed", lambda: listed(opened, config.layout)) if lists else None
    if ledger is not None:
        _add_up(opened, "records", opened.records, len(ledger.used) + sum(ledger.kinds.values()))
        found.ignored.update(ledger.kinds)
        found.parts.update(ledger.parts if config.table == "messages" else {})
    elif in_lists is not None:
        _add_up(opened, "records", opened.records, in_lists.used + in_lists.ignored.total())
        _add_up(opened, "messages", in_lists.messages, rows)
        found.ignored.update(in_lists.ignored)
        found.parts.update(in_lists.parts)
    elif canonical:
        _add_up(opened, "records", opened.records, rows)
        messages = config.table == "messages"
        found.parts.update(opened.once("parts", lambda: canonical_parts(opened, config)) if messages else {})
    found.records += opened.records
    found.source_rows += in_lists.messages if in_lists else rows
    found.rows += of_day
    for name, count in counts.items():
        found.others[name] = found.others.get(name, 0) + count
    found.unreadable += unreadable


def _add_up(opened: Opened, what: str, counted: int, accounted: int) -> None:
    """Raise DataError unless what was counted in the files is what became of it."""
    if accounted != counted:
        raise DataError(f"{opened.source}: {counted} {what} in the files, {accounted} accounted for.")
