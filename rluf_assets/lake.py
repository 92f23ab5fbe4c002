"""Where artifacts live: `<root>/<asset>/<partition>/<fingerprint>/`, complete once `manifest.json` is in it.

The manifest is written last, so a reader never sees a half-written artifact, on object stores too (they have no
rename). `current.json` beside the fingerprint folders names the one in force. Two hashes: the *fingerprint* says what
was asked for (stage version, config, seed, inputs' content), the *content hash* what came out; the latter is Dagster's
data version, so an upstream run that changes nothing retrains nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from rluf_assets.errors import ArtifactMissing, DataError

MANIFEST = "manifest.json"
UNPARTITIONED = "_"
# Resume state and logs: kept while a job runs, never part of what was produced.
SCRATCH = ("checkpoints", "phases", "logs")


@dataclass(frozen=True)
class Artifact:
    """A published folder and what its manifest says."""

    uri: str
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def content_hash(self) -> str:
        return str(self.manifest["content_hash"])

    @property
    def rows(self) -> dict[str, int]:
        return dict(self.manifest["rows"])

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.manifest["metrics"])

    def path(self, *parts: str) -> str:
        """Path or URL of a file inside the artifact, as Polars and fsspec read it."""
        return posixpath.join(self.uri, *parts)

    def _repr_html_(self) -> str:
        cells = {"uri": self.uri, "content": self.content_hash[:12], **self.rows, **self.metrics}
        rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells.items())
        return f"<table>{rows}</table>"


@dataclass(frozen=True)
class Lake:
    """The lake under one root folder or URL (local path, `s3://...`, `memory://...`)."""

    root: str

    def place(self, asset: str, partition: str | None) -> str:
        return posixpath.join(self.root, asset, partition or UNPARTITIONED)

    def folder(self, asset: str, partition: str | None, fingerprint: str) -> str:
        """Where the artifact with this fingerprint is, or would be."""
        return posixpath.join(self.place(asset, partition), fingerprint[:16])

    def current(self, asset: str, partition: str | None = None) -> Artifact:
        """The artifact in force. Raises ArtifactMissing, naming the asset to materialise."""
        pointer = posixpath.join(self.place(asset, partition), "current.json")
        name = asset if partition is None else f"{asset}[{partition}]"
        try:
            folder = read_json(pointer)["folder"]
        except FileNotFoundError:
            raise ArtifactMissing(
                f"{name}: nothing published under {self.place(asset, partition)}. Materialise the asset first."
            ) from None
        artifact = read_artifact(posixpath.join(self.place(asset, partition), folder))
        if artifact is None:
            raise ArtifactMissing(
                f"{name}: {pointer} points to {folder}, which has no {MANIFEST}. Materialise it again."
            )
        return artifact

    def set_current(self, asset: str, partition: str | None, artifact: Artifact) -> None:
        """Put an artifact in force (one small file, replaced whole)."""
        pointer = posixpath.join(self.place(asset, partition), "current.json")
        self.write(pointer, {"folder": posixpath.basename(artifact.uri), "content_hash": artifact.content_hash})

    def write(self, uri: str, value: Any) -> None:
        """Write a JSON file of the lake's own, beside its artifacts."""
        write_json(uri, value)

    def withdraw(self, asset: str, partition: str | None = None) -> None:
        """Leave no artifact of this asset in force; the folders stay."""
        filesystem, path = url_to_fs(posixpath.join(self.place(asset, partition), "current.json"))
        if filesystem.exists(path):
            filesystem.rm(path)

    def assets(self) -> list[str]:
        """Names of all that has an artifact in force, sorted."""
        filesystem, path = url_to_fs(self.root)
        found = filesystem.glob(posixpath.join(path, "*", "*", "current.json"))
        return sorted({str(name).split("/")[-3] for name in found})

    def partitions(self, asset: str) -> list[str]:
        """Partitions of an asset that have an artifact in force, sorted."""
        filesystem, path = url_to_fs(posixpath.join(self.root, asset))
        found = filesystem.glob(posixpath.join(path, "*", "current.json"))
        return sorted(posixpath.basename(posixpath.dirname(str(name))) for name in found)


@dataclass
class Produced:
    """What a stage function hands back for its manifest: row counts, figures people read, and what it depends on."""

    rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def read_artifact(uri: str) -> Artifact | None:
    """The artifact published at `uri`, or None if there is none or it is not complete."""
    try:
        return Artifact(uri, read_json(posixpath.join(uri, MANIFEST)))
    except FileNotFoundError:
        return None


def publish(uri: str, *, fingerprint: str, produced: Produced, **facts: Any) -> Artifact:
    """Make the folder at `uri` an artifact: hash its content and write the manifest, last.

    `facts` (asset, config, inputs, seed, versions, wall time, ...) must be JSON and are stored beside the hashes.
    """
    manifest = {
        "fingerprint": fingerprint,
        "content_hash": content_hash(uri),
        "rows": produced.rows,
        "metrics": produced.metrics,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    write_json(posixpath.join(uri, MANIFEST), manifest)
    return Artifact(uri, manifest)


def make_fingerprint(version: str, config: Any, inputs: Mapping[str, str], seed: int) -> str:
    """SHA-256 over what decides the result: stage version, semantic config, inputs' content hashes and the seed."""
    asked = {"version": version, "config": config, "inputs": dict(inputs), "seed": seed}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(uri: str) -> str:
    """SHA-256 over names and bytes of what was produced; not logs, resume state, or HTML pages (they hold times)."""
    filesystem, base = url_to_fs(uri)
    digest = hashlib.sha256()
    files = sorted(str(name) for name in filesystem.find(base))
    for name in files:
        relative = posixpath.relpath(name, base)
        if relative.split("/")[0] in SCRATCH or relative == MANIFEST or relative.endswith(".html"):
            continue
        digest.update(relative.encode() + b"\0")
        with filesystem.open(name, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_json(uri: str) -> Any:
    """Parse a JSON file. Raises FileNotFoundError if absent, DataError if it is not JSON."""
    with fsspec.open(uri, "rt", encoding="utf-8") as stream:
        text = stream.read()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{uri}: expected JSON, found {text[:60]!r} ({error}). Remove the file and rerun.") from error


def write_json(uri: str, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part (atomic rename where it is local)."""
    filesystem, path = url_to_fs(uri)
    filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, default=str, allow_nan=False) + "\n"
    if "file" not in filesystem.protocol:
        filesystem.pipe_file(path, text.encode())
        return
    # Beside the file: fsspec's transactions write under /tmp, and from another disk that is a copy, which can be cut short.
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        Path(partial).write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
