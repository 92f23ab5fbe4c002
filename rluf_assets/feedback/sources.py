"""Open tables at a path, glob or fsspec URL: Parquet, JSONL, JSON or CSV, plain or compressed.

What is amiss with a file becomes a DataError that names it. Bytes that are no UTF-8 are not: they become U+FFFD, which
the row contract names, so that one broken row costs a row and not the day. Remote files are fetched through fsspec
into a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import fsspec
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
    """Lazy frame over all files of `source`, columns as they are there.

    Raises DataError where there is no file, or one of an unknown kind.
    """
    files, kind = _files_of(source)
    with structural_errors(source):
        match kind:
            case "parquet":
                return pl.scan_parquet(files)
            case "csv":
                return pl.scan_csv(files, infer_schema_length=None, encoding="utf8-lossy")
            case "json":
                return pl.scan_ndjson(_array(files).encode(), infer_schema_length=None)
            case _:
                return _scan_jsonl(files)


def scan_lines(source: str) -> pl.LazyFrame:
    """One column `line`: every record of the files as JSON text, for formats whose records have no one shape."""
    files, kind = _files_of(source)
    with structural_errors(source):
        match kind:
            case "jsonl":
                return _lines(files)
            case "json":
                return pl.LazyFrame({"line": _array(files).splitlines()}, schema={"line": pl.String})
            case _:
                return scan(source).select(line=pl.struct(pl.all()).struct.json_encode())


def hash_files(source: str) -> str:
    """SHA-256 over the bytes of the files at a path, glob or URL: one that is added or rewritten changes it."""
    hashes = ""
    for name in find(source):
        digest = hashlib.sha256()
        with fsspec.open(name, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        hashes += digest.hexdigest()
    return hashlib.sha256(hashes.encode()).hexdigest()


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


def _files_of(source: str) -> tuple[list[str], str]:
    """Local copies of the files, and their kind: parquet, jsonl, json (an array of records) or csv."""
    files = find(source)
    if not files:
        raise DataError(
            f"{source}: no such file, expected Parquet, JSONL or CSV. Mend the source, or let it arrive first."
        )
    kinds = {_kind(name) for name in files}
    if len(kinds) > 1:
        raise DataError(f"{source}: found files of several kinds {sorted(kinds)}, expected one. Narrow the pattern.")
    kind = kinds.pop()
    if kind not in ("parquet", "jsonl", "json", "csv"):
        raise DataError(
            f"{source}: found kind {kind!r}, expected .parquet, .jsonl, .json or .csv (plain, .gz or .zst)."
        )
    with structural_errors(source):
        local = [fsspec.open_local(f"simplecache::{name}") if "://" in name else name for name in files]
        return [str(name) for name in local], kind if kind != "json" or _is_array(local[0]) else "jsonl"


def _kind(name: str) -> str:
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    ending = name.rpartition(".")[2].lower()
    return "jsonl" if ending == "ndjson" else ending


def _lines(files: list[str]) -> pl.LazyFrame:
    # A raw control character cannot occur in JSON, so no line is ever cut at this separator.
    lines = pl.scan_csv(
        files, has_header=False, separator="\x01", quote_char=None, schema={"line": pl.String}, encoding="utf8-lossy",
    )  # fmt: skip
    return lines.filter(pl.col("line").str.contains(r"\S"))


def _scan_jsonl(files: list[str]) -> pl.LazyFrame:
    frame = pl.scan_ndjson(files, infer_schema_length=None)
    try:
        frame.collect_schema()
    except pl.exceptions.ComputeError as error:
        if "valid UTF-8" not in str(error):
            raise
        text = "\n".join(_lines(files).collect(engine="streaming")["line"].to_list())
        return pl.scan_ndjson(BytesIO(text.encode()), infer_schema_length=None)
    return frame


def _is_array(file: str) -> bool:
    with fsspec.open(file, "rb", compression="infer") as stream:
        return bool(stream.read(256).lstrip()[:1] == b"[")


def _array(files: list[str]) -> str:
    """The records of JSON arrays as JSON lines."""
    records = []
    for file in files:
        with fsspec.open(file, "rb", compression="infer") as stream:
            try:
                records += json.loads(stream.read().decode("utf-8", errors="replace"))
            except json.JSONDecodeError as error:
                raise OSError(f"not JSON: {error}") from error
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
