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

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.clustering import TwoWay, reply_log
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.experiment import CHECK_SCHEMA, check_test
from rluf_assets.evaluation.exposures import Arm, covariates_of, metric_columns, per_user, segments_of
from rluf_assets.evaluation.frames import read_parquet, require_baseline
from rluf_assets.evaluation.over_days import DAY_SCHEMA, lift_by_day, novelty_check, part_of
from rluf_assets.evaluation.stats import (
    Estimate,
    Ratio,
    benjamini_hochberg,
    difference_p_value,
    fieller,
    minimum_detectable_effect,
    ratio_of_sums,
    sequential_factor,
)

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


@dataclass(frozen=True)
class Variances:
    """Of the treatment's and the control's ratio, and their covariance."""

    treatment: float
    control: float
    covariance: float

    @property
    def difference(self) -> float:
        return max(self.treatment + self.control - 2 * self.covariance, 0.0)


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


def compare_metric(
    metric: Metric, arm: Arm, base: Arm, config: ReadoutConfig, two_way: TwoWay | None = None
) -> dict[str, Any] | None:
    """One metric's figures: rates, lift with fixed-horizon and always-valid intervals, p-value, MDE, verdict.

    None if an arm has nothing in the denominator.
    """
    raw = [ratio_of_sums(a.values(metric.numerator), a.values(metric.denominator)) for a in (arm, base)]
    if raw[0] is None or raw[1] is None:
        return None
    pair = raw[0], raw[1]
    treatment, control = _cuped(*pair, arm, base, config)
    variance_before = _variances(metric, pair, pair, arm, base, two_way).difference
    spread = _variances(metric, pair, (treatment, control), arm, base, two_way)
    variance = spread.difference
    lift = fieller(
        treatment.value, control.value, spread.treatment, spread.control, spread.covariance,
        confidence=config.confidence,
    )  # fmt: skip
    no_events = raw[0].value == 0 or raw[1].value == 0
    standard_error = float(np.sqrt(variance))
    users = len(arm.users) + len(base.users)
    # Control is positive wherever a lift is defined; the always-valid interval is on the difference, then relative. Its
    # tuning must not follow the data: planned users are a setting, whatever number is there at a look.
    wide = sequential_factor(users, planned=config.planned_users, confidence=config.confidence) * standard_error
    difference = treatment.value - control.value

    def relative(value: float) -> float | None:
        return None if no_events else value / control.value

    mde = minimum_detectable_effect(standard_error, confidence=config.confidence, power=config.power)
    shown = Estimate(None, None, None) if no_events else lift
    return {
        "metric": metric.name, "role": metric.role, "better": metric.better, "margin": metric.margin,
        "control": control.value, "treatment": treatment.value,
        "lift": shown.value, "ci_low": shown.low, "ci_high": shown.high,
        "p_value": difference_p_value(difference, variance),
        "sequential_low": relative(difference - wide), "sequential_high": relative(difference + wide),
        "unadjusted_lift": None if no_events else pair[0].value / pair[1].value - 1,
        "variance_removed": 1 - variance / variance_before if variance_before > 0 else 0.0,
        "mde": relative(mde),
        "n_control": len(base.users), "n_treatment": len(arm.users),
    }  # fmt: skip


def metric_verdict(metric: Metric, lift: Estimate, p_adjusted: float, confidence: float) -> str:
    """better / worse / unclear; guardrails: ok (worsening beyond the margin excluded), harm, unclear.

    The goal stands on its own interval; what is one of many must survive the correction for many, or every second
    harmless candidate would trip over a guardrail by chance.
    """
    if lift.value is None or lift.low is None or lift.high is None:
        return "unclear"
    value, low, high = (lift.value, lift.low, lift.high)
    if metric.better == "lower":
        value, low, high = -value, -high, -low
    proven = metric.role == "goal" or p_adjusted < 1 - confidence
    if metric.role == "guardrail":
        if low >= -metric.margin:
            return "ok"
        return "harm" if high < 0 and value < -metric.margin and proven else "unclear"
    if low > 0 and proven:
        return "better"
    return "worse" if high < 0 and proven else "unclear"


def _variances(
    metric: Metric,
    raw: tuple[Ratio, Ratio],
    adjusted: tuple[Ratio, Ratio],
    arm: Arm,
    base: Arm,
    two_way: TwoWay | None,
) -> Variances:
    """By user; where users share replies, by user and by reply, and never less than by user alone."""
    by_user = Variances(adjusted[0].variance, adjusted[1].variance, _covariance(*adjusted, arm, base))
    if two_way is None or arm.log is None or base.log is None:
        return by_user
    influences = [
        a.log.influence(
            (metric.numerator, a.values(metric.numerator)), (metric.denominator, a.values(metric.denominator)), r, adj
        )
        for a, r, adj in zip((arm, base), raw, adjusted, strict=True)
        if a.log is not None
    ]
    added = two_way.added(influences[0], influences[1])
    both = Variances(by_user.treatment + added[0], by_user.control + added[1], by_user.covariance + added[2])
    return both if both.difference > by_user.difference and min(both.treatment, both.control) > 0 else by_user


def _covariance(treatment: Ratio, control: Ratio, arm: Arm, base: Arm) -> float:
    """Of the two ratios, through users found in both arms; zero in a proper A/B test."""
    ids, theirs = arm.users["user_id"].to_numpy(), base.users["user_id"].to_numpy()
    _, i, j = np.intersect1d(ids, theirs, assume_unique=True, return_indices=True)
    if len(i) < 2:
        return 0.0
    return float(np.sum(treatment.influence[i] * control.influence[j]) * len(i) / (len(i) - 1))


def _cuped(treatment: Ratio, control: Ratio, arm: Arm, base: Arm, config: ReadoutConfig) -> tuple[Ratio, Ratio]:
    """Both ratios with what the pre-period explains taken out: Deng, Xu, Kohavi & Walker 2013, for linearised ratios.

    Users' influences (times users: the linearised metric) are regressed on the centred pre-period covariates, both arms
    together; the control keeps its level, so that lifts stay relative to what was observed.
    """
    columns = covariates_of(config, arm.users, base.users)
    if not columns:
        return treatment, control
    n_t, n_c = len(arm.users), len(base.users)
    ours = np.column_stack([arm.values(c) for c in columns] + [arm.values(c) > 0 for c in columns]).astype(np.float64)
    theirs = np.column_stack([base.values(c) for c in columns] + [base.values(c) > 0 for c in columns]).astype(
        np.float64
    )
    if n_t + n_c <= 2 * ours.shape[1] + 2:
        return treatment, control
    centre_t, centre_c = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    outcome = np.concatenate([treatment.influence * n_t, control.influence * n_c])
    theta, *_ = np.linalg.lstsq(np.concatenate([centre_t, centre_c]), outcome, rcond=None)
    shift = float((ours.mean(axis=0) - theirs.mean(axis=0)) @ theta)
    return (
        Ratio(treatment.value - shift, treatment.influence - centre_t @ theta / n_t),
        Ratio(control.value, control.influence - centre_c @ theta / n_c),
    )


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
