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
from rluf_assets.feedback.adapters import canonical_unreadable
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.forgetting import without_forgotten
from rluf_assets.feedback.ingest import OTHERS, TIME_OF, Part, parts_of
from rluf_assets.feedback.recognise import found_instead, looks_like, recognised
from rluf_assets.feedback.schemas import empty
from rluf_assets.feedback.sources import structural_errors

_ROW_GROUP = 100_000
_SAYS = {"messages": "content", "reactions": "message_id"}
_IGNORED = "ignored: "


@dataclass
class DayRead:
    """What a day's source held: `records` counted in the files, `rows` of the day, and the others by why.

    `source_rows` are those of all days; `no_time` of the day's rows have no time; `unreadable` are lines for people.
    """

    table: str
    records: int = 0
    source_rows: int = 0
    rows: int = 0
    users: int = 0
    no_time: int = 0
    others: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, Any]:
        """Figures for the manifest."""
        others = {name: self.others.get(name, 0) for name in OTHERS}
        ignored = {f"{_IGNORED}{kind}": count for kind, count in self.ignored.items()}
        return {"rows": self.rows, "records": self.records, "source_rows": self.source_rows, "users": self.users,
                "no_time": self.no_time, **others, **ignored}  # fmt: skip


def told(metrics: Mapping[str, Any], table: str) -> list[str]:
    """One line each of what a source held beside the day's rows, from the metrics of its artifact."""
    others = [f"{metrics[name]} {table} {why}" for name, why in OTHERS.items() if metrics.get(name)]
    ignored = {name.removeprefix(_IGNORED): count for name, count in metrics.items() if name.startswith(_IGNORED)}
    return [
        *others,
        *(f"{count} records without {table} ({kind})" for kind, count in ignored.items()),
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
    counts = Counter(dict(apart.group_by("other").len().collect().iter_rows()))
    rows, of_day = counts.total(), counts.pop(None, 0)
    records, ignored = part.opened.records, part.ledger.kinds if part.ledger else {}
    unreadable = canonical_unreadable(part.opened, config) if config.format == "canonical" else []
    strange = records and not recognised(part.opened.heads, config.format)
    # A reader that goes record by record makes rows of anything: they must say something, and to no other reader.
    said = apart.select(pl.col(_SAYS[config.table]).is_not_null().any()).collect().item()
    if strange and (not said or (part.ledger is not None and looks_like(part.opened.heads))):
        raise DataError(found_instead(part.opened, config.format))
    accounted = len(part.ledger.used) + sum(ignored.values()) if part.ledger else rows
    exact = part.ledger is not None or config.format == "canonical"  # one row per record, or noted record by record
    if exact and accounted != records:
        raise DataError(f"{part.opened.source}: {records} records in the files, {accounted} accounted for.")
    found.records += records
    found.source_rows += rows
    found.rows += of_day
    for name, count in counts.items():
        found.others[name] = found.others.get(name, 0) + count
    for kind, count in ignored.items():
        found.ignored[kind] = found.ignored.get(kind, 0) + count
    found.unreadable += unreadable
