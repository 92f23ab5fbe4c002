"""Dagster asset checks: every expectation of a suite is one check, with what was observed and what was expected.

Critical expectations block what lies downstream, warnings do not. A run over many days is judged in one call, on one
frame with a row per day. The resource `lake` gives the artifacts; assets are named by key, none is imported.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from data_checks.drift import TRAILING_DAYS, with_drift
from data_checks.suites import CRITICAL, CheckOutcome, basis_of, load_suite, run_suite, suite_path
from resources.metadata import page_links
from resources.profiles import PAGES_URL
from rluf_assets.lake import Lake

PARTITIONS_LINKED = 5
Frame = Callable[[dg.AssetCheckExecutionContext, Lake], pl.DataFrame]


def build_checks(
    folder: Path | None = None, signal: str = "love", pages_url: str = PAGES_URL
) -> list[dg.AssetChecksDefinition]:
    """Checks of all suites; an analyst's own `<folder>/<name>.json` takes the packaged one's place.

    `signal` is the one that the signal set is built from: its rate is `signal_rate` in the metrics of a day. A check that
    fails links the pages of its days, which are served at `pages_url`.
    """
    return [
        _checks_of(
            "validated_replies",
            suite_path("validated_replies", folder),
            partial(_day_metrics, signal),
            "day",
            signal,
            pages_url,
            partial(_other_days, signal),
        ),
        _checks_of("signal_set", suite_path("signal_set", folder), _set_metrics, None, signal, pages_url),
    ]


def _checks_of(
    asset: str,
    path: Path,
    frame: Frame,
    key: str | None,
    signal: str,
    pages_url: str,
    others: Frame | None = None,
) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            entry["meta"]["name"],
            asset=dg.AssetKey(asset),
            description=entry["meta"].get("description"),
            blocking=entry.get("severity", CRITICAL) == CRITICAL,
        )
        for entry in load_suite(path)["expectations"]
    ]

    @dg.multi_asset_check(name=f"{asset}_checks", specs=specs, can_subset=True, required_resource_keys={"lake"})
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        wanted = {check.name for check in context.selected_asset_check_keys}
        lake: Lake = context.op_execution_context.resources.lake.lake
        metrics = frame(context, lake)
        outcomes = run_suite(metrics, path, key=key)
        standing = others(context, lake) if others else pl.DataFrame()
        for outcome in with_standing(outcomes, standing, path, key):
            if outcome.name in wanted:
                yield dg.AssetCheckResult(
                    asset_key=dg.AssetKey(asset),
                    check_name=outcome.name,
                    passed=outcome.passed,
                    severity=_severity(outcome.severity),
                    description=outcome.observed,
                    metadata={
                        "observed": outcome.observed,
                        "expected": outcome.expected,
                        "rows": metrics.height,
                        "basis": basis_of(path, signal),
                        **_pages_of(lake, asset, outcome.outside, pages_url),
                    },
                )

    return checks


def with_standing(
    outcomes: list[CheckOutcome], others: pl.DataFrame, path: Path, key: str | None
) -> list[CheckOutcome]:
    """The outcomes; a contract that the run's own rows keep and another in force breaks stays broken until it is mended.

    Dagster knows one state per check: a good day would otherwise open the way for the bad one before it.
    """
    if others.is_empty():
        return outcomes
    broken = {o.name: o for o in run_suite(others, path, key=key) if o.severity == CRITICAL and not o.passed}
    return [
        replace(broken[o.name], observed=f"brought in before: {broken[o.name].observed}")
        if o.passed and o.name in broken
        else o
        for o in outcomes
    ]


def _pages_of(lake: Lake, asset: str, partitions: Sequence[str], pages_url: str) -> dict[str, dg.UrlMetadataValue]:
    """`<page> <partition>` -> address of the pages of the partitions that failed, for a person to look into them."""
    return {
        f"{name.removeprefix('page: ')} {partition}": link
        for partition in partitions[:PARTITIONS_LINKED]
        for name, link in page_links(lake.current(asset, partition), pages_url).items()
    }


def _severity(severity: str) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if severity == CRITICAL else dg.AssetCheckSeverity.WARN


def _day_metrics(signal: str, context: dg.AssetCheckExecutionContext, lake: Lake) -> pl.DataFrame:
    """Metrics rows of the run's days; of all days in the lake where the run has none."""
    known = there = lake.partitions("validated_replies")
    in_run = context.op_execution_context
    if in_run.has_partition_key or in_run.has_partition_key_range:
        span = in_run.partition_key_range
        there = [day for day in there if span.start <= day <= span.end]  # ISO dates sort as text
    return day_metrics(lake, there, known, signal)


def _other_days(signal: str, context: dg.AssetCheckExecutionContext, lake: Lake) -> pl.DataFrame:
    """Metrics rows of the days in force that are not in the run."""
    known = lake.partitions("validated_replies")
    own = _day_metrics(signal, context, lake)["day"].cast(pl.String).to_list()
    return day_metrics(lake, [day for day in known if day not in own], known, signal)


def day_metrics(lake: Lake, days: list[str], known: list[str], signal: str = "love") -> pl.DataFrame:
    """Metrics rows of `days`, with `signal_rate` and their drift against those of the `known` days before them."""
    if not days:
        return pl.DataFrame()
    first = (date.fromisoformat(min(days)) - timedelta(days=TRAILING_DAYS)).isoformat()
    read = sorted({*days, *(day for day in known if first <= day <= max(days))})
    rows = [lake.current("validated_replies", day).path("metrics.parquet") for day in read]
    named = pl.Series(read, dtype=pl.String).str.to_date()  # a source without times has its partition's name alone
    # Days of an older version lack the counts of kinds that it did not look for.
    found = pl.concat([pl.read_parquet(row, hive_partitioning=False) for row in rows], how="diagonal")
    metrics = found.with_columns(day=pl.coalesce("day", named))
    rate = f"rate_{signal}" if f"rate_{signal}" in metrics.columns else pl.lit(None, pl.Float64)
    metrics = with_drift(metrics.with_columns(signal_rate=rate))
    return metrics.filter(pl.col("day").is_in([date.fromisoformat(day) for day in days]))


def _set_metrics(context: dg.AssetCheckExecutionContext, lake: Lake) -> pl.DataFrame:
    from data_checks.metrics import signal_set_metrics

    made = lake.partitions("evaluation_prompts")
    prompts = pl.read_parquet(lake.current("evaluation_prompts").path("prompts.parquet")) if made else None
    return signal_set_metrics(lake.current("signal_set").uri, prompts)
