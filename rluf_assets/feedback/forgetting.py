"""Forget users: their rows leave every stored table, raw included, and all that shows texts is removed or named.

Tombstones (keyed hashes of the stored ids, `tombstones.json` at the lake's root) are written first, so that later ingests
leave the users out; then a journal of what is theirs and of all that is to be done, so that a run that was killed is
finished by repeating it. Rows are known by exact fields. Pages, resume state and logs of what was made from their rows go;
models are named. The sources themselves are not ours to change.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.instance_events import blank_examples
from rluf_assets.lake import MANIFEST, SCRATCH, Lake, content_hash, read_json, write_json

TOMBSTONES, JOURNAL = "tombstones.json", "forgetting.json"
# Columns that name one of the user's messages; a fixed prompt is named by the reply that it had.
_MESSAGE_IDS = ("message_id", "prompt_id", "parent_id", "reply_id")


@dataclass
class Forgotten:
    """Rows removed per table, other things removed, and the artifacts made from those rows, to be made again."""

    rows: dict[str, int] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    events: int = 0
    trained: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


@dataclass
class _Theirs:
    """What belongs to the users: messages by (conversation, id), ids alone, conversations of nobody else and shared ones."""

    users: set[str]
    messages: set[tuple[str, str]] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    ids_of_others: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)

    def names(self, row: dict[str, Any]) -> bool:
        """Whether a record, as JSON has it, is theirs."""
        user, conversation = _text(row.get("user_id")), _text(row.get("conversation_id"))
        if user in self.users or conversation in self.own:
            return True
        found = [_text(row[name]) for name in _MESSAGE_IDS if row.get(name) is not None]
        if conversation is not None:
            return any((conversation, one) in self.messages for one in found)
        return any(one in self.ids and (user is None or one not in self.ids_of_others) for one in found)

    def expression(self, schema: pl.Schema) -> pl.Expr | None:
        """The same for a table's rows; None where the table names nobody."""
        text = {name for name, dtype in schema.items() if dtype == pl.String}
        checks = [pl.col("user_id").is_in(self.users)] if "user_id" in text else []
        known = [name for name in _MESSAGE_IDS if name in text]
        if "conversation_id" in text:
            # In a table of single messages another user's row of a shared conversation is theirs; a context holds both.
            whole = self.own | (self.shared if any(dtype.is_nested() for dtype in schema.values()) else set())
            checks.append(pl.col("conversation_id").is_in(whole))
            pairs = [f"{conversation}\x1f{one}" for conversation, one in self.messages]
            checks += [pl.concat_str("conversation_id", name, separator="\x1f").is_in(pairs) for name in known]
        else:
            alone = self.ids - self.ids_of_others if "user_id" in text else self.ids
            checks += [pl.col(name).is_in(alone) for name in known]
        if "defect" in schema and "row" in text:  # the quarantine holds rows as JSON
            checks.append(pl.col("row").map_batches(self._quoted, return_dtype=pl.Boolean, is_elementwise=True))
        return pl.any_horizontal(check.fill_null(False) for check in checks) if checks else None

    def _quoted(self, rows: pl.Series) -> pl.Series:
        return pl.Series([self.names(_record(row)) for row in rows], dtype=pl.Boolean)


