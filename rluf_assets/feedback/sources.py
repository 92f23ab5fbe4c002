"""Open tables at a path, glob or fsspec URL: Parquet, JSON or CSV, plain or compressed, and count their records.

One reader for every format and command. What a file holds is told by its content: JSON lines, an array, pretty-printed
objects or the pages of an API, with or without a byte order mark, in UTF-8 or UTF-16. Only a line feed ends a line. Of
JSON and CSV every value can be had as text, so that an id 007 stays 007. Bytes that are no UTF-8, and half surrogate
pairs, become U+FFFD, which the row contract names: one broken row costs a row and not the day. A record that cannot be
read is a DataError that shows it, with file and line. Remote files are fetched through fsspec into a temporary folder.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
import polars as pl
from fsspec.core import url_to_fs

from rluf_assets.errors import DataError

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
_KINDS = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "ndjson": "json"}
# What a bad file raises; other Polars errors are ours and keep their name.
_UNREADABLE = (
    pl.exceptions.ComputeError, pl.exceptions.SchemaError, pl.exceptions.NoDataError, OSError, EOFError,
)  # fmt: skip
_CUT = re.compile(
    r"end[- ]of[- ](file|stream)|out of spec|corrupt|truncated|magic|footer|not a gzipped|crc check", re.I
)
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# A raw control character cannot occur in JSON, so no line is ever cut at this separator.
_ONE_COLUMN: dict[str, Any] = {
    "has_header": False, "separator": "\x01", "quote_char": None, "schema": {"line": pl.String},
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# One half of an escaped surrogate pair, alone: no character, and no two readers agree what to make of it.
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
# Text in parts: it has no one shape, and Polars takes the first it sees for all.
_IN_PARTS = re.compile(rb'"(content|value|text|parts)"\s*:\s*[\[{]')
# The page of an API: its records, and what else may stand around them.
_PAGE_RECORDS = (
    "data",
    "items",
    "results",
    "records",
    "rows",
    "observations",
    "scores",
    "feedback",
    "feedbacks",
    "runs",
)
_PAGE_FACTS = frozenset(
    ("meta", "metadata", "pagination", "paging", "page", "pages", "per_page", "page_size", "limit", "offset", "total",
     "count", "total_count", "totalItems", "totalPages", "has_more", "hasMore", "has_next", "next", "previous", "prev",
     "next_cursor", "nextCursor", "cursor", "cursors", "next_page_token", "nextPageToken", "links", "_links", "object",
     "first_id", "last_id", "status", "success", "ok", "error", "errors", "message", "code", "version", "url")
)  # fmt: skip
_GAP = re.compile(r"[\s,]*")
_SHOWN = 60


@dataclass(frozen=True)
class Opened:
    """The files of a source. `texts` are the records of JSON files that had to be put into plain JSON lines first."""

    source: str
    kind: str
    files: dict[str, str]  # local name -> the name that people know it by
    texts: list[str] | None
    counts: list[int]  # records of each file, counted where it is read

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
            return _parsed(self.texts, as_text)
        scans = [pl.scan_ndjson(name, infer_schema_length=None) for name in self.files]
        try:
            names = [name for one in scans for name in one.collect_schema()]
        except (pl.exceptions.ComputeError, pl.exceptions.SchemaError):  # not JSON, or of no one shape: look closely
            return _parsed([text for name, shown in self.files.items() for text in _normal(name, shown)], as_text)
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
            filled = {name: shown for name, shown in files.items() if not _blank(name)}
            return Opened(source, kind, filled, None, [_csv_records(name) for name in filled])
        counts = {name: _plain_lines(name) for name in files}
        if None not in counts.values():
            filled = {name: shown for name, shown in files.items() if counts[name]}
            return Opened(source, kind, filled, None, [counts[name] or 0 for name in filled])
        texts = [_normal(name, shown) for name, shown in files.items()]
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
    hashes = ""
    for name in (name for source in sources for name in find(source)):
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
            _normal(name, shown)


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


def _compression(name: str) -> str | None:
    """By the first bytes: a copy in the cache has no ending."""
    with open(name, "rb") as stream:
        head = stream.read(6)
    return next((kind for mark, kind in _PACKED.items() if head.startswith(mark)), None)


def _stream(name: str) -> Any:
    """The file's bytes, decompressed."""
    packed = _compression(name)
    if packed == "zstd":  # Polars knows it, fsspec only with a further package
        lines = pl.read_csv(name, **_ONE_COLUMN, encoding="utf8-lossy")["line"]
        return io.BytesIO("\n".join(line or "" for line in lines).encode())
    return fsspec.open(name, "rb", compression=packed).open()


