"""When an asset is made again by itself: when the *content* of what it is made from has changed, and not before.

Upstream runs that leave the content hash (Dagster's data version) as it was ask for nothing. Which of these conditions an
asset has stands on the asset; those without one are made again by people alone, so that candidates stay comparable.
`AUTOMATION` is the sensor that evaluates them under `rluf ui` or any Dagster daemon; `rluf update` does it without a daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster import AutomationCondition as When

Condition = When[Any]

# A source is read again for so many days back: reactions that came late, files that were rewritten.
LOOK_BACK_DAYS = 3
HOURLY, DAILY = "5 * * * *", "35 3 * * *"

# What a run may leave out: a release on hold, an A/B test that never was. To be missing is no reason to run, or to wait.
OPTIONAL = ("ab_exposures", "released_policy")
_DAYS = ("raw_messages", "raw_reactions", "validated_replies")


def arrives() -> Condition:
    """For raw days: once a day is over and missing, hourly until it is there; each night the days of the look-back again."""
    missing = When.missing() & (When.missing().newly_true() | When.cron_tick_passed(HOURLY))
    recent = When.in_latest_time_window(timedelta(days=LOOK_BACK_DAYS))
    return ((missing | When.cron_tick_passed(DAILY)) & recent & ~When.in_progress()).with_label("a day arrived")


def follows(
    *, besides: Sequence[str] = (), without: Sequence[str] = (), optional: bool = False, grows: bool = False
) -> Condition:
    """For what is made from other assets: their content or the code changed, their checks passed, none is on its way.

    `besides`: inputs whose change alone is no reason. `without`: inputs that are not waited for. `optional`: the asset may
    be left out by its run. `grows`: its partitions become more; Dagster then evaluates it as for the first time, which must
    not count as having handled them.
    """
    changed = When.any_deps_match(When.data_version_changed())
    if besides:
        changed = changed.ignore(dg.AssetSelection.assets(*besides))
    # What was made by another version of its stage. `missing` beside it: a memory of before versions were told holds "1" for
    # every asset, and must not take them for changed; the place of a condition is its name in there.
    by_other_code = When.code_version_changed() & ~When.missing()
    reasons: Condition = changed | by_other_code
    if not optional:
        reasons = reasons | When.newly_missing()
    # Days come one after another, and what is optional may never come: neither is waited for.
    absent = When.any_deps_missing().ignore(dg.AssetSelection.assets(*_DAYS, *OPTIONAL, *without))
    on_its_way = When.any_deps_match(When.in_progress() | When.will_be_requested())
    pending = reasons.since(When.newly_requested() | When.newly_updated()) if grows else reasons.since_last_handled()
    return (pending & ~absent & ~on_its_way & ~When.in_progress() & When.all_deps_blocking_checks_passed()).with_label(
        "its inputs changed"
    )


def validates() -> Condition:
    """For validated days: as `follows`, and the day's own messages must be in, and those of the day before."""
    return (follows(grows=True) & ~When.any_deps_missing().allow(dg.AssetSelection.assets("raw_messages"))).with_label(
        "its logs changed"
    )


def fixed(graph: Any) -> set[str]:
    """The assets that people alone make again: those without a condition. `graph`: of resolved definitions."""
    keys = graph.materializable_asset_keys
    return {key.to_user_string() for key in keys if graph.get(key).automation_condition is None}


AUTOMATION = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    run_tags={"rluf/asked_by": "automation"},
    description="Makes an asset again when the content of what it is made from has changed. On from the start; switch it "
    "off here to run by hand only.",
)  # fmt: skip
