"""What is laid over every asset of the graph at once: how fresh it should be, and the columns of its main table.

Each asset itself says only what is its own: grain, group, owners, kinds, pool and what it is made from.
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from resources.metadata import table_schema
from resources.profiles import LoggedSettings, Profile
from rluf_assets.catalogue import catalogue
from rluf_assets.policy.judges import DEFAULT_JUDGES
from rluf_assets.workbench import REWARDS

DAY = timedelta(days=1)
# group -> when people should start to ask, and when it is late. Logs come daily; models and decisions are
# only remade when what they are made from changes, so a month without any is worth a look.
FRESH = {
    "reaction_logs": (1.25 * DAY, 2 * DAY),
    "signals": (1.25 * DAY, 2 * DAY),
    "reward_models": (30 * DAY, 60 * DAY),
    "policy": (30 * DAY, 60 * DAY),
    "evaluation": (30 * DAY, 60 * DAY),
}
# Brought in by people, not by the day.
UNSCHEDULED = ("preference_pairs",)


def documented(spec: dg.AssetSpec, profile: Profile) -> dg.AssetSpec:
    """The spec with its freshness policy and column schema; a source that is one file has no days to be late by."""
    name = spec.key.to_user_string()
    entry = catalogue().get(name)
    if entry is not None:
        columns = entry.expanded(
            {
                "signal": profile.validated_replies.signals,
                "objective": list(REWARDS),
                "judge": (*DEFAULT_JUDGES, "control_token"),
            }
        )
        schema = table_schema({column: (found.type, found.meaning) for column, found in columns.items()})
        spec = spec.merge_attributes(metadata={"dagster/column_schema": schema, "table": entry.file})
    undated = isinstance(profile.production, LoggedSettings) and not profile.production.dated
    if undated or name in UNSCHEDULED or spec.group_name is None:
        return spec
    warn, late = FRESH[spec.group_name]
    return spec.replace_attributes(freshness_policy=dg.FreshnessPolicy.time_window(fail_window=late, warn_window=warn))