def forget(
    lake: Lake, user_ids: str | Collection[str], *, home: Path | None = None, dry_run: bool = False
) -> Forgotten:
    """Remove the users with these stored (hashed) ids from the lake, a local folder, and its home; safe to repeat.

    What a run that was killed began is done first, and told with the rest. `dry_run` changes nothing and tells the same.
    Raises DataError for an empty id, and where a job is at work on a table of theirs.
    """
    users = {user_ids} if isinstance(user_ids, str) else set(user_ids)
    if not users or not all(one.strip() for one in users):
        raise DataError("forget: an empty user id. Give the id as logged or as stored.")
    root = Path(lake.root)
    before = Forgotten()
    if not dry_run:
        write_json(
            posixpath.join(lake.root, TOMBSTONES), sorted(_buried(lake.root) | {_tombstone(one) for one in users})
        )
        if (root / JOURNAL).exists():
            before = _carry_out(root, read_json(str(root / JOURNAL)), home)
    theirs, held = _look(root, users)
    found = Forgotten()
    tables = {path: n for path in _tables(root) if (n := _count(path, theirs))}
    found.rows = {str(path.relative_to(root)): n for path, n in tables.items()}
    touched = held | {folder for path in tables if (folder := _folder_of(path, root)) is not None}
    if not touched:
        return before
    descendants = _descendants(root, touched)
    for folder in sorted(descendants):
        models = any((root / folder).rglob("*.safetensors"))
        (found.trained if models else found.stale).append(folder)
    found.removed = [os.path.relpath(path, home or root.parent) for path in _shown(root, touched | descendants, home)]
    if dry_run:
        found.events = blank_examples(home, dry_run=True) if home else 0
        return found
    journal = _journal(root, theirs, found, touched)
    write_json(str(root / JOURNAL), journal)
    return _both(before, _carry_out(root, journal, home))


def _journal(root: Path, theirs: _Theirs, found: Forgotten, touched: set[str]) -> dict[str, Any]:
    """All that is to be done, in figures that do not depend on how much of it is done already."""
    counts: dict[str, dict[str, Any]] = {}
    for folder in touched:
        if (root / folder / MANIFEST).exists():
            told = read_json(str(root / folder / MANIFEST))
            counts[folder] = {"rows": dict(told["rows"]), "forgotten_rows": told.get("forgotten_rows", 0)}
    for name, removed in found.rows.items():
        count, stem = counts.get("/".join(name.split("/")[:3])), Path(name).stem
        if count is not None:
            count["rows"] |= {stem: count["rows"][stem] - removed} if stem in count["rows"] else {}
            count["forgotten_rows"] += removed
    return {
        "users": sorted(theirs.users), "messages": sorted(theirs.messages), "own": sorted(theirs.own),
        "shared": sorted(theirs.shared), "ids_of_others": sorted(theirs.ids_of_others),
        "folders": sorted(touched), "counts": counts, "rows": found.rows, "removed": found.removed,
        "trained": found.trained, "stale": found.stale,
    }  # fmt: skip


def _carry_out(root: Path, journal: dict[str, Any], home: Path | None) -> Forgotten:
    """Do what the journal says, whatever of it is done, and end it."""
    theirs = _of_journal(journal)
    for folder in journal["folders"]:
        _not_at_work(root / folder)
    for name in journal["rows"]:
        if (root / name).exists():
            _rewrite(root / name, theirs)
    for folder in journal["folders"]:
        _settle(root / folder, journal["counts"].get(folder, {}))
    for name in journal["removed"]:
        path = (home or root.parent) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    events = blank_examples(home, dry_run=False) if home else 0
    (root / JOURNAL).unlink()
    return Forgotten(journal["rows"], journal["removed"], events, journal["trained"], journal["stale"])


def _of_journal(journal: dict[str, Any]) -> _Theirs:
    messages = {(conversation, one) for conversation, one in journal["messages"]}
    own, shared, others = (set(journal[name]) for name in ("own", "shared", "ids_of_others"))
    return _Theirs(set(journal["users"]), messages, {one for _, one in messages}, others, own, shared)


def _both(before: Forgotten, now: Forgotten) -> Forgotten:
    rows = {name: before.rows.get(name, 0) + now.rows.get(name, 0) for name in [*before.rows, *now.rows]}
    lists = ([*dict.fromkeys([*a, *b])] for a, b in (
        (before.removed, now.removed), (before.trained, now.trained), (before.stale, now.stale),
    ))  # fmt: skip
    removed, trained, stale = lists
    return Forgotten(rows, removed, before.events + now.events, trained, stale)


