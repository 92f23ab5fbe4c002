"""Open tables at a path, glob or fsspec URL: Parquet, JSON or CSV, plain or compressed, and count their records.

One reader for every format and command. What a file holds is told by its content (`json_records.py`, `encodings.py`).
Only a line feed ends a line. Of JSON and CSV every value can be had as text, so that an id 007 stays 007. Bytes that are no
UTF-8, and half surrogate pairs, become U+FFFD, which the row contract names: one broken row costs a row and not the day. A
record that cannot be read is a DataError that shows it. Remote files are fetched through fsspec into a temporary folder.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import fsspec
import polars as pl
from fsspec.core import url_to_fs

from rluf_assets.errors import DataError
from rluf_assets.feedback.encodings import ONE_COLUMN, is_blank, is_direct, stream_of, text_of_file
from rluf_assets.feedback.json_records import normal_records, parsed_frame, plain_lines

Found = TypeVar("Found")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
_KINDS = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "ndjson": "json"}
# What a bad file raises; other Polars errors are ours and keep their name.
_UNREADABLE = (
    pl.exceptions.ComputeError, pl.exceptions.SchemaError, pl.exceptions.NoDataError, OSError, EOFError,
)  # fmt: skip
_CUT = re.compile(
    r"end[- ]of[- ](file|stream)|out of spec|corrupt|truncated|magic|footer|not a gzipped|crc check", re.I
)


@dataclass(frozen=True)
class Opened:
    """The files of a source. `texts` are the records of JSON files that had to be put into plain JSON lines first."""

    source: str
    kind: str
    files: dict[str, str]  # local name -> the name that people know it by
    texts: list[str] | None
    counts: list[int]  # records of each file, counted where it is read
    known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, what: str, count: Callable[[], Found]) -> Found:
        """What is counted in the files by this name: once, however many of their days are asked for."""
        if what not in self.known:
            self.known[what] = count()
        found: Found = self.known[what]
        return found

    @property
    def records(self) -> int:
        """How many records all files have."""
        return sum(self.counts)

    def place(self, record: int) -> str:
        """File and number of the record at this position of the source."""
        for shown, count in zip(self.files.values(), self.counts, strict=True):
            if record < count:
                return f"{shown}, record {record + 1}"
            record -= count
        return self.source

    def frame(self, *, as_text: bool = False) -> pl.LazyFrame:
        """All columns as they are there; with `as_text` those of JSON and CSV as text, nested ones as JSON."""
        with structural_errors(self.source):
            match self.kind:
                case "parquet":
                    return _together([pl.scan_parquet(name, hive_partitioning=False) for name in self.files])
                case "csv":
                    return _together([_csv(name) for name in self.files])
                case _:
                    return self._json(as_text)

    def lines(self) -> pl.LazyFrame:
        """One column `line`: every record as JSON text, for formats whose records have no one shape."""
        with structural_errors(self.source):
            if self.kind != "json":
                return self.frame().select(line=pl.struct(pl.all()).struct.json_encode())
            if self.texts is not None:
                return pl.LazyFrame({"line": self.texts}, schema={"line": pl.String})
            return _lines(list(self.files))

    def values(self) -> Iterator[Any]:
        """Every record as Python reads it."""
        with structural_errors(self.source):
            try:
                if self.kind == "json" and self.texts is None:
                    for name in self.files:
                        with stream_of(name) as stream:
                            yield from (json.loads(line) for line in stream if line.strip())
                else:
                    yield from map(json.loads, self.lines().collect()["line"])
            except ValueError as error:
                raise OSError(f"a record is no JSON: {error}") from error

    @cached_property
    def heads(self) -> list[dict[str, Any]]:
        """The first records, to tell what they are."""
        found = []
        for line in self.lines().head(20).collect()["line"]:
            with suppress(ValueError):
                found.append(json.loads(line))
        return [record for record in found if isinstance(record, dict)]

    def _json(self, as_text: bool) -> pl.LazyFrame:
        if not self.records:
            return pl.LazyFrame()
        if self.texts is not None:
            return parsed_frame(self.texts, as_text)
        scans = [pl.scan_ndjson(name, infer_schema_length=None) for name in self.files]
        try:
            names = [name for one in scans for name in one.collect_schema()]
        except (pl.exceptions.ComputeError, pl.exceptions.SchemaError):  # not JSON, or of no one shape: look closely
            return parsed_frame(
                [text for name, shown in self.files.items() for text in normal_records(name, shown)], as_text
            )
        if as_text:
            return pl.scan_ndjson(list(self.files), schema=dict.fromkeys(names, pl.String))
        return _together(scans)


def open_source(source: str) -> Opened:
    """Open all files of `source`. Raises DataError where there is none, one of an unknown kind, or one not whole."""
    files, kind = _files_of(source)
    with structural_errors(source):
        if kind == "parquet":
            return Opened(source, kind, files, None, [_height(pl.scan_parquet(name)) for name in files])
        if kind == "csv":
            filled = {name: shown for name, shown in files.items() if not is_blank(name)}
            return Opened(source, kind, filled, None, [_csv_records(name) for name in filled])
        counts = {name: plain_lines(name) for name in files}
        if None not in counts.values():
            filled = {name: shown for name, shown in files.items() if counts[name]}
            return Opened(source, kind, filled, None, [counts[name] or 0 for name in filled])
        texts = [normal_records(name, shown) for name, shown in files.items()]
        return Opened(source, kind, files, [text for some in texts for text in some], [len(some) for some in texts])


def find(source: str) -> list[str]:
    """Files at a path, glob or URL, sorted; empty where there is none."""
    filesystem, path = url_to_fs(source)
    found = sorted(str(name) for name in filesystem.glob(path)) if any(c in path for c in "*?[") else [path]
    return [filesystem.unstrip_protocol(name) if "://" in source else name for name in found if filesystem.isfile(name)]


def scan(source: str) -> pl.LazyFrame:
    """Lazy frame over all files of `source`, columns as they are there."""
    return open_source(source).frame()


def scan_lines(source: str) -> pl.LazyFrame:
    """One column `line`: every record of the files as JSON text."""
    return open_source(source).lines()


def hash_files(*sources: str) -> str:
    """SHA-256 over the bytes of the files at paths, globs or URLs: one that is added or rewritten changes it."""
    hashes = "".join(_hash_file(name) for source in sources for name in find(source))
    return hashlib.sha256(hashes.encode()).hexdigest()


def _hash_file(name: str) -> str:
    if "://" in name:
        return _digest(name)
    stat = os.stat(name)
    return _digest_once(name, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_once(name: str, *as_it_is: int) -> str:
    """Of a file of several days: read once while it stays as it is."""
    return _digest(name)


def _digest(name: str) -> str:
    digest = hashlib.sha256()
    with fsspec.open(name, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def structural_errors(where: str) -> Iterator[None]:
    """Turn Polars' and the operating system's complaints about a file into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except _UNREADABLE as error:
        _show_unreadable(where)
        first = str(error).strip().split("\n")[0]
        remedy = (
            "The file is cut or damaged: fetch or export it again."
            if isinstance(error, EOFError) or _CUT.search(first)
            else "Mend what is named there."
        )
        raise DataError(f"{where}: cannot be read ({type(error).__name__}: {first}). {remedy}") from error


