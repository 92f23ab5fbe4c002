"""A full disk, a read-only lake, missing rights: told as what they are, with what to do, wherever they show.

Libraries raise them as errors of their own (OSError, Polars, safetensors, SQLite): what tells is the errno, or the system's
words, somewhere in the chain. Nothing half-written is ever read: an artifact is there once its manifest is, the last file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rluf_assets.errors import RlufError, StorageError

FREE = "Free space (`rluf gc --dry-run` lists what can go), then run the same command again: it goes on where it was."
REMEDIES = {
    errno.ENOSPC: FREE,
    errno.EDQUOT: FREE,
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`), then run the same command again.",
    errno.EROFS: "Mount it for writing, or name another home folder; nothing was changed.",
}
# What SQLite, where Dagster keeps its runs, says instead.
_WORDS = {"database or disk is full": errno.ENOSPC, "attempt to write a readonly database": errno.EROFS}


@contextmanager
def named_storage(place: str) -> Iterator[None]:
    """Errors of storage within become a StorageError that names `place` and the remedy; others pass as they are."""
    try:
        yield
    except Exception as error:
        number = storage_errno(error)
        if number is None or isinstance(error, StorageError):
            raise
        raise StorageError(number, f"{place}: cannot be written ({os.strerror(number)}). {REMEDIES[number]}") from error


def storage_errno(error: BaseException | None) -> int | None:
    """The errno of a full, limited or read-only storage in the chain of an error; None if it is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in REMEDIES:
            return error.errno
        text = "" if isinstance(error, RlufError) else str(error)
        known = {**{os.strerror(number): number for number in REMEDIES}, **_WORDS}
        found = next((number for words, number in known.items() if words in text), None)
        if found is not None:
            return found
        error = error.__cause__ or error.__context__
    return None
