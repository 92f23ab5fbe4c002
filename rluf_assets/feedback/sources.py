"""Open tables at a path, glob or URL: Parquet, JSONL or CSV, plain or compressed; what is amiss becomes a DataError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
from fsspec.core import url_to_fs

from rluf_assets.errors import DataError

_COMPRESSED = (".gz", ".zst", ".zstd")
# What a bad file raises; other Polars errors are ours and keep their name.
_UNREADABLE = (
    pl.exceptions.ComputeError, pl.exceptions.SchemaError, pl.exceptions.NoDataError, OSError, EOFError,
)  # fmt: skip


def find(source: str) -> list[str]:
    """Files at a path, glob or URL, sorted; empty where there is none."""
    filesystem, path = url_to_fs(source)
    found = sorted(str(name) for name in filesystem.glob(path)) if any(c in path for c in "*?[") else [path]
    return [filesystem.unstrip_protocol(name) if "://" in source else name for name in found if filesystem.isfile(name)]


def scan(source: str) -> pl.LazyFrame:
    """Lazy frame over all files of `source`. Raises DataError where there is none or the format is unknown."""
    files = find(source)
    if not files:
        raise DataError(
            f"{source}: no such file, expected Parquet, JSONL or CSV. Mend the source, or let it arrive first."
        )
    kinds = {_kind(name) for name in files}
    if len(kinds) > 1:
        raise DataError(f"{source}: found files of several kinds {sorted(kinds)}, expected one. Narrow the pattern.")
    with structural_errors(source):
        match kinds.pop():
            case "parquet":
                return pl.scan_parquet(files)
            case "jsonl" | "ndjson" | "json":
                return pl.scan_ndjson(files, infer_schema_length=None)
            case "csv":
                return pl.scan_csv(files, infer_schema_length=None)
            case other:
                raise DataError(
                    f"{source}: found kind {other!r}, expected .parquet, .jsonl or .csv (plain, .gz or .zst)."
                )


@contextmanager
def structural_errors(where: str) -> Iterator[None]:
    """Turn Polars' and the operating system's complaints about a file into a DataError that names it."""
    try:
        yield
    except _UNREADABLE as error:
        first = str(error).strip().split("\n")[0]
        raise DataError(
            f"{where}: cannot be read ({type(error).__name__}: {first}); expected a whole, well-formed file. "
            f"Fetch or export it again."
        ) from error


def _kind(name: str) -> str:
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.rpartition(".")[2].lower()
