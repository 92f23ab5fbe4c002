"""`rluf rollback`: put the policy back in force that was released before, and keep the withdrawn one from returning.

A release copies no weights: `released_policy` holds the name of a policy artifact and its content hash. Rolling back
puts the earlier release in force again and records the withdrawn weights in `rolled_back.json`, so that materialising
the graph again does not release the very same weights a second time. Weights trained anew may be released.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import MANIFEST, Artifact, Lake, read_artifact, read_json, write_json

ASSET = "released_policy"


@dataclass(frozen=True)
class Rollback:
    """What was withdrawn and what is in force now; both are `release.json` contents."""

    withdrawn: dict[str, Any]
    restored: dict[str, Any]
    artifact: Artifact


def roll_back(lake: Lake, reason: str) -> Rollback:
    """Put the release before the one in force back in force.

    Raises ArtifactMissing if nothing is released, nothing was in force before, or its weights are gone.
    """
    withdrawn = read_json(lake.current(ASSET).path("release.json"))
    wanted = withdrawn["previous_content_hash"]
    if wanted is None:
        raise ArtifactMissing(
            f"{ASSET}: {withdrawn['candidate']!r} is the first release, nothing was in force before it. "
            "Release another candidate, or serve your own earlier checkpoint."
        )
    before = _release_of(lake, wanted)
    restored = read_json(before.path("release.json"))
    _require_weights(lake, restored)
    entries = rolled_back(lake)
    entries[withdrawn["policy"]["content_hash"]] = {
        "candidate": withdrawn["candidate"],
        "reason": reason,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(_record(lake), entries)
    lake.set_current(ASSET, None, before)
    return Rollback(withdrawn, restored, before)


def rolled_back(lake: Lake) -> dict[str, dict[str, str]]:
    """Content hash of each withdrawn policy -> candidate, reason and time."""
    try:
        return dict(read_json(_record(lake)))
    except FileNotFoundError:
        return {}


def note_in_dagster(home: Path, result: Rollback) -> None:
    """Tell the home's Dagster instance which release is in force now, so that the UI's lineage stays true."""
    import dagster as dg

    event = dg.AssetMaterialization(
        asset_key=ASSET,
        description=f"Rolled back from {result.withdrawn['candidate']}.",
        metadata={"candidate": result.restored["candidate"], "path": dg.MetadataValue.path(result.artifact.uri)},
        tags={"dagster/data_version": result.artifact.content_hash},
    )
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        instance.report_runless_asset_event(event)


def _release_of(lake: Lake, content_hash: str) -> Artifact:
    """The newest release of a policy with these weights."""
    place = lake.place(ASSET, None)
    filesystem, path = url_to_fs(place)
    folders = [posixpath.basename(posixpath.dirname(str(f))) for f in filesystem.glob(f"{path}/*/{MANIFEST}")]
    found = [artifact for name in folders if (artifact := read_artifact(posixpath.join(place, name))) is not None]
    same = [a for a in found if read_json(a.path("release.json"))["policy"]["content_hash"] == content_hash]
    if not same:
        raise ArtifactMissing(
            f"{ASSET}: no release of the policy {content_hash[:16]} under {place}, expected the one in force before. "
            "Restore that folder from a backup."
        )
    return max(same, key=lambda artifact: str(artifact.manifest["published_at"]))


def _require_weights(lake: Lake, release: dict[str, Any]) -> None:
    uri, wanted = release["policy"]["uri"], release["policy"]["content_hash"]
    found = read_artifact(uri)
    if found is None or found.content_hash != wanted:
        raise ArtifactMissing(
            f"{ASSET}: the weights of {release['candidate']!r} are not at {uri} any more, expected content "
            f"{wanted[:16]}. Restore them; nothing was changed."
        )


def _record(lake: Lake) -> str:
    return posixpath.join(lake.place(ASSET, None), "rolled_back.json")
