"""The text of a file, whatever it is packed and encoded in: plain, gzip, bzip2, xz or zstd; UTF-8 or UTF-16, with a byte
order mark or none. Bytes that are no text become U+FFFD.
"""

from __future__ import annotations

import codecs
import io
from typing import Any

import fsspec
import polars as pl

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# A raw control character cannot occur in JSON, so no line is ever cut at this separator.
ONE_COLUMN: dict[str, Any] = {
    "has_header": False, "separator": "\x01", "quote_char": None, "schema": {"line": pl.String},
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def _compression(name: str) -> str | None:
    """By the first bytes: a copy in the cache has no ending."""
    with open(name, "rb") as stream:
        head = stream.read(6)
    return next((kind for mark, kind in _PACKED.items() if head.startswith(mark)), None)


def stream_of(name: str) -> Any:
    """The file's bytes, decompressed."""
    packed = _compression(name)
    if packed == "zstd":  # Polars knows it, fsspec only with a further package
        lines = pl.read_csv(name, **ONE_COLUMN, encoding="utf8-lossy")["line"]
        return io.BytesIO("\n".join(line or "" for line in lines).encode())
    return fsspec.open(name, "rb", compression=packed).open()


def is_direct(name: str) -> bool:
    """Whether Polars can open the file by itself."""
    return _compression(name) not in ("bz2", "xz")


def is_blank(name: str) -> bool:
    with stream_of(name) as stream:
        return all(not line.strip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n") for line in stream)


def text_of_file(name: str) -> str:
    """The file's text, whatever its encoding; bytes that are none become U+FFFD."""
    with stream_of(name) as stream:
        data: bytes = stream.read()
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.removeprefix(mark).decode(encoding, errors="replace")
    # UTF-16 without a mark: every other byte of the first characters is zero.
    wide = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((data[:1] == b"\0", data[1:2] == b"\0"))
    return data.decode(wide or "utf-8", errors="replace")
