"""What every asset shares: owners, kinds, and reading its inputs from the lake."""

from __future__ import annotations

from typing import Any

import dagster as dg

from resources.production import Production
from resources.stage import StageRunner
from rluf_assets.lake import Artifact, Lake
from rluf_assets.partitions import DAYS, candidate_names

OWNERS = ["team:alignment"]
Result = dg.MaterializeResult[Any]

__all__ = ["OWNERS", "Production", "Result", "StageRunner", "days_of", "each_candidate"]


def days_of(lake: Lake, asset: str) -> dict[str, Artifact]:
    """`<asset>/<day>` -> artifact, for every day of the period that is in the lake."""
    known = set(DAYS.get_partition_keys())
    return {f"{asset}/{day}": lake.current(asset, day) for day in lake.partitions(asset) if day in known}


def each_candidate(lake: Lake, asset: str, *, required: bool = True) -> dict[str, Artifact]:
    """`<asset>/<candidate>` -> artifact, for every candidate of candidates.yaml, or for those that have one."""
    there = candidate_names() if required else set(lake.partitions(asset))
    return {f"{asset}/{name}": lake.current(asset, name) for name in candidate_names() if name in there}
