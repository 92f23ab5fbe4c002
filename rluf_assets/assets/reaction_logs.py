"""reaction_logs: the production's logs by day, as they came and as validated."""

import warnings
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from resources.stage import Work
from rluf_assets.assets.common import OWNERS, HomeSettings, Production, Result, StageRunner, fresh
from rluf_assets.automation import arrives, validates
from rluf_assets.errors import ArtifactMissing, ConfigError
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.lake import Artifact, Lake
from rluf_assets.retention import horizon_of

# Dagster 1.13 marks backfill policies and Pipes readers beta; the notices would meet people at every command.
for notice in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=notice)

DAILY: dict[str, Any] = {
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "group_name": "reaction_logs",
    "owners": OWNERS,
    "kinds": {"polars", "parquet"},
}


def reaction_log_assets(home: HomeSettings) -> list[dg.AssetsDefinition]:
    """The assets of the group for one home."""
    daily: dict[str, Any] = {**DAILY, "partitions_def": home.days, "freshness_policy": fresh(home, daily=True)}
    window = home.profile.validated_replies.window_days
    and_days_before = dg.TimeWindowPartitionMapping(start_offset=-window)
    and_days_after = dg.TimeWindowPartitionMapping(end_offset=window)

    @dg.asset(**daily, code_version=IngestConfig.version, automation_condition=arrives())
    def raw_messages(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Iterator[Result]:
        """One row per message, as the source gave it, in canonical columns; append-only, by the day it was written."""
        yield from stage.run_days(
            context, {day: production.logs(context, "messages", day) for day in context.partition_keys}
        )

    @dg.asset(**daily, code_version=IngestConfig.version, automation_condition=arrives())
    def raw_reactions(
        context: dg.AssetExecutionContext, stage: StageRunner, production: Production
    ) -> Iterator[Result]:
        """One row per reaction event (set or revoked), as the source gave it, by the day it was given."""
        yield from stage.run_days(
            context, {day: production.logs(context, "reactions", day) for day in context.partition_keys}
        )

    @dg.asset(
        **daily,
        code_version=home.profile.validated_replies.version,
        deps=[
            dg.AssetDep(raw_messages, partition_mapping=and_days_before),
            dg.AssetDep(raw_reactions, partition_mapping=and_days_after),
        ],
        automation_condition=validates(),
    )
    def validated_replies(context: dg.AssetExecutionContext, stage: StageRunner) -> Iterator[Result]:
        """One row per assistant reply: its label per signal, mature or pending; bad rows in the quarantine beside it."""
        config, horizon = home.profile.validated_replies, horizon_of(stage.lake)
        all_there = not horizon.raw_from
        if config.time == "logged" and config.undated_reactions is None and all_there:
            _refuse_undated(stage.lake)
        retired = [day for day in context.partition_keys if day < horizon.labels_from]
        works = {day: _validation(home, stage, day) for day in context.partition_keys if day not in retired}
        labelled = set(stage.lake.partitions("validated_replies"))
        kept = {day: stage.lake.current("validated_replies", day) for day in retired if day in labelled}
        if not works and not kept:
            raise ArtifactMissing(
                f"validated_replies of {', '.join(retired)}: the raw rows were removed (retention.raw_days), and no labels "
                f"of them are kept. Ask for days from {horizon.labels_from} on."
            )
        yield from stage.run_days(context, works, kept=kept)

    return [raw_messages, raw_reactions, validated_replies]


def _validation(home: HomeSettings, stage: StageRunner, day: str) -> Work:
    config, lake = home.profile.validated_replies, stage.lake
    near: dict[str, Artifact] = {table: lake.current(f"raw_{table}", day) for table in ("messages", "reactions")}
    if config.time == "none":  # one partition: it has no neighbours, and no window that is still open
        return Work("validate_replies", config, near)
    today = date.fromisoformat(day)
    there = {table: set(lake.partitions(f"raw_{table}")) for table in ("messages", "reactions")}
    for nth in range(1, config.window_days + 1):
        before, after = (str(today + timedelta(days=step)) for step in (-nth, nth))
        for name, table, when in (
            ("previous_messages", "messages", before), ("next_messages", "messages", after),
            ("next_reactions", "reactions", after),
        ):  # fmt: skip
            if when in there[table]:
                near[f"{name}/{when}"] = lake.current(f"raw_{table}", when)
    first = home.days.get_first_partition_key()
    if first is not None and first != day and first in there["reactions"] and _undated(lake, [first])[0]:
        near["undated_reactions"] = lake.current("raw_reactions", first)  # one file of several days keeps them there
    dated = config.model_copy(update={"as_of": _known_until(lake, today, there, config.window_days), "day": today})
    return Work("validate_replies", dated, near)


def _known_until(lake: Lake, today: date, there: dict[str, set[str]], window_days: int) -> datetime:
    """The end of the last day of reactions that is known, without a gap from `today` on, as far as the window reaches.

    A day that has not come, or that lies behind the last rows of the log, is not known: silence on it is no silence. Days
    behind the window must not change what is asked for.
    """
    last = max(there["messages"])
    while last > str(today) and not any(
        lake.current(f"raw_{table}", last).rows.get(table) for table in there if last in there[table]
    ):
        last = max(day for day in there["messages"] if day < last)
    known = today
    while (
        (known - today).days < window_days
        and str(known + timedelta(days=1)) in there["reactions"]
        and str(known + timedelta(days=1)) <= last
    ):
        known += timedelta(days=1)
    return datetime.fromisoformat(f"{known + timedelta(days=1)}T00:00:00+00:00")


def _undated(lake: Lake, days: list[str]) -> tuple[int, int]:
    """Reactions without a time, and all of them, of some raw days."""
    files = [lake.current("raw_reactions", day).path("reactions.parquet") for day in days]
    at = pl.scan_parquet(files, hive_partitioning=False).select(pl.col("reacted_at").null_count(), rows=pl.len())
    undated, rows = at.collect().row(0)
    return int(undated), int(rows)


def _refuse_undated(lake: Lake) -> None:
    """Raise ConfigError where most reactions of a dated log have no time, and nobody has said what that means."""
    days = lake.partitions("raw_reactions")
    undated, rows = _undated(lake, days) if days else (0, 0)
    if undated * 2 > rows:
        raise ConfigError(
            f"validated_replies.undated_reactions is not set, and {undated} of {rows} reactions have no time of their own, "
            "while the messages have. Set it to at_message (they count at the time of their message: right for marks that "
            "are kept on the message itself), or to drop_as_unknown (their replies get no label)."
        )
