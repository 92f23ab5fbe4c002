"""One raw table of one day: open the source, adapt it to the canonical columns, hash user ids where asked.

Every row of the source is told apart: of this day, or other, and then why (`OTHERS`). So the records counted in the
files can be held against what became of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.adapters import ADAPTERS, hash_user_ids, hashed_id
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ledger import Ledger, counting
from rluf_assets.feedback.recognise import found_instead, recognised
from rluf_assets.feedback.schemas import empty
from rluf_assets.feedback.sources import Opened, find, open_source, structural_errors
from rluf_assets.feedback.values import clocks_in

# Files of several days, up to this size together, are read once and not once a day.
_HELD_BYTES = 64 << 20
_Canonical = tuple[Opened, pl.LazyFrame, Ledger | None]
_HELD: dict[tuple[Any, ...], _Canonical] = {}
TIME_OF = {"messages": "created_at", "reactions": "reacted_at"}
OTHERS: Mapping[str, str] = {
    "other_day": "of another day",
    "undated": "without a readable time: set aside with the first day of their file",
    "forgotten_user": "of a user who is to be forgotten",
}


@dataclass(frozen=True)
class Part:
    """The canonical rows of opened files, with `other`: null for those of the day, else the name of why not (`OTHERS`).

    `ledger`: what became of each record, where the format's reader goes record by record.
    """

    opened: Opened
    rows: pl.LazyFrame
    ledger: Ledger | None


def read_table(config: IngestConfig) -> pl.LazyFrame:
    """Canonical rows of the source, in its order; of `config.day` only where one file holds several days.

    Raises DataError for structural defects, ConfigError for a source or salt that is not there to be used.
    """
    rows = [part.rows.filter(pl.col("other").is_null()).drop("other") for part in parts_of(config)]
    return pl.concat(rows) if rows else empty(config.table).lazy()


def parts_of(config: IngestConfig) -> list[Part]:
    """The files that hold the day, each with all its canonical rows. None where a missing source means no rows."""
    return [_part(source, config, own) for source, own in _sources(config).items()]


def sources_of(config: IngestConfig) -> list[str]:
    """Names of the files that hold the day."""
    return list(_sources(config))


def stored_ids(user_id: str, salt_env: str = "RLUF_USER_SALT") -> list[str]:
    """The ids that a user may be stored under: as given, and hashed where the salt is set."""
    return [user_id, *([hashed_id(user_id, os.environ[salt_env])] if os.environ.get(salt_env) else [])]


def _sources(config: IngestConfig) -> dict[str, bool]:
    """Source -> whether it is the day's own. Days of local files do not end with those of UTC: the next one is needed."""
    if "{day}" not in config.source:
        return {} if config.if_missing == "empty" and not find(config.source) else {config.source: True}
    if config.day is None:
        raise ConfigError(
            f"source {config.source!r} has {{day}} but no day is given. Set day, or use a pattern without it."
        )
    zone = ZoneInfo(config.layout.time_zone)
    begins = datetime(config.day.year, config.day.month, config.day.day, tzinfo=ZoneInfo("UTC"))
    local = {(begins + timedelta(hours=hours)).astimezone(zone).date() for hours in (0, 23.999)} | {config.day}
    named = {config.source.replace("{day}", day.isoformat()): day == config.day for day in sorted(local)}
    return {source: own for source, own in named.items() if (own and config.if_missing == "error") or find(source)}


def _part(source: str, config: IngestConfig, own: bool) -> Part:
    opened, rows, ledger = _read(source, config)
    time, other = pl.col(TIME_OF[config.table]), pl.lit(None, pl.String)
    if config.day is not None and ("{day}" not in config.source or config.layout.time_zone != "UTC"):
        other = pl.when(time.dt.date() != config.day).then(pl.lit("other_day"))
        if config.undated == "other" or not own:
            other = pl.when(time.is_null()).then(pl.lit("undated")).otherwise(other)
    return Part(opened, rows.with_columns(other=other), ledger)


def _read(source: str, config: IngestConfig) -> _Canonical:
    """All canonical rows of the files. Small files of several days are held for the next day, while they stay as they are."""
    key = _to_hold(source, config)
    if key is not None and key in _HELD:
        return _HELD[key]
    opened, ledger = open_source(source), Ledger() if ADAPTERS[config.format].lines else None
    with counting(ledger) if ledger is not None else nullcontext():
        rows = _adapted(opened, config)
    if key is None:
        return opened, rows, ledger
    with structural_errors(source):
        found = opened, rows.collect(engine="streaming").lazy(), ledger
    while len(_HELD) > 1:  # one of messages, one of reactions
        del _HELD[next(iter(_HELD))]
    _HELD[key] = found
    return found


def _to_hold(source: str, config: IngestConfig) -> tuple[Any, ...] | None:
    """What the rows depend on, files as they are included; None where they are not to be held."""
    if config.day is None or "{day}" in config.source or "://" in source:
        return None
    files = [(name, os.stat(name)) for name in find(source)]
    if sum(stat.st_size for _, stat in files) > _HELD_BYTES:
        return None
    known = config.model_dump_json(include={"format", "table", "layout", "user_ids", "salt_env"})
    salt = os.environ.get(config.salt_env) if config.user_ids == "raw" else None
    return (known, salt, *((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in files))


def _adapted(opened: Opened, config: IngestConfig) -> pl.LazyFrame:
    """All canonical rows of opened files. Raises DataError, with what the records look like, where none can be made."""
    if not opened.records:
        return empty(config.table).lazy()
    adapter = ADAPTERS[config.format]
    read = getattr(adapter, config.table)
    try:
        with structural_errors(opened.source), clocks_in(config.layout.time_zone):
            frame = opened.lines() if adapter.lines else opened.frame(as_text=config.format == "canonical")
            rows: pl.LazyFrame = read(frame, config.layout, opened.source)
    except DataError as error:
        if recognised(opened.heads, config.format):
            raise
        raise DataError(found_instead(opened, config.format, str(error))) from error
    return hash_user_ids(rows, _salt(config.salt_env)) if config.user_ids == "raw" else rows


def _salt(name: str) -> str:
    salt = os.environ.get(name, "")
    if not salt:
        raise ConfigError(f"user_ids: raw needs a salt in the environment variable {name}, which is not set. Set it.")
    return salt