def without_forgotten(rows: pl.LazyFrame, output_uri: str) -> pl.LazyFrame:
    """The rows without those of forgotten users; `output_uri` is an artifact's folder in the lake."""
    buried = _buried(posixpath.dirname(posixpath.dirname(posixpath.dirname(output_uri.rstrip("/")))))
    if not buried:
        return rows

    def kept(ids: pl.Series) -> pl.Series:
        gone = [one for one in ids.drop_nulls().unique() if _tombstone(one) in buried]
        return ~ids.is_in(gone).fill_null(False)

    return rows.filter(pl.col("user_id").map_batches(kept, return_dtype=pl.Boolean, is_elementwise=True))


def _tombstone(user_id: str) -> str:
    return hashlib.blake2s(user_id.encode(), key=b"rluf tombstone").hexdigest()


def _buried(root: str) -> set[str]:
    try:
        return set(read_json(posixpath.join(root, TOMBSTONES)))
    except FileNotFoundError:
        return set()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _record(row: str | None) -> dict[str, Any]:
    try:
        value = json.loads(row or "{}")
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _tables(root: Path) -> list[Path]:
    """Tables of all artifacts, in force or not, finished or not: Parquet and JSON lines."""
    found = [path for kind in ("*.parquet", "*.jsonl") for path in root.glob(f"*/*/*/**/{kind}")]
    return sorted(path for path in found if path.name != "progress.jsonl" and path.is_file())


def _folder_of(path: Path, root: Path) -> str | None:
    """Asset, partition and fingerprint: the artifact's name, wherever the lake lies."""
    parts = path.relative_to(root).parts
    return "/".join(parts[:3]) if len(parts) > 3 else None


def _look(root: Path, users: set[str]) -> tuple[_Theirs, set[str]]:
    """What is theirs, by what the tables say and by the journal of a run that did not end (where this one changes nothing)."""
    theirs, held = _Theirs(users), set[str]()
    if (root / JOURNAL).exists():
        journal = read_json(str(root / JOURNAL))
        theirs, held = _of_journal(journal), set(journal["folders"])
        theirs.users |= users
    conversations, of_others = set[str](), set[str]()
    for path in _tables(root):
        frame = _messages_of(path)
        if frame is None:
            continue
        mine = frame.filter(pl.col("user_id").is_in(theirs.users)).unique().collect()
        theirs.messages |= {(str(a), str(b)) for a, b in mine.select("conversation_id", "message_id").iter_rows()}
        conversations |= set(mine["conversation_id"].drop_nulls())
    for path in _tables(root) if conversations | theirs.own | theirs.shared else []:
        frame = _messages_of(path)
        if frame is None:
            continue
        others = frame.filter(~pl.col("user_id").is_in(theirs.users))
        of_others |= set(others.select("conversation_id").unique().collect()["conversation_id"].drop_nulls())
        ids = [one for _, one in theirs.messages]
        same = others.filter(pl.col("message_id").is_in(ids)).select("message_id").unique()
        theirs.ids_of_others |= set(same.collect()["message_id"])
    theirs.own |= conversations - of_others
    theirs.shared |= conversations & of_others
    theirs.ids = {one for _, one in theirs.messages}
    return theirs, held


def _messages_of(path: Path) -> pl.LazyFrame | None:
    """Conversation, id and user of a table that says whose its messages are (a reaction's user need not be), or None."""
    columns = ["conversation_id", "message_id", "user_id"]
    if path.suffix == ".jsonl":
        records = [row for row in _lines(path) if row.get("user_id") is not None and row.get("message_id") is not None]
        rows = [[_text(row.get(name)) for name in columns] for row in records if "signal" not in row]
        return pl.LazyFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row") if rows else None
    schema = pl.read_parquet_schema(path)
    if "defect" in schema and "row" in schema:
        records = [_record(row) for row in pl.read_parquet(path, columns=["row"])["row"]]
        rows = [[_text(row.get(name)) for name in columns] for row in records if "signal" not in row]
        rows = [row for row in rows if row[2] is not None]
        return pl.LazyFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row") if rows else None
    if "signal" in schema or not set(columns) <= set(schema):
        return None
    return pl.scan_parquet(path).select(columns).filter(pl.col("user_id").is_not_null())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        yield from (_record(line) for line in stream)


