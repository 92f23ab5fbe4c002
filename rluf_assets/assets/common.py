"""What every asset shares: owners, how fresh it should be, and reading its inputs from the lake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg

from resources.production import Production
from resources.profiles import LoggedSettings
from resources.stage import StageRunner
from rluf_assets.lake import Artifact, Lake
from rluf_assets.partitions import HomeSettings

OWNERS = ["team:alignment"]
DAY = timedelta(days=1)
Result = dg.MaterializeResult[Any]

__all__ = ["OWNERS", "HomeSettings", "Production", "Result", "StageRunner", "days_of", "each_candidate", "fresh"]


def fresh(home: HomeSettings, *, daily: bool = False) -> dg.FreshnessPolicy | None:
    """When people should start to ask for an asset, and when it is late; a source without times has no days to be late by.

    Logs come daily. Models and decisions are only remade when what they are made from changes, so a month without any is
    worth a look.
    """
    settings = home.profile.production
    if isinstance(settings, LoggedSettings) and not settings.dated:
        return None
    warn, late = (1.25 * DAY, 2 * DAY) if daily else (30 * DAY, 60 * DAY)
    return dg.FreshnessPolicy.time_window(fail_window=late, warn_window=warn)


def days_of(home: HomeSettings, lake: Lake, asset: str) -> dict[str, Artifact]:
    """`<asset>/<day>` -> artifact, for every day of the period that is in the lake."""
    known = set(home.days.get_partition_keys())
    return {f"{asset}/{day}": lake.current(asset, day) for day in lake.partitions(asset) if day in known}


def each_candidate(home: HomeSettings, lake: Lake, asset: str, *, required: bool = True) -> dict[str, Artifact]:
    """`<asset>/<candidate>` -> artifact, for every candidate of candidates.yaml, or for those that have one."""
    names = home.candidates
    there = names if required else set(lake.partitions(asset))
    return {f"{asset}/{name}": lake.current(asset, name) for name in names if name in there}
