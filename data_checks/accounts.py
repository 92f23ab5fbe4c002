"""Asset checks of the raw tables: every record that was counted in a source's files stands in a day or is named.

The counts are independent: records as the files were read (lines, rows of a CSV, a Parquet footer), rows as the published
table's footer has them, and rows of other days as the job told them apart. Over the days of one source they must add up
as well: a row without a time stands in one of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from data_checks.suites import basis_of, suite_path
from rluf_assets.lake import Artifact, Lake
from rluf_assets.retention import undated_rows_removed

RAW = ("raw_messages", "raw_reactions")
NAME = "records_accounted_for"
_NAMED = ("other_day", "undated")
_SHOWN = 5


@dataclass(frozen=True)
class Account:
    """What was found for a table's days: whether all adds up, and a line for each day that does not."""

    days: int
    records: int
    wrong: tuple[str, ...]


def account(days: Mapping[str, Artifact], table: str, removed: Mapping[str, int] | None = None) -> Account:
    """Hold the days of a raw table against the records that their sources had.

    `removed`: source -> rows without a time that stood in days which were removed since (`retention`).
    """
    wrong, records = [], 0
    sources: dict[str, list[str]] = {}  # by the files' content
    logs: dict[str, list[str]] = {}  # by the files' name: a log that grows has other content every day
    for day, artifact in days.items():
        found = artifact.metrics
        if "source_rows" not in found:  # made before sources were counted
            continue
        records += found["records"]
        rows = _rows(artifact, table)
        apart = sum(found.get(name, 0) for name in _NAMED)
        spec = artifact.manifest["spec"]
        counted = found["records"] if spec["config"].get("format", "canonical") == "canonical" else found["source_rows"]
        if rows + apart != counted:
            wrong.append(f"{day}: {counted} in the files, {rows} rows and {apart} of other days")
        if "{day}" not in spec["config"]["source"] and spec["config"].get("day"):
            sources.setdefault(spec["inputs"].get("files", {}).get("content_hash", day), []).append(day)
            logs.setdefault(spec["config"]["source"], []).append(day)
    for source, same in logs.items():
        undated = max(days[day].metrics["undated"] for day in same)
        held = sum(days[day].metrics["no_time"] for day in same) + (removed or {}).get(source, 0)
        if undated > held:
            wrong.append(f"{undated - held} rows of {same[0]} to {same[-1]} have no time and stand in no day: materialise "
                         "the first day")  # fmt: skip
    for same in sources.values():
        total, rows = days[same[0]].metrics["source_rows"], sum(_rows(days[day], table) for day in same)
        if rows > total:
            wrong.append(f"{same[0]} to {same[-1]}: {rows} rows of a source that has {total}")
    return Account(len(days), records, tuple(wrong))


def raw_checks() -> list[dg.AssetChecksDefinition]:
    """One check per raw table; it blocks what is made from it."""
    return [_check(asset) for asset in RAW]


def _check(asset: str) -> dg.AssetChecksDefinition:
    spec = dg.AssetCheckSpec(
        NAME, asset=dg.AssetKey(asset), blocking=True,
        description="records in the files = rows of the day + named others; over a source's days each row stands once",
    )  # fmt: skip

    @dg.multi_asset_check(name=f"{asset}_checks", specs=[spec], required_resource_keys={"lake"})
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        lake: Lake = context.op_execution_context.resources.lake.lake
        days = {day: lake.current(asset, day) for day in lake.partitions(asset)}
        found = account(days, asset.removeprefix("raw_"), undated_rows_removed(lake, asset))
        observed = "; ".join(found.wrong[:_SHOWN]) or f"{found.records} records in {found.days} days add up"
        told: dict[str, Any] = {"observed": observed, "days": found.days, "basis": basis_of(suite_path(asset))}
        yield dg.AssetCheckResult(
            asset_key=dg.AssetKey(asset), check_name=NAME, passed=not found.wrong, description=observed,
            severity=dg.AssetCheckSeverity.ERROR, metadata=told,
        )  # fmt: skip

    return check


def _rows(artifact: Artifact, table: str) -> int:
    """Rows by the table's footer, and those that `rluf forget` took out of it, or left out of it."""
    footer = int(pl.scan_parquet(artifact.path(f"{table}.parquet")).select(pl.len()).collect().item())
    return footer + int(artifact.metrics.get("forgotten_user", 0)) + int(artifact.manifest.get("forgotten_rows", 0))
