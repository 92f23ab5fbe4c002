"""What is laid over every asset of the graph at once: the columns of its main table, from the data dictionary.

Each asset itself says what is its own: grain, group, owners, kinds, pool, freshness, condition, and what it is made from.
"""

from __future__ import annotations

import dagster as dg

from resources.metadata import table_schema
from resources.profiles import Profile
from rluf_assets.catalogue import catalogue
from rluf_assets.objectives import REWARDS
from rluf_assets.policy.judges import DEFAULT_JUDGES


def documented(spec: dg.AssetSpec, profile: Profile) -> dg.AssetSpec:
    """The spec with its column schema."""
    entry = catalogue().get(spec.key.to_user_string())
    if entry is None:
        return spec
    judges = (*DEFAULT_JUDGES, "control_token")
    columns = entry.expanded({"signal": profile.validated_replies.signals, "objective": list(REWARDS), "judge": judges})
    schema = table_schema({column: (found.type, found.meaning) for column, found in columns.items()})
    return spec.merge_attributes(metadata={"dagster/column_schema": schema, "table": entry.file})
