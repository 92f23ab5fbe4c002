"""`rluf gc`: what in a lake no live lineage needs, and its removal.

Live is what is in force (`current.json`), every release ever made (so that a rollback finds its policy), and all that
these were made from. Of live artifacts only the checkpoints of finished jobs go: their phases and logs are for reading.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs

from rluf_assets.lake import MANIFEST, Artifact, Lake, read_artifact

KEPT_FOREVER = "released_policy"
ABANDONED_AFTER_S = 7 * 86_400
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Waste:
    """A folder that can go, why, and its size."""

    folder: str
    reason: str
    size_bytes: int


def find_waste(lake: Lake) -> list[Waste]:
    """Folders that no live lineage needs, in the lake's order.

    *superseded*: finished, and nothing in force was made from it. *abandoned*: unfinished and untouched for a week.
    *checkpoints*: resume state of a job that has finished.
    """
    filesystem, _ = url_to_fs(lake.root)
    live = live_folders(lake)
    found = []
    for folder in _artifact_folders(lake):
        finished = filesystem.exists(posixpath.join(folder, MANIFEST))
        state = posixpath.join(folder, CHECKPOINTS)
        if finished and folder not in live:
            found.append(Waste(folder, "superseded", filesystem.du(folder)))
        elif finished and filesystem.exists(state) and filesystem.find(state):
            found.append(Waste(state, "checkpoints of a finished job", filesystem.du(state)))
        elif not finished and folder not in live and _untouched(filesystem, folder):
            found.append(Waste(folder, "abandoned", filesystem.du(folder)))
    return found


def remove(lake: Lake, waste: list[Waste]) -> None:
    """Remove the folders; of a superseded artifact its manifest goes first, so that nobody reads half of it."""
    filesystem, _ = url_to_fs(lake.root)
    for entry in waste:
        manifest = posixpath.join(entry.folder, MANIFEST)
        if filesystem.exists(manifest):
            filesystem.rm_file(manifest)
        filesystem.rm(entry.folder, recursive=True)


def live_folders(lake: Lake) -> set[str]:
    """Folders of what is in force, of all releases, and of everything they were made from, transitively."""
    waiting = [*_in_force(lake), *_releases(lake)]
    live: set[str] = set()
    while waiting:
        artifact = waiting.pop()
        folder = _path(artifact.uri)
        if folder in live:
            continue
        live.add(folder)
        inputs: dict[str, dict[str, Any]] = artifact.manifest.get("spec", {}).get("inputs", {})
        # A reward model's predecessor was compared with it; without it the model is as good.
        made_from = [entry["uri"] for name, entry in inputs.items() if name != "previous"]
        waiting += [found for uri in made_from if (found := artifact_of(lake, uri)) is not None]
    return live


def artifact_of(lake: Lake, uri: str) -> Artifact | None:
    """The artifact of this lake that an input's address leads to, or into; None for files, and for what is gone.

    By asset, partition and fingerprint, the last parts of the address: a home that was moved still knows its lineage.
    """
    filesystem, root = url_to_fs(lake.root)
    parts = uri.rstrip("/").split("/")
    for end in range(len(parts), max(2, len(parts) - 3), -1):
        folder = posixpath.join(root, *parts[end - 3 : end])
        if filesystem.isdir(folder) and filesystem.exists(posixpath.join(folder, MANIFEST)):
            return read_artifact(posixpath.join(lake.root, *parts[end - 3 : end]))
    return None


def _in_force(lake: Lake) -> Iterator[Artifact]:
    filesystem, root = url_to_fs(lake.root)
    for pointer in filesystem.glob(posixpath.join(root, "*", "*", "current.json")):
        asset, partition = str(pointer).split("/")[-3:-1]
        yield lake.current(asset, partition)


def _releases(lake: Lake) -> Iterator[Artifact]:
    filesystem, root = url_to_fs(lake.root)
    for manifest in filesystem.glob(posixpath.join(root, KEPT_FOREVER, "*", "*", MANIFEST)):
        release = read_artifact(posixpath.dirname(str(manifest)))
        if release is not None:
            yield release


def _artifact_folders(lake: Lake) -> list[str]:
    filesystem, root = url_to_fs(lake.root)
    return sorted(str(path) for path in filesystem.glob(posixpath.join(root, "*", "*", "*")) if filesystem.isdir(path))


def _untouched(filesystem: Any, folder: str) -> bool:
    """Whether no file was written for a week; where a store does not tell, a folder counts as in use."""
    times = [entry.get("mtime") for entry in filesystem.find(folder, detail=True).values()]
    newest = max((stamp for stamp in times if stamp is not None), default=None)
    return newest is not None and None not in times and time.time() - newest > ABANDONED_AFTER_S


def _path(uri: str) -> str:
    return str(url_to_fs(uri)[1])