def _direct(name: str) -> bool:
    """Whether Polars can open the file by itself."""
    return _compression(name) not in ("bz2", "xz")


def _blank(name: str) -> bool:
    with _stream(name) as stream:
        return all(not line.strip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n") for line in stream)


def _text(name: str) -> str:
    """The file's text, whatever its encoding; bytes that are none become U+FFFD."""
    with _stream(name) as stream:
        data: bytes = stream.read()
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.removeprefix(mark).decode(encoding, errors="replace")
    # UTF-16 without a mark: every other byte of the first characters is zero.
    wide = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((data[:1] == b"\0", data[1:2] == b"\0"))
    return data.decode(wide or "utf-8", errors="replace")


def _lines(files: list[str]) -> pl.LazyFrame:
    lines = pl.scan_csv(files, **_ONE_COLUMN, encoding="utf8-lossy")
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
    stream = source if isinstance(source, io.BytesIO) else _stream(name)
    with io.TextIOWrapper(stream, "utf-8", errors="replace", newline="") as text:
        return max(0, sum(any(row) for row in csv.reader(text, delimiter=separator)) - 1)


def _csv_source(name: str) -> tuple[Any, str]:
    """What Polars can open, and whichever of comma, semicolon and tab the header has most of."""
    with _stream(name) as stream:
        head: bytes = stream.readline()
    plain = b"\0" not in head and not head.startswith(codecs.BOM_UTF16_LE) and _direct(name)
    source: Any = name if plain else io.BytesIO(_text(name).encode())
    header = (head if plain else source.getvalue().split(b"\n")[0]).decode("utf-8", errors="replace")
    return source, max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _plain_lines(name: str) -> int | None:
    """How many records a file of plain JSON lines has; None where it is none, or not plain enough for Polars."""
    if not _direct(name):
        return None
    records = 0
    with _stream(name) as stream:
        for line in stream:
            text = line.strip()
            if not text:
                continue
            if text[:1] != b"{" or (not records and not _is_record(text)):
                return None
            if (b"\\u" in text and _HALF_PAIR.search(text)) or _IN_PARTS.search(text):
                return None
            if not text.isascii():
                try:
                    text.decode()
                except UnicodeDecodeError:
                    return None
            records += 1
    return records


def _is_record(line: bytes) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and _page(found) is None


def _normal(name: str, shown: str) -> list[str]:
    """The records of a JSON file of any make, each as one JSON text."""
    text = _text(name)
    documents = (_by_line if _is_lines(text) else _by_document)(text, shown)
    return [_dumped(record) for value, line in documents for record in _records(value, shown, line)]


def _is_lines(text: str) -> bool:
    """Whether the first line is a whole JSON value: it is, in JSON lines, and is not where a value spans lines."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        json.loads(first, strict=False)
    except ValueError:
        return False
    return True


def _by_line(text: str, name: str) -> Iterator[tuple[Any, int]]:
    lines = text.split("\n")
    last = max((nth for nth, line in enumerate(lines) if line.strip()), default=0)
    for nth, line in enumerate(lines):
        if line.strip():
            try:
                yield json.loads(line, strict=False, parse_constant=_no_number), nth + 1
            except ValueError as error:
                where = f"{name}, line {nth + 1}"
                if nth == last and nth > 0 and line.lstrip()[:1] == "{" and not line.rstrip().endswith("}"):
                    raise DataError(
                        f"{where}, the last one: cut within a record: {line.strip()[-_SHOWN:]!r}. "
                        "Let the file arrive whole (fetch or export it again), or remove that line."
                    ) from error
                raise DataError(
                    f"{where}: cannot be read as JSON ({error}): {line.strip()[:_SHOWN]!r}. Mend or remove that line."
                ) from error


def _by_document(text: str, name: str) -> Iterator[tuple[Any, int]]:
    """Every JSON value of a text, whatever white space, or comma, stands within and between them."""
    decoder, end = json.JSONDecoder(parse_constant=_no_number), len(text.rstrip())
    at = line = 0
    while (start := _GAP.match(text, at).end()) < end:  # type: ignore[union-attr]  # it matches nothing, too
        line, at = line + text.count("\n", at, start), start
        try:
            value, stop = decoder.raw_decode(text, at)
        except ValueError as error:
            broken = min(getattr(error, "pos", at), end - 1)
            where = f"{name}, line {line + text.count(chr(10), at, broken) + 1}"
            shown = text[max(at, broken - _SHOWN // 2) : broken + _SHOWN // 2]
            remedy = "The file is cut: fetch or export it again." if broken >= end - 1 else "Mend the file there."
            raise DataError(f"{where}: cannot be read as JSON ({error}): {shown!r}. {remedy}") from error
        yield value, line + 1
        line, at = line + text.count("\n", at, stop), stop


def _records(value: Any, name: str, line: int) -> Iterator[dict[str, Any]]:
    """The records of a JSON value: of a list, of an API's page, of JSON within a JSON string; or the value itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):  # else a text after all: named below
            value = json.loads(value, strict=False, parse_constant=_no_number)
    if isinstance(value, list):
        for one in value:
            yield from _records(one, name, line)
    elif isinstance(value, dict):
        page = _page(value)
        yield from _records(page, name, line) if page is not None else (value,)
    else:
        raise DataError(
            f"{name}, line {line}: found {json.dumps(value)[:_SHOWN]}, expected a record ({{...}}). "
            "Name a file of records, one JSON object each."
        )


def _page(value: dict[str, Any]) -> list[Any] | None:
    """The records on an API's page, where it is one."""
    found = [key for key in _PAGE_RECORDS if isinstance(value.get(key), list)]
    if len(found) != 1 or not set(value) <= _PAGE_FACTS | set(found):
        return None
    records: list[Any] = value[found[0]]
    return records if all(isinstance(one, dict) for one in records) else None


def _no_number(word: str) -> None:
    """NaN and Infinity, which Python writes and JSON does not know, say nothing."""
    return


def _dumped(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a half surrogate pair
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _parsed(texts: list[str], as_text: bool) -> pl.LazyFrame:
    """The frame of JSON texts; what a message says in parts is JSON text in it, as is what has several shapes."""
    if as_text:
        names = dict.fromkeys(name for text in texts for name in json.loads(text))
        return pl.scan_ndjson(_joined(texts), schema=dict.fromkeys(names, pl.String))
    return pl.scan_ndjson(_joined(_one_shape(texts)), infer_schema_length=None)


def _joined(texts: Iterable[str]) -> io.BytesIO:
    return io.BytesIO("\n".join(texts).encode())


def _one_shape(texts: list[str]) -> list[str]:
    """The records with each field of their lists' entries (messages) that is nested in several ways as JSON text."""
    records = [json.loads(text) for text in texts]
    kinds: dict[str, set[type]] = {}
    for entry in _entries(records):
        for key, value in entry.items():
            kinds.setdefault(key, set()).add(type(value))
    mixed = {key for key, found in kinds.items() if found & {dict, list} and len(found - {type(None)}) > 1}
    mixed |= {"content", "value", "text", "parts"}
    for entry in _entries(records):
        entry.update({key: json.dumps(entry[key], ensure_ascii=False) for key in mixed & set(entry)
                      if isinstance(entry[key], dict | list)})  # fmt: skip
    return [json.dumps(record, ensure_ascii=False) for record in records]


def _entries(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        for value in record.values():
            yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()
