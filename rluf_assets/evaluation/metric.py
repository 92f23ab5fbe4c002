"""One metric of two arms: rates, lift, intervals, p-value and verdict.

A ratio of sums over users. Variances come from the delta method, CUPED takes out the pre-period, relative lifts carry
Fieller's interval by Student's t; users in both arms are treated as paired, and shared replies as clusters of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rluf_assets.evaluation.clustering import TwoWay
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, covariates_of
from rluf_assets.evaluation.stats import (
    Estimate,
    Ratio,
    difference_p_value,
    fieller,
    finite,
    minimum_detectable_effect,
    ratio_of_sums,
    sequential_factor,
    welch,
)


@dataclass(frozen=True)
class Variances:
    """Of the treatment's and the control's ratio, their covariance, and the degrees of freedom of the difference."""

    treatment: float
    control: float
    covariance: float
    df: float

    @property
    def difference(self) -> float:
        return max(self.treatment + self.control - 2 * self.covariance, 0.0)


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
        confidence=config.confidence, df=spread.df,
    )  # fmt: skip
    no_events = raw[0].value == 0 or raw[1].value == 0
    standard_error = float(np.sqrt(variance))
    users = len(arm.users) + len(base.users)
    # Control is positive wherever a lift is defined; the always-valid interval is on the difference, then relative. Its
    # tuning must not follow the data: planned users are a setting, whatever number is there at a look.
    wide = sequential_factor(users, planned=config.planned_users, confidence=config.confidence) * standard_error
    difference = treatment.value - control.value

    def relative(value: float) -> float | None:
        return None if no_events else finite(value / control.value)

    mde = minimum_detectable_effect(standard_error, confidence=config.confidence, power=config.power)
    shown = Estimate(None, None, None) if no_events else lift
    return {
        "metric": metric.name, "role": metric.role, "better": metric.better, "margin": metric.margin,
        "control": control.value, "treatment": treatment.value,
        "lift": shown.value, "ci_low": shown.low, "ci_high": shown.high,
        "p_value": difference_p_value(difference, variance, spread.df),
        "sequential_low": relative(difference - wide), "sequential_high": relative(difference + wide),
        "unadjusted_lift": None if no_events else pair[0].value / pair[1].value - 1,
        "variance_removed": 1 - variance / variance_before if 0 < variance_before < np.inf else 0.0,
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
    by_user = _by_user(*adjusted, arm, base)
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
    own, other, between = by_user.treatment + added[0], by_user.control + added[1], by_user.covariance + added[2]
    clusters = two_way.replies.counts
    few = [min(n, ratio.degrees_of_freedom + 1) - 1 for n, ratio in zip(clusters, adjusted, strict=True)]
    paired = two_way.replies.shared or by_user.covariance != 0
    both = Variances(own, other, between, min(few) if paired else welch(own, other, *few))
    return both if both.difference > by_user.difference and min(own, other) > 0 else by_user


def _by_user(treatment: Ratio, control: Ratio, arm: Arm, base: Arm) -> Variances:
    """Users found in both arms (none in a proper A/B test) covary; then the smaller arm gives the degrees of freedom."""
    ids, theirs = arm.users["user_id"].to_numpy(), base.users["user_id"].to_numpy()
    _, i, j = np.intersect1d(ids, theirs, assume_unique=True, return_indices=True)
    spread, dfs = (treatment.variance, control.variance), (treatment.degrees_of_freedom, control.degrees_of_freedom)
    if len(i) < 2:
        return Variances(*spread, 0.0, welch(*spread, *dfs))
    covariance = float(np.sum(treatment.influence[i] * control.influence[j]) * len(i) / (len(i) - 1))
    return Variances(*spread, covariance, min(dfs))


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
