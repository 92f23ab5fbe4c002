"""The records of a JSON file of any make: lines, an array, values that span lines, the pages of an API, JSON within a JSON
string. What cannot be read is a DataError that shows it, with file and line.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.encodings import is_direct, stream_of, text_of_file

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


def plain_lines(name: str) -> int | None:
    """How many records a file of plain JSON lines has; None where it is none, or not plain enough for Polars."""
    if not is_direct(name):
        return None
    records = 0
    with stream_of(name) as stream:
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


def normal_records(name: str, shown: str) -> list[str]:
    """The records of a JSON file of any make, each as one JSON text."""
    text = text_of_file(name)
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
            if str(error).startswith("Unterminated string"):
                remedy = "The file is cut, or this string never ends: fetch or export it again, or mend it there."
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


def parsed_frame(texts: list[str], as_text: bool) -> pl.LazyFrame:
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
