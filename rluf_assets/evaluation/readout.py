"""A/B readout: what users did when they saw a candidate, against the baseline's arm.

The user is the unit: metrics are ratios of sums over users, variances come from the delta method, the pre-period takes
out what users brought with them (CUPED), and relative lifts carry Fieller's interval. Users found in both arms are
treated as paired, so the same code reads parallel arms and a simulation that shows every arm to the same users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import covariates_of, metric_columns, per_user, segments_of
from rluf_assets.evaluation.frames import require_baseline
from rluf_assets.evaluation.stats import (
    Array,
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
    "candidate": pl.String, "metric": pl.String, "role": pl.String, "better": pl.String, "segment": pl.String,
    "control": pl.Float64, "treatment": pl.Float64, "lift": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64,
    "p_value": pl.Float64, "p_adjusted": pl.Float64, "sequential_low": pl.Float64, "sequential_high": pl.Float64,
    "unadjusted_lift": pl.Float64, "variance_removed": pl.Float64, "mde": pl.Float64, "margin": pl.Float64,
    "verdict": pl.String, "n_control": pl.Int64, "n_treatment": pl.Int64,
}  # fmt: skip


@dataclass(frozen=True)
class Readout:
    """metrics: one row per candidate x metric x segment. checks: one row per candidate x check of the test itself."""

    metrics: pl.DataFrame
    checks: pl.DataFrame

    def row(self, candidate: str, metric: str, segment: str = ALL) -> dict[str, Any] | None:
        """One candidate's figures for a metric, or None if it was not measured."""
        same = (pl.col("candidate") == candidate) & (pl.col("metric") == metric) & (pl.col("segment") == segment)
        found = self.metrics.filter(same)
        return found.row(0, named=True) if len(found) else None

    def _repr_html_(self) -> str:
        return str(self.metrics.filter(pl.col("segment") == ALL)._repr_html_())


@dataclass(frozen=True)
class Arm:
    """One arm's users, sorted by id: one row each."""

    users: pl.DataFrame

    def values(self, column: str) -> Array:
        """A column per user; "users" counts one per user."""
        if column == "users":
            return np.ones(len(self.users))
        return self.users[column].cast(pl.Float64).to_numpy()


def read_out(exposures: Mapping[str, pl.DataFrame], config: ReadoutConfig, *, seed: int = 0) -> Readout:
    """Compare every candidate's arm with the baseline's. Nothing here is random; `seed` is there for the job's sake.

    exposures: candidate -> `ab_exposures` frame (one row per user, or per user x use_case). Raises DataError for a
    missing baseline, an empty arm, or missing columns.
    """
    del seed
    require_baseline("A/B readout", exposures, config.baseline)
    arms = {name: Arm(per_user(name, frame)) for name, frame in exposures.items()}
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    for name in exposures:
        if name == config.baseline:
            continue
        checks += check_test(name, arms, config)
        rows += _compare_arms(name, ALL, arms[name], arms[config.baseline], config)
        for segment in segments_of(exposures[name], exposures[config.baseline]):
            pair = [Arm(per_user(n, exposures[n], segment)) for n in (name, config.baseline)]
            if min(len(arm.users) for arm in pair) >= config.min_segment_users:
                rows += _compare_arms(name, segment, pair[0], pair[1], config)
    if not rows:
        raise DataError(
            f"A/B readout: found only the baseline {config.baseline!r} or none of the metrics' columns, expected at "
            "least one candidate arm to compare. Materialise ab_exposures of a candidate."
        )
    metrics = _with_adjusted(pl.DataFrame(rows, infer_schema_length=None), config)
    return Readout(metrics.select(pl.col(c).cast(t) for c, t in READOUT_SCHEMA.items()), pl.DataFrame(checks))


def _compare_arms(name: str, segment: str, arm: Arm, base: Arm, config: ReadoutConfig) -> list[dict[str, Any]]:
    measured = [m for m in config.metrics if all(metric_columns(a.users, m) for a in (arm, base))]
    rows = []
    for metric in measured:
        row = compare_metric(metric, arm, base, config)
        if row is not None:
            rows.append({"candidate": name, "segment": segment, **row})
    return rows


