"""A/B readout: what users did when they saw a candidate, against the baseline's arm.

The user is the unit: metrics are ratios of sums over users, variances come from the delta method, the pre-period takes
out what users brought with them (CUPED), and relative lifts carry Fieller's interval. Users found in both arms are
treated as paired, so the same code reads parallel arms and a simulation that shows every arm to the same users. Where
the exposed replies are given and users share them, variances are clustered by user and by reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.clustering import TwoWay, reply_log
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.experiment import CHECK_SCHEMA, check_test
from rluf_assets.evaluation.exposures import Arm, metric_columns, per_user, segments_of
from rluf_assets.evaluation.frames import read_parquet, require_baseline
from rluf_assets.evaluation.metric import compare_metric, metric_verdict
from rluf_assets.evaluation.over_days import DAY_SCHEMA, lift_by_day, novelty_check, part_of
from rluf_assets.evaluation.stats import Estimate, benjamini_hochberg

ALL = "all"
READOUT_SCHEMA: dict[str, Any] = {
    "candidate": pl.String, "baseline": pl.String,
    "metric": pl.String, "role": pl.String, "better": pl.String, "segment": pl.String,
    "control": pl.Float64, "treatment": pl.Float64, "lift": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64,
    "p_value": pl.Float64, "p_adjusted": pl.Float64, "sequential_low": pl.Float64, "sequential_high": pl.Float64,
    "unadjusted_lift": pl.Float64, "variance_removed": pl.Float64, "mde": pl.Float64, "margin": pl.Float64,
    "verdict": pl.String, "n_control": pl.Int64, "n_treatment": pl.Int64,
}  # fmt: skip


@dataclass(frozen=True)
class Readout:
    """metrics: one row per candidate x metric x segment. checks: one row per candidate x check of the test itself.

    days: one row per candidate x goal metric x day since first exposure, where the exposed replies have days.
    """

    metrics: pl.DataFrame
    checks: pl.DataFrame
    days: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DAY_SCHEMA))

    def row(self, candidate: str, metric: str, segment: str = ALL) -> dict[str, Any] | None:
        """One candidate's figures for a metric, or None if it was not measured."""
        same = (pl.col("candidate") == candidate) & (pl.col("metric") == metric) & (pl.col("segment") == segment)
        found = self.metrics.filter(same)
        return found.row(0, named=True) if len(found) else None

    def _repr_html_(self) -> str:
        return str(self.metrics.filter(pl.col("segment") == ALL)._repr_html_())


def no_readout() -> Readout:
    """The readout of a production that had nothing to compare."""
    return Readout(pl.DataFrame(schema=READOUT_SCHEMA), pl.DataFrame(schema=CHECK_SCHEMA))


def read_readout(folder: Path) -> Readout:
    """A readout as the job wrote it. Raises ArtifactMissing for an absent table."""
    return Readout(*(read_parquet(folder / f"{name}.parquet") for name in ("readout", "checks", "by_day")))