def _show_unreadable(where: str) -> None:
    """Raise the DataError that shows the first record of a JSON file that cannot be read, if there is one."""
    try:
        files, kind = _files_of(where)
    except (DataError, OSError, ValueError):  # no source, but a job's name
        return
    for name, shown in files.items() if kind == "json" else ():
        with suppress(OSError, EOFError):
            normal_records(name, shown)


def _files_of(source: str) -> tuple[dict[str, str], str]:
    """Local copies of the files, and their kind: parquet, json or csv."""
    files = find(source)
    if not files:
        raise DataError(
            f"{source}: no such file, expected Parquet, JSONL or CSV. Mend the source, or let it arrive first."
        )
    kinds = {_KINDS.get(_ending(name), _ending(name)) for name in files}
    if len(kinds) > 1:
        raise DataError(f"{source}: found files of several kinds {sorted(kinds)}, expected one. Narrow the pattern.")
    kind = kinds.pop()
    if kind not in _KINDS.values():
        raise DataError(
            f"{source}: found kind {kind!r}, expected .parquet, .jsonl, .json or .csv (plain, .gz, .bz2, .xz or .zst)."
        )
    with structural_errors(source):
        local = (fsspec.open_local(f"simplecache::{name}") if "://" in name else name for name in files)
        return {str(name): shown for name, shown in zip(local, files, strict=True)}, kind


def _ending(name: str) -> str:
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.rpartition(".")[2].lower()


def _lines(files: list[str]) -> pl.LazyFrame:
    lines = pl.scan_csv(files, **ONE_COLUMN, encoding="utf8-lossy")
    return lines.filter(pl.col("line").str.contains(r"\S"))


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())


def _together(frames: list[pl.LazyFrame]) -> pl.LazyFrame:
    """The rows of all frames; columns go by name, and one that a file lacks is null there."""
    if not frames:
        return pl.LazyFrame()
    first = frames[0].collect_schema()
    same = all(one.collect_schema() == first for one in frames[1:])
    return pl.concat(frames, how="vertical" if same else "diagonal_relaxed")


def _csv(name: str) -> pl.LazyFrame:
    """Every column as text."""
    source, separator = _csv_source(name)
    return pl.scan_csv(source, infer_schema=False, encoding="utf8-lossy", separator=separator)


def _csv_records(name: str) -> int:
    """How many records a CSV has by Python's own reader: what Polars reads is counted against it."""
    csv.field_size_limit(1 << 30)
    source, separator = _csv_source(name)
    stream = source if isinstance(source, io.BytesIO) else stream_of(name)
    with io.TextIOWrapper(stream, "utf-8", errors="replace", newline="") as text:
        return max(0, sum(any(row) for row in csv.reader(text, delimiter=separator)) - 1)


def _csv_source(name: str) -> tuple[Any, str]:
    """What Polars can open, and whichever of comma, semicolon and tab the header has most of."""
    with stream_of(name) as stream:
        head: bytes = stream.readline()
    plain = b"\0" not in head and not head.startswith(codecs.BOM_UTF16_LE) and is_direct(name)
    source: Any = name if plain else io.BytesIO(text_of_file(name).encode())
    header = (head if plain else source.getvalue().split(b"\n")[0]).decode("utf-8", errors="replace")
    return source, max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
