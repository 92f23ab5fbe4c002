"""Raw logs are kept for `retention.raw_days`, then removed; labels made from them stay, or go with them, as is set.

Days older than that, counted back from the newest one that was brought in, leave the raw layer, all versions of them; those
just before the oldest day that is kept stay as long as its attribution window reads them. What is gone stands in a
journal at the lake's root, written first: no command brings such a day in or validates it again, so that nothing is
rebuilt from a part of its rows, and a removal that was killed is finished by the next.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
from fsspec.core import url_to_fs

from resources.profiles import RetentionSettings
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import MANIFEST, Lake, read_json, write_json

JOURNAL = "retention.json"
RAW, LABELS = ("raw_messages", "raw_reactions"), "validated_replies"


@dataclass(frozen=True)
class Horizon:
    """raw_from: the first day whose raw rows are kept. labels_from: the first day that can still be validated."""

    raw_from: str = ""
    labels_from: str = ""


@dataclass
class Removal:
    """What a removal takes: asset -> day -> its facts (rows, and what the accounts of a source need)."""

    horizon: Horizon
    days: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(days)} days of {asset}" for asset, days in self.days.items() if days]
        return f"retention: {', '.join(parts) or 'nothing'} before {self.horizon.raw_from}" + "".join(
            f"; {what}" for what in self.kept
        )


def horizon_of(lake: Lake) -> Horizon:
    """How far back the raw layer was removed; empty dates, which are before every day, where it never was."""
    told = _journal(lake)
    return Horizon(told["raw_from"], told["labels_from"])


def undated_rows_removed(lake: Lake, asset: str) -> dict[str, int]:
    """Source -> rows without a time that stood in removed days of a raw table."""
    held: dict[tuple[str, str], int] = {}  # a day may have been brought back, and removed again
    for entry in _journal(lake)["removals"]:
        for day, facts in entry["days"].get(asset, {}).items():
            held[facts["source"], day] = max(facts["no_time"], held.get((facts["source"], day), 0))
    return {name: sum(n for (source, _), n in held.items() if source == name) for name, _ in held}


def plan_removal(lake: Lake, settings: RetentionSettings, known: Sequence[str], window_days: int) -> Removal | None:
    """What the settings ask to remove now; None where they ask for nothing. `known`: the days of this home so far."""
    there = set(lake.partitions(RAW[0])) & set(known)  # a row dated 2099 is no reason to remove this year's
    if settings.raw_days is None or not there:
        return None
    before, oldest = horizon_of(lake), date.fromisoformat(max(there)) - timedelta(days=settings.raw_days)
    raw_from = max(before.raw_from, str(oldest - timedelta(days=window_days)))
    removal = Removal(Horizon(raw_from, max(before.labels_from, str(oldest))))
    for asset in RAW:
        days = [day for day in _days(lake, asset) if day < raw_from]
        if asset == "raw_reactions" and known[0] in days and _has_undated(lake, known[0]):
            days.remove(known[0])
            removal.kept.append(
                f"raw_reactions of {known[0]} stay: they hold the reactions without a time of every day"
            )
        removal.days[asset] = {day: _facts(lake, asset, day) for day in days}
    if not settings.keep_labels:
        gone = [day for day in _days(lake, LABELS) if day < removal.horizon.labels_from]
        removal.days[LABELS] = {day: _facts(lake, LABELS, day) for day in gone}
    return removal if any(removal.days.values()) else None


def carry_out(lake: Lake, removal: Removal, settings: RetentionSettings) -> None:
    """Write down what goes, then remove it."""
    told = _journal(lake)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"at": at, **settings.model_dump(), "days": removal.days, "kept": removal.kept}
    horizon = {"raw_from": removal.horizon.raw_from, "labels_from": removal.horizon.labels_from}
    write_json(posixpath.join(lake.root, JOURNAL), {**horizon, "removals": [*told["removals"], entry]})
    filesystem, _ = url_to_fs(lake.root)
    for asset, days in removal.days.items():
        for day in days:
            lake.withdraw(asset, day)
            place = str(url_to_fs(lake.place(asset, day))[1])
            for manifest in filesystem.glob(posixpath.join(place, "*", MANIFEST)):
                filesystem.rm_file(manifest)  # first, so that nobody reads half of an artifact
            filesystem.rm(place, recursive=True)


def _journal(lake: Lake) -> dict[str, Any]:
    try:
        told: dict[str, Any] = read_json(posixpath.join(lake.root, JOURNAL))
    except FileNotFoundError:
        told = {"raw_from": "", "labels_from": "", "removals": []}
    return told


def _days(lake: Lake, asset: str) -> list[str]:
    """All days with a folder, in force or not."""
    filesystem, path = url_to_fs(posixpath.join(lake.root, asset))
    names = [posixpath.basename(str(one).rstrip("/")) for one in filesystem.glob(posixpath.join(path, "*"))]
    return sorted(name for name in names if _is_day(name))


def _is_day(name: str) -> bool:
    try:
        return str(date.fromisoformat(name)) == name
    except ValueError:
        return False


def _facts(lake: Lake, asset: str, day: str) -> dict[str, Any]:
    try:
        artifact = lake.current(asset, day)
    except ArtifactMissing:
        return {"rows": {}, "source": "", "no_time": 0}
    config = artifact.manifest.get("spec", {}).get("config", {})
    no_time = int(artifact.metrics.get("no_time", 0) or 0)
    return {"rows": artifact.rows, "source": str(config.get("source", "")), "no_time": no_time}


def _has_undated(lake: Lake, day: str) -> bool:
    try:
        path = lake.current("raw_reactions", day).path("reactions.parquet")
    except ArtifactMissing:
        return False
    return bool(pl.scan_parquet(path).select(pl.col("reacted_at").null_count()).collect().item())
