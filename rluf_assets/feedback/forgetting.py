"""Forget a user: their rows leave every stored table, raw included, and later ingests leave them out.

A tombstone (a keyed hash of the stored id, in `tombstones.json` at the lake's root) is written first, so that a run
that was killed is finished by repeating it. Tables are rewritten one by one and their manifests hashed anew; what was
trained on the user's rows is named, and the next materialisation rebuilds it, because its inputs' content changed.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from rluf_assets.lake import MANIFEST, Lake, content_hash, read_json, write_json

TOMBSTONES = "tombstones.json"
# Columns that name one of the user's messages or conversations.
_MESSAGE_IDS, _CONVERSATION_IDS = ("message_id", "prompt_id"), ("conversation_id",)


@dataclass
class Forgotten:
    """Rows removed per table, and the artifacts that were made from them and are to be materialised again."""

    rows: dict[str, int] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


def forget(lake: Lake, user_id: str) -> Forgotten:
    """Remove the user with this stored (hashed) id from the lake, a local folder; safe to repeat."""
    root = Path(lake.root)
    _bury(lake.root, user_id)
    tables = [path for path in sorted(root.rglob("*.parquet")) if _artifact_of(path, root) is not None]
    messages, conversations = _theirs(tables, user_id)
    found, touched = Forgotten(), set()
    for path in tables:
        removed = _rewrite(path, user_id, messages, conversations)
        if removed:
            folder = _artifact_of(path, root)
            assert folder is not None
            found.rows[str(path.relative_to(root))] = removed
            _count_out(folder, path.stem, removed)
            touched.add(folder)
    for folder in touched:
        _hash_anew(folder)
    _name_descendants(root, touched, found)
    return found


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


def _bury(root: str, user_id: str) -> None:
    write_json(posixpath.join(root, TOMBSTONES), sorted(_buried(root) | {_tombstone(user_id)}))


def _artifact_of(path: Path, root: Path) -> Path | None:
    """The published folder that a file is in."""
    return next(
        (one for one in path.parents if one != root and root in one.parents and (one / MANIFEST).exists()), None
    )


def _theirs(tables: list[Path], user_id: str) -> tuple[list[str], list[str]]:
    """Ids of the user's messages and conversations, wherever a table says whose they are."""
    found: dict[str, set[str]] = {"message_id": set(), "conversation_id": set()}
    for path in tables:
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        # A reaction's user need not be the message's own.
        if "user_id" in names and "signal" not in names:
            mine = frame.filter(pl.col("user_id") == user_id)
            for column in set(names) & set(found):
                found[column] |= set(mine.select(pl.col(column).unique()).collect()[column].drop_nulls())
    return sorted(found["message_id"]), sorted(found["conversation_id"])


def _rewrite(path: Path, user_id: str, messages: list[str], conversations: list[str]) -> int:
    """Rewrite the table without the user's rows, whole or not at all; gives how many there were."""
    schema = pl.scan_parquet(path).collect_schema()
    checks = [pl.col("user_id") == user_id] if schema.get("user_id") == pl.String else []
    for columns, ids in ((_MESSAGE_IDS, messages), (_CONVERSATION_IDS, conversations)):
        checks += [pl.col(name).is_in(ids) for name in columns if ids and schema.get(name) == pl.String]
    if "defect" in schema and schema.get("row") == pl.String:  # the quarantine holds rows as JSON
        checks.append(pl.col("row").str.contains_any([f'"{one}"' for one in (user_id, *messages, *conversations)]))
    if not checks:
        return 0
    theirs = pl.any_horizontal(check.fill_null(False) for check in checks)
    removed = int(pl.scan_parquet(path).select(theirs.sum()).collect(engine="streaming").item() or 0)
    if removed:
        new = path.with_suffix(".forgetting")
        pl.scan_parquet(path).filter(~theirs).sink_parquet(new, maintain_order=True)
        os.replace(new, path)
    return removed


def _count_out(folder: Path, table: str, removed: int) -> None:
    manifest = read_json(str(folder / MANIFEST))
    if table in manifest["rows"]:
        manifest["rows"][table] -= removed
    manifest["forgotten_rows"] = manifest.get("forgotten_rows", 0) + removed
    write_json(str(folder / MANIFEST), manifest)


def _hash_anew(folder: Path) -> None:
    manifest = read_json(str(folder / MANIFEST))
    manifest["content_hash"] = content_hash(str(folder))
    write_json(str(folder / MANIFEST), manifest)
    pointer = folder.parent / "current.json"
    if pointer.exists() and read_json(str(pointer))["folder"] == folder.name:
        write_json(str(pointer), {"folder": folder.name, "content_hash": manifest["content_hash"]})


def _name_descendants(root: Path, touched: set[Path], found: Forgotten) -> None:
    """Follow the inputs in the manifests from the tables that held the user's rows, through what was made of them."""
    inputs = {path.parent: _inputs(path) for path in sorted(root.rglob(MANIFEST))}
    held = set(touched)
    while True:
        new = {folder for folder, read in inputs.items() if folder not in held and not _has_ids(folder) and read & held}
        if not new:
            break
        held |= new
    for folder in sorted(held - touched):
        models = any(folder.rglob("*.safetensors"))
        (found.trained if models else found.stale).append(str(folder.relative_to(root)))


def _inputs(manifest: Path) -> set[Path]:
    read = read_json(str(manifest)).get("spec", {}).get("inputs", {})
    uris = {Path(one["uri"]) for one in read.values()}
    return uris | {parent for uri in uris for parent in uri.parents}


def _has_ids(folder: Path) -> bool:
    """Whether the artifact is tables that say whose rows they are: then, untouched, it holds none of the user's."""
    known = {"user_id", *_MESSAGE_IDS}
    return not any(folder.rglob("*.safetensors")) and any(known & set(names) for names in _columns(folder))


def _columns(folder: Path) -> Iterator[list[str]]:
    for path in folder.rglob("*.parquet"):
        yield pl.scan_parquet(path).collect_schema().names()
