"""One raw table of one day: open the source, adapt it to the canonical columns, hash user ids where asked."""

from __future__ import annotations

import os

import polars as pl

from rluf_assets.errors import ConfigError
from rluf_assets.feedback.adapters import ADAPTERS, hash_user_ids, hashed_id
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.schemas import empty
from rluf_assets.feedback.sources import find, scan, scan_lines, structural_errors

TIME_OF = {"messages": "created_at", "reactions": "reacted_at"}


def read_table(config: IngestConfig) -> pl.LazyFrame:
    """Canonical rows of the source, in its order; of `config.day` only where one file holds several days.

    Raises DataError for structural defects, ConfigError for a source or salt that is not there to be used.
    """
    templated = "{day}" in config.source
    if templated and config.day is None:
        raise ConfigError(
            f"source {config.source!r} has {{day}} but no day is given. Set day, or use a pattern without it."
        )
    source = config.source.replace("{day}", config.day.isoformat()) if templated and config.day else config.source
    if config.if_missing == "empty" and not find(source):
        return empty(config.table).lazy()
    with structural_errors(source):
        adapter = ADAPTERS[config.format]
        opened = scan_lines(source) if adapter.lines else scan(source)
        rows: pl.LazyFrame = getattr(adapter, config.table)(opened, config.layout, source)
        if config.user_ids == "raw":
            rows = hash_user_ids(rows, _salt(config.salt_env))
        if config.day is not None and not templated:
            time = pl.col(TIME_OF[config.table])
            rows = rows.filter((time.dt.date() == config.day) | time.is_null().all())  # a source without times is whole
    return rows


def stored_ids(user_id: str, salt_env: str = "RLUF_USER_SALT") -> list[str]:
    """The ids that a user may be stored under: as given, and hashed where the salt is set."""
    return [user_id, *([hashed_id(user_id, os.environ[salt_env])] if os.environ.get(salt_env) else [])]


def _salt(name: str) -> str:
    salt = os.environ.get(name, "")
    if not salt:
        raise ConfigError(f"user_ids: raw needs a salt in the environment variable {name}, which is not set. Set it.")
    return salt