def read_out(
    exposures: Mapping[str, pl.DataFrame],
    config: ReadoutConfig,
    *,
    replies: Mapping[str, pl.DataFrame] | None = None,
) -> Readout:
    """Compare every candidate's arm with the baseline's.

    exposures: candidate -> `ab_exposures` frame (one row per user, or per user x use_case). replies: candidate -> one
    row per exposure (user_id, reply_id, counts), where users share replies. Raises DataError for a missing baseline,
    an empty arm, missing columns, or replies that do not add up.
    """
    require_baseline("A/B readout", exposures, config.baseline)
    users = {name: per_user(name, frame) for name, frame in exposures.items()}
    logs = {name: reply_log(name, frame, users[name]) for name, frame in (replies or {}).items()}
    arms = {name: Arm(frame, logs.get(name)) for name, frame in users.items()}
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    days = [pl.DataFrame(schema=DAY_SCHEMA)]
    base = arms[config.baseline]
    for name, arm in arms.items():
        if name == config.baseline:
            continue
        rows += _compare_arms(name, ALL, arm, base, config)
        for segment, ours, theirs in _segments(name, exposures, arms, config):
            if min(len(ours.users), len(theirs.users)) >= config.min_segment_users:
                rows += _compare_arms(name, segment, ours, theirs, config)
        days.append(lift_by_day(name, arm, base, config, partial(_compare_shared, config=config)))
        novelty = novelty_check(name, days[-1], config)
        checks += [*check_test(name, arms, config), *([novelty] if novelty else [])]
    if not rows:
        raise DataError(
            f"A/B readout: found only the baseline {config.baseline!r} or none of the metrics' columns, expected at "
            "least one candidate arm to compare. Materialise ab_exposures of a candidate."
        )
    metrics = _with_adjusted(pl.DataFrame(rows, infer_schema_length=None), config)
    columns = [pl.col(c).cast(t) for c, t in READOUT_SCHEMA.items()]
    return Readout(metrics.select(columns), pl.DataFrame(checks), pl.concat(days))


def _segments(
    name: str, exposures: Mapping[str, pl.DataFrame], arms: Mapping[str, Arm], config: ReadoutConfig
) -> Iterator[tuple[str, Arm, Arm]]:
    """Use cases with both arms' part in them: from exposures split by use case, else from the exposed replies."""
    pair = (name, config.baseline)
    for segment in segments_of(exposures[name], exposures[config.baseline]):
        ours, theirs = (Arm(per_user(n, exposures[n], segment)) for n in pair)
        yield segment, ours, theirs
    logs = [arms[n].log for n in pair]
    if "use_case" in exposures[name].columns or logs[0] is None or logs[1] is None:
        return
    for segment in segments_of(logs[0].frame, logs[1].frame):
        parts = [part_of(n, arms[n], pl.col("use_case") == segment) for n in pair]
        if parts[0] is not None and parts[1] is not None:
            yield segment, parts[0], parts[1]


def _compare_arms(name: str, segment: str, arm: Arm, base: Arm, config: ReadoutConfig) -> list[dict[str, Any]]:
    measured = [m for m in config.metrics if all(metric_columns(a.users, m) for a in (arm, base))]
    two_way = _two_way(arm, base)
    rows = []
    for metric in measured:
        row = compare_metric(metric, arm, base, config, two_way)
        if row is not None:
            rows.append({"candidate": name, "baseline": config.baseline, "segment": segment, **row})
    return rows


def _two_way(arm: Arm, base: Arm) -> TwoWay | None:
    return TwoWay.of(arm.log, base.log) if arm.log is not None and base.log is not None else None


def _compare_shared(metric: Metric, arm: Arm, base: Arm, config: ReadoutConfig) -> dict[str, Any] | None:
    return compare_metric(metric, arm, base, config, _two_way(arm, base))


def _with_adjusted(rows: pl.DataFrame, config: ReadoutConfig) -> pl.DataFrame:
    """Benjamini-Hochberg within a family: a candidate's metrics overall, and each metric over its segments."""
    family = pl.when(pl.col("segment") == ALL).then(pl.lit(ALL)).otherwise(pl.col("metric"))
    parts = []
    metrics = {m.name: m for m in config.metrics}
    for _, part in rows.group_by("candidate", family.alias("family"), maintain_order=True):
        adjusted = benjamini_hochberg(part["p_value"].to_list())
        verdicts = [
            metric_verdict(metrics[r["metric"]], Estimate(r["lift"], r["ci_low"], r["ci_high"]), p, config.confidence)
            for r, p in zip(part.iter_rows(named=True), adjusted, strict=True)
        ]
        corrected = pl.Series("p_adjusted", adjusted, dtype=pl.Float64)
        parts.append(part.with_columns(corrected, pl.Series("verdict", verdicts, dtype=pl.String)))
    return pl.concat(parts)