def _count(path: Path, theirs: _Theirs) -> int:
    if path.suffix == ".jsonl":
        return sum(theirs.names(row) for row in _lines(path))
    check = theirs.expression(pl.Schema(pl.read_parquet_schema(path)))
    return (
        0 if check is None else int(pl.scan_parquet(path).select(check.sum()).collect(engine="streaming").item() or 0)
    )


def _rewrite(path: Path, theirs: _Theirs) -> None:
    """Rewrite the table without their rows, whole or not at all."""
    new = path.with_name(f"{path.name}.forgetting")
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8", errors="replace") as old, new.open("w", encoding="utf-8") as stream:
            stream.writelines(line for line in old if not theirs.names(_record(line)))
    else:
        check = theirs.expression(pl.Schema(pl.read_parquet_schema(path)))
        assert check is not None
        pl.scan_parquet(path).filter(~check).sink_parquet(new, maintain_order=True)
    os.replace(new, path)


def _settle(folder: Path, counts: dict[str, Any]) -> None:
    """Count and hash a finished artifact anew; what a job left unfinished goes whole: its inputs have changed, nobody
    resumes it."""
    if not (folder / MANIFEST).exists():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for partial in folder.rglob("*.forgetting"):
        partial.unlink()
    manifest = read_json(str(folder / MANIFEST)) | counts
    manifest["content_hash"] = content_hash(str(folder))
    write_json(str(folder / MANIFEST), manifest)
    pointer = folder.parent / "current.json"
    if pointer.exists() and read_json(str(pointer))["folder"] == folder.name:
        write_json(str(pointer), {"folder": folder.name, "content_hash": manifest["content_hash"]})


def _not_at_work(folder: Path) -> None:
    from filelock import FileLock, Timeout

    if (folder / MANIFEST).exists() or not folder.exists():
        return
    try:
        FileLock(f"{folder}.lock").acquire(timeout=0).lock.release()
    except Timeout:
        raise DataError(f"{folder}: a job is at work there. Let it end, or end it, and forget again.") from None


def _descendants(root: Path, touched: set[str]) -> set[str]:
    """What was made, through any number of steps, from the artifacts that held their rows, and names no user itself.

    By asset, partition and fingerprint, the last parts of an input's address: a home that was moved knows its lineage.
    """
    manifests = [path.parent for path in root.glob(f"*/*/*/{MANIFEST}")]
    inputs = {str(folder.relative_to(root)): _inputs(folder) for folder in manifests}
    held = set(touched)
    while new := {one for one, read in inputs.items() if one not in held and read & held and not _has_ids(root / one)}:
        held |= new
    return held - touched


def _inputs(folder: Path) -> set[str]:
    uris = [str(one["uri"]) for one in read_json(str(folder / MANIFEST)).get("spec", {}).get("inputs", {}).values()]
    parts = [uri.rstrip("/").split("/") for uri in uris]
    return {"/".join(one[end - 3 : end]) for one in parts for end in range(3, len(one) + 1)}


def _has_ids(folder: Path) -> bool:
    """Whether the artifact is tables that say whose rows they are: then, untouched, it holds none of theirs."""
    if any(folder.rglob("*.safetensors")):
        return False
    return any({"user_id", *_MESSAGE_IDS} & set(pl.read_parquet_schema(path)) for path in folder.rglob("*.parquet"))


def _shown(root: Path, folders: set[str], home: Path | None) -> Iterator[Path]:
    """Pages, resume state and logs of these artifacts, and the home's reports and run logs."""
    for folder in sorted(folders):
        yield from sorted((root / folder).glob("*.html"))
        yield from (root / folder / name for name in SCRATCH if (root / folder / name).is_dir())
    if home is not None:
        pages = home / "reports" / "data-docs"
        yield from [pages] if pages.is_dir() else []
        yield from sorted(path for path in (home / "reports").glob("*.html"))
        yield from sorted((home / "dagster" / "storage").glob("*/compute_logs"))
