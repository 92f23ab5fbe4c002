"""reaction_logs: the production's logs by day, as they came and as validated."""

import warnings
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from resources.stage import Work
from rluf_assets.assets.common import OWNERS, Production, Result, StageRunner
from rluf_assets.lake import Artifact
from rluf_assets.partitions import DAYS, profile

# Dagster 1.13 marks backfill policies and Pipes readers beta; the notices would meet people at every command.
for notice in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=notice)

DAILY: dict[str, Any] = {
    "partitions_def": DAYS,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "group_name": "reaction_logs",
    "owners": OWNERS,
    "kinds": {"polars", "parquet"},
}


@dg.asset(**DAILY, code_version="1")
def raw_messages(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Iterator[Result]:
    """One row per message, as the source gave it, in canonical columns; append-only, by the day it was written."""
    yield from stage.run_days(
        context, {day: production.logs(context, "messages", day) for day in context.partition_keys}
    )


@dg.asset(**DAILY, code_version="1")
def raw_reactions(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Iterator[Result]:
    """One row per reaction event (set or revoked), as the source gave it, by the day it was given."""
    yield from stage.run_days(
        context, {day: production.logs(context, "reactions", day) for day in context.partition_keys}
    )


@dg.asset(
    **DAILY,
    code_version="1",
    deps=[
        dg.AssetDep(raw_messages, partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1)),
        dg.AssetDep(raw_reactions, partition_mapping=dg.TimeWindowPartitionMapping(end_offset=1)),
    ],
)
def validated_replies(context: dg.AssetExecutionContext, stage: StageRunner) -> Iterator[Result]:
    """One row per assistant reply: its label per signal, mature or pending; bad rows in the quarantine beside it."""
    yield from stage.run_days(context, {day: _validation(stage, day) for day in context.partition_keys})


def _validation(stage: StageRunner, day: str) -> Work:
    config = profile().validated_replies
    if config.time == "none":  # one partition: it has no neighbours, and no window that is still open
        inputs = {table: stage.lake.current(f"raw_{table}", day) for table in ("messages", "reactions")}
        return Work("validate_replies", config, inputs)
    today = date.fromisoformat(day)
    neighbours = {
        "messages": ("raw_messages", today),
        "previous_messages": ("raw_messages", today - timedelta(days=1)),
        "reactions": ("raw_reactions", today),
        "next_reactions": ("raw_reactions", today + timedelta(days=1)),
    }
    there = {asset: set(stage.lake.partitions(asset)) for asset in ("raw_messages", "raw_reactions")}
    near: dict[str, Artifact] = {
        name: stage.lake.current(asset, when.isoformat())
        for name, (asset, when) in neighbours.items()
        if when.isoformat() in there[asset] or when == today
    }
    first = profile().production.first_day.isoformat()
    if day != first and first in there["raw_reactions"]:
        with_first = stage.lake.current("raw_reactions", first)
        if with_first.metrics.get("no_time"):  # they may be about a reply of any day
            near["undated_reactions"] = with_first
    # A label is final once the day after it is in: later days must not change what is asked for.
    last = min(date.fromisoformat(max(there["raw_messages"])), today + timedelta(days=1))
    as_of = f"{(last + timedelta(days=1)).isoformat()}T00:00:00+00:00"
    dated = config.model_copy(update={"as_of": datetime.fromisoformat(as_of), "day": today})
    return Work("validate_replies", dated, near)
