"""Logs for people with files and no Dagster: from a file of any known format to labelled replies.

logs = rluf.read_logs("chats.jsonl", "messages", rluf.ContractConfig(signals=("love",), exposure="all_shown"))
rluf.audit_signals(logs.replies, logs.messages, rluf.SignalAuditConfig(signals=("love",), polarity={"love": 1}))
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from rluf_assets.errors import ConfigError
from rluf_assets.feedback.config import ContractConfig, IngestConfig
from rluf_assets.feedback.contract import Validated, validate
from rluf_assets.feedback.reading import read_day


def read_logs(
    source: str | Path,
    log_format: str,
    contract: ContractConfig | None = None,
    *,
    reactions: str | Path | None = None,
    layout: Mapping[str, Any] | None = None,
) -> Validated:
    """Read a whole log, set aside what is wrong in it row by row, and label its replies.

    `log_format`: canonical, messages, sharegpt, langfuse, langsmith, otel or open_webui. `reactions`: their file, where they
    are not in the same one. `layout`: where fields are and what scores mean (MessagesLayout). `contract`: the signals, whether
    replies offered them, whether there are times. Raises ConfigError for unknown settings, DataError where nothing is
    recognised.
    """
    contract = contract or ContractConfig()
    with tempfile.TemporaryDirectory(prefix="rluf-logs-") as folder:
        tables = {}
        for table, place in (("messages", source), ("reactions", reactions or source)):
            path = Path(folder, f"{table}.parquet")
            read_day(_ingest(place, log_format, table, layout), path, folder)
            tables[table] = pl.scan_parquet(path)
        return validate(tables["messages"], tables["reactions"], contract, where=str(source))


def _ingest(source: str | Path, log_format: str, table: str, layout: Mapping[str, Any] | None) -> IngestConfig:
    settings = {"source": str(source), "format": log_format, "table": table, "layout": dict(layout or {})}
    try:
        return IngestConfig.model_validate(settings)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in error.errors())
        raise ConfigError(f"{source}: {said}.") from error