def compare_metric(metric: Metric, arm: Arm, base: Arm, config: ReadoutConfig) -> dict[str, Any] | None:
    """One metric's figures: rates, lift with fixed-horizon and always-valid intervals, p-value, MDE, verdict.

    None if an arm has nothing in the denominator.
    """
    raw = [ratio_of_sums(a.values(metric.numerator), a.values(metric.denominator)) for a in (arm, base)]
    if raw[0] is None or raw[1] is None:
        return None
    plain = _lift(raw[0], raw[1], arm, base, config.confidence)
    adjusted = _cuped(raw[0], raw[1], arm, base, config)
    treatment, control = adjusted
    variance_before = _difference_variance(raw[0], raw[1], arm, base)
    variance = _difference_variance(treatment, control, arm, base)
    lift = _lift(treatment, control, arm, base, config.confidence)
    no_events = raw[0].value == 0 or raw[1].value == 0
    standard_error = float(np.sqrt(variance))
    users = len(arm.users) + len(base.users)
    # Control is positive wherever a lift is defined; the always-valid interval is on the difference, then relative.
    wide = sequential_factor(users, planned=users, confidence=config.confidence) * standard_error
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
        "unadjusted_lift": None if no_events else plain.value,
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


def _lift(treatment: Ratio, control: Ratio, arm: Arm, base: Arm, confidence: float) -> Estimate:
    cov = _covariance(treatment, control, arm, base)
    return fieller(treatment.value, control.value, treatment.variance, control.variance, cov, confidence=confidence)


def _covariance(treatment: Ratio, control: Ratio, arm: Arm, base: Arm) -> float:
    """Of the two ratios, through users found in both arms; zero in a proper A/B test."""
    ids, theirs = arm.users["user_id"].to_numpy(), base.users["user_id"].to_numpy()
    _, i, j = np.intersect1d(ids, theirs, assume_unique=True, return_indices=True)
    if len(i) < 2:
        return 0.0
    return float(np.sum(treatment.influence[i] * control.influence[j]) * len(i) / (len(i) - 1))


def _difference_variance(treatment: Ratio, control: Ratio, arm: Arm, base: Arm) -> float:
    variance = treatment.variance + control.variance - 2 * _covariance(treatment, control, arm, base)
    return max(variance, 0.0)


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


def check_test(name: str, arms: Mapping[str, Arm], config: ReadoutConfig) -> list[dict[str, Any]]:
    """Checks of the test itself: sample ratio, users in both arms, traffic held by one user, metrics not measured."""
    from scipy.stats import chisquare

    arm, base = arms[name].users, arms[config.baseline].users
    counts = np.array([len(arm), len(base)])
    shares = np.array([config.planned_shares.get(n, 1.0) for n in (name, config.baseline)])
    expected = counts.sum() * shares / shares.sum()
    p_value = float(chisquare(counts, expected).pvalue)
    overlap = arm.join(base, on="user_id", how="semi").height
    replies = [a.values("replies") for a in (arms[name], arms[config.baseline])]
    heaviest = max(float(r.max() / max(r.sum(), 1.0)) for r in replies)
    missing = [m.name for m in config.metrics if not (metric_columns(arm, m) and metric_columns(base, m))]
    silent = [
        m.name for m in config.metrics if m.name not in missing and _no_events(m, arms[name], arms[config.baseline])
    ]
    return [
        _check(
            name, "sample_ratio", p_value >= config.srm_p_value,
            f"{counts[0]} users in the arm, {counts[1]} in the baseline's (p = {p_value:.3g})",
        ),
        _check(
            name, "users_in_one_arm", overlap == 0,
            f"{overlap} users are in both arms" + (": compared as pairs" if overlap else ""), fails="warn",
        ),
        _check(
            name, "traffic_spread", heaviest <= config.max_user_share,
            f"the heaviest user holds {heaviest:.1%} of an arm's replies", fails="warn",
        ),
        _check(
            name, "metrics_measured", not missing,
            f"not in the exposures: {', '.join(missing)}" if missing else "all metrics are measured", fails="info",
        ),
        _check(
            name, "events_in_both_arms", not silent,
            f"no events in an arm, no lift stated: {', '.join(silent)}" if silent else "every metric has events",
            fails="warn",
        ),
    ]  # fmt: skip


def _no_events(metric: Metric, arm: Arm, base: Arm) -> bool:
    return any(a.values(metric.numerator).sum() == 0 for a in (arm, base))


def _check(candidate: str, check: str, passed: bool, note: str, fails: str = "fail") -> dict[str, Any]:
    return {"candidate": candidate, "check": check, "verdict": "ok" if passed else fails, "note": note}
