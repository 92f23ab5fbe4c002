"""Job: take tables that a company keeps elsewhere (past launches, A/B exposures) into the lake, checked by column.

Used by `LoggedProduction`, where nothing has to be computed but the lineage must still start at a hashed artifact.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict

from rluf_assets.errors import DataError
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


class AdoptConfig(BaseModel):
    """File name in the source folder -> columns it must have (checked for Parquet files)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[str] = "2"
    tables: dict[str, list[str]]
    optional: dict[str, list[str]] = {}


def run(job: Job) -> Produced:
    """Copy the named files from `inputs["source"]`. Raises DataError for an absent file or column."""
    source, rows = job.input("source"), {}
    config = AdoptConfig.model_validate(job.config)
    there = {name: columns for name, columns in config.optional.items() if (source / name).is_file()}
    for name, columns in {**config.tables, **there}.items():
        path = source / name
        if not path.is_file():
            raise DataError(f"{path}: absent; expected a table with the columns {columns}. Put it there.")
        if path.suffix == ".parquet":
            rows[Path(name).stem] = _check(path, columns)
        shutil.copyfile(path, job.out / name)
    return Produced(rows=rows)


def _check(path: Path, columns: list[str]) -> int:
    found = pl.scan_parquet(path).collect_schema().names()
    absent = sorted(set(columns) - set(found))
    if absent:
        raise DataError(f"{path}: columns {absent} are missing; found {found}. Add them to the export.")
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


if __name__ == "__main__":
    main(run)
