"""Ingest outside Dagster, into the same place in the lake and by the same job as the daily assets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import DataError
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ingest import TIME_OF, read_table
from rluf_assets.feedback.sources import hash_files, structural_errors
from rluf_assets.jobs.ingest import run
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Lake


def ingest_days(root: Path, config: IngestConfig) -> Iterator[tuple[date, int, bool]]:
    """Publish `config.table` of the source's days (or of `config.day`) as raw partitions: day, rows, already there.

    Raises DataError where rows have no time and no day is given.
    """
    lake, asset = Lake(str(root)), f"raw_{config.table}"
    for day in [config.day] if config.day else _days(config):
        one = config.model_copy(update={"day": day})
        source = config.source.replace("{day}", day.isoformat())
        draft = JobSpec(
            name=f"{asset}[{day}]", entrypoint="rluf_assets.jobs.ingest", version=config.version, seed=0, output_uri="",
            config=one.model_dump(mode="json"),
            inputs={"files": InputArtifact(uri=source, content_hash=hash_files(source))},
        )  # fmt: skip
        spec = draft.model_copy(update={"output_uri": lake.folder(asset, day.isoformat(), draft.fingerprint)})
        artifact, reused = run_job(spec, run, lambda message: None)
        lake.set_current(asset, day.isoformat(), artifact)
        yield day, artifact.rows[config.table], reused


def _days(config: IngestConfig) -> list[date]:
    with structural_errors(config.source):
        column = pl.col(TIME_OF[config.table])
        days = read_table(config).select(column.dt.date().unique()).collect(engine="streaming").to_series()
    if days.null_count() and config.if_missing == "error":
        raise DataError(
            f"{config.source}: {'no row has' if days.drop_nulls().is_empty() else 'some rows have no'} "
            f"{TIME_OF[config.table]}, so they belong to no day. Name one with --day."
        )
    return sorted(days.drop_nulls())
