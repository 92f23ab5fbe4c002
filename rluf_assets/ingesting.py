"""Ingest outside Dagster, into the same place in the lake and by the same job as the daily assets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ingest import TIME_OF, sources_of
from rluf_assets.feedback.reading import DayRead, survey
from rluf_assets.feedback.sources import hash_files
from rluf_assets.jobs.ingest import run
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Lake


@dataclass(frozen=True)
class Ingested:
    """One day that was brought in (`reused`: it was there already)."""

    day: date
    rows: int
    reused: bool


def ingest(root: Path, config: IngestConfig) -> tuple[DayRead, list[Ingested]]:
    """Publish `config.table` of the source's days (or of `config.day`) as raw partitions; what the source held, too.

    Rows without a time go to the first day asked for from their file. Raises DataError where nothing is recognised, or
    where no row has a time and no day is given.
    """
    lake = Lake(str(root))
    if config.day is not None:
        of_day = _undated_once(lake, config)
        return survey(of_day)[0], [_ingest_day(lake, of_day)]
    found, days = survey(config)
    dated = [day for day in days if day is not None]
    if days and not dated:
        raise DataError(
            f"{config.source}: no row has {TIME_OF[config.table]}, so they belong to no day. Name one with --day."
        )
    return found, [_ingest_day(lake, _undated_once(lake, config.model_copy(update={"day": day}))) for day in dated]


def _ingest_day(lake: Lake, config: IngestConfig) -> Ingested:
    assert config.day is not None
    asset, day, files = f"raw_{config.table}", config.day, sources_of(config)
    content = hash_files(*files)
    draft = JobSpec(
        name=f"{asset}[{day}]", entrypoint="rluf_assets.jobs.ingest", version=config.version, seed=0, output_uri="",
        config=config.model_dump(mode="json"), inputs={"files": InputArtifact(uri=" ".join(files), content_hash=content)},
    )  # fmt: skip
    spec = draft.model_copy(update={"output_uri": lake.folder(asset, day.isoformat(), draft.fingerprint)})
    artifact, reused = run_job(spec, run, lambda line: None)
    lake.set_current(asset, day.isoformat(), artifact)
    return Ingested(day, artifact.rows[config.table], reused)


def _undated_once(lake: Lake, config: IngestConfig) -> IngestConfig:
    """The config of a day, with rows that have no time left to the day in the lake that has them already."""
    assert config.day is not None
    there = _has_undated(lake, f"raw_{config.table}", config.day, hash_files(*sources_of(config)))
    return config.model_copy(update={"undated": "other" if there else "keep"})


def _has_undated(lake: Lake, asset: str, day: date, content: str) -> bool:
    """Whether another day in the lake has the rows without a time of these same files."""
    for other in lake.partitions(asset):
        try:
            spec = lake.current(asset, other).manifest["spec"]
        except (ArtifactMissing, KeyError):
            continue
        same = spec["inputs"].get("files", {}).get("content_hash") == content
        if same and other != day.isoformat() and spec["config"].get("undated", "keep") == "keep":
            return True
    return False
