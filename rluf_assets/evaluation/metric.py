"""One metric of two arms: rates, lift, intervals, p-value and verdict.

A ratio of sums over users. Variances come from the delta method, what users brought with them is taken out (`adjusting`),
relative lifts carry Fieller's interval by Student's t; users in both arms are treated as paired, and shared replies as
clusters of their own.
A guardrail is a non-inferiority test: relative where the control has events enough, in users with an event where not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.adjusting import adjusted
from rluf_assets.evaluation.clustering import TwoWay
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.decision import RANK, Result
from rluf_assets.evaluation.exposures import Arm
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.evaluation.rare_events import (
    Events,
    difference_of_counts,
    difference_of_shares,
    exact_limits,
    users_with_event,
)
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
    """One metric's figures: rates, lift with the fixed, the planned and the always-valid interval, users with an event in
    absolute terms, p-value, MDE; of a guardrail its result. None if an arm has nothing in the denominator.
    """
    arm, base = winsorised(metric, arm, base)
    raw = [ratio_of_sums(a.values(metric.numerator), a.values(metric.denominator)) for a in (arm, base)]
    if raw[0] is None or raw[1] is None:
        return None
    pair = raw[0], raw[1]
    treatment, control, by = adjusted(*pair, arm, base, config)
    variance_before = _variances(metric, pair, pair, arm, base, two_way).difference
    spread = _variances(metric, pair, (treatment, control), arm, base, two_way)
    standard_error = float(np.sqrt(spread.difference))
    no_events = raw[0].value == 0 or raw[1].value == 0
    users = len(arm.users) + len(base.users)
    difference = treatment.value - control.value

    def lift_at(confidence: float) -> Estimate:
        if no_events or not confidence < 1:
            return Estimate(None, None, None)
        return fieller(
            treatment.value, control.value, spread.treatment, spread.control, spread.covariance,
            confidence=confidence, df=spread.df,
        )  # fmt: skip

    def relative(value: float) -> float | None:
        return None if no_events else finite(value / control.value)

    plan = config.plan
    always = sequential_factor(users, planned=plan.planned_users, confidence=1 - plan.alpha)
    critical = decisive(users, plan)
    confidence = confidence_of(critical)
    shown, planned = lift_at(config.confidence), lift_at(confidence)
    if spread.difference <= 0:
        planned = of_identical_users(planned.value, (len(arm.users), len(base.users)), confidence)
    counts = [(a.values(metric.numerator), a.values(metric.denominator)) for a in (arm, base)]
    events = [users_with_event(*of) for of in counts]
    shrink = _design_effect(spread, arm, base, pair)
    often = difference_of_counts(counts[0], counts[1], critical, shrink)
    shares = difference_of_shares(events[0].effective(shrink), events[1].effective(shrink), confidence)
    if min(e.users for e in events) < config.min_events:
        planned = Estimate(planned.value, None, None)
    row = {
        "metric": metric.name, "role": metric.role, "better": metric.better,
        "margin": metric.margin, "absolute_margin": metric.absolute_margin,
        "control": control.value, "treatment": treatment.value,
        "lift": shown.value, "lift_error": None if no_events else finite(_lift_error(treatment, control, spread)),
        "ci_low": shown.low, "ci_high": shown.high,
        "p_value": difference_p_value(difference, spread.difference, spread.df), "z": _z(difference, spread),
        "look": plan.look(users), "plan_low": planned.low, "plan_high": planned.high,
        "sequential_low": relative(difference - always * standard_error),
        "sequential_high": relative(difference + always * standard_error),
        "events_treatment": int(events[0].users), "events_control": int(events[1].users),
        "share_difference": shares.value, "share_low": shares.low, "share_high": shares.high,
        "events_per_user": often.value, "events_per_user_low": often.low, "events_per_user_high": often.high,
        "unadjusted_lift": None if no_events else pair[0].value / pair[1].value - 1,
        "variance_removed": 1 - spread.difference / variance_before if 0 < variance_before < np.inf else 0.0,
        "adjusted_by": by,
        "mde": relative(minimum_detectable_effect(standard_error, confidence=config.confidence, power=plan.power)),
        "n_control": len(base.users), "n_treatment": len(arm.users),
    }  # fmt: skip
    return {
        **row,
        "result": str(guardrail_result(metric, planned, shares, often)) if metric.role == "guardrail" else None,
    }


def decisive(users: int, plan: AbPlan) -> float:
    """The critical value that decides at so many users: the look's boundary, between looks the always-valid one."""
    on_time = plan.critical_value(users)
    always = sequential_factor(users, planned=plan.planned_users, confidence=1 - plan.alpha)
    return always if on_time is None else on_time


def _lift_error(treatment: Ratio, control: Ratio, spread: Variances) -> float:
    """Standard error of the lift itself, by the delta method."""
    ratio = treatment.value / control.value
    variance = spread.treatment + ratio**2 * spread.control - 2 * ratio * spread.covariance
    return float(np.sqrt(max(variance, 0.0))) / abs(control.value)


def confidence_of(critical: float) -> float:
    """The two-sided confidence that a critical value of the normal stands for."""
    from scipy.stats import norm

    return float(1 - 2 * norm.sf(critical))


def of_identical_users(lift: float | None, users: tuple[int, int], confidence: float) -> Estimate:
    """The interval of a lift where no user differs from another of their arm, or from themselves in the other arm.

    There is no variance to judge by. What so many alike users leave open is the share of others that may be among all:
    exact limits of none, in both arms.
    """
    if lift is None:
        return Estimate(None, None, None)
    half = math.hypot(*(exact_limits(Events(0, count), confidence)[1] for count in users))
    return Estimate(lift, lift - half, lift + half)


def guardrail_result(metric: Metric, lift: Estimate, *absolute: Estimate) -> Result:
    """Non-inferiority: the worsening's interval lies within the margin (pass), beyond it (fail), or neither.

    The margin is the larger of the relative and the absolute one, so within either is within it, and beyond it is beyond
    every one that is defined. A ratio that is undefined, or of too few events, says nothing; the absolute figures do. They
    are within their margin only if each of them is: neither more users with an event, nor more events of the same users.
    """
    relative, others = (
        _within(metric, lift, metric.margin),
        [_within(metric, e, metric.absolute_margin) for e in absolute],
    )
    known = [result for result in others if result is not None]
    said = [*([relative] if relative else []), *([min(known, key=RANK.index)] if known else [])]
    if Result.PASS in said:
        return Result.PASS
    return Result.FAIL if said and set(said) == {Result.FAIL} else Result.NOT_SHOWN


def _within(metric: Metric, estimate: Estimate, margin: float | None) -> Result | None:
    """Whether the worsening lies within the margin; None where one of the two is not defined."""
    if margin is None or estimate.low is None or estimate.high is None:
        return None
    least, most = (estimate.low, estimate.high) if metric.better == "lower" else (-estimate.high, -estimate.low)
    return Result.PASS if most <= margin else Result.FAIL if least > margin else Result.NOT_SHOWN


def winsorised(metric: Metric, arm: Arm, base: Arm) -> tuple[Arm, Arm]:
    """Both arms with users' counts cut at the plan's quantile of all users of the test."""
    if metric.winsorise is None:
        return arm, base
    if arm.log is not None or base.log is not None:
        raise ConfigError(
            f"ab_plan.winsorise[{metric.name!r}]: users of this test share replies, and their counts cannot be cut without "
            "losing track of which reply they belong to. Take the metric out of winsorise."
        )
    both = np.concatenate([a.values(metric.numerator) for a in (arm, base)])
    most = float(np.quantile(both, metric.winsorise, method="inverted_cdf"))
    cut = pl.col(metric.numerator).cast(pl.Float64).clip(upper_bound=most)
    return Arm(arm.users.with_columns(cut)), Arm(base.users.with_columns(cut))


def _z(difference: float, spread: Variances) -> float:
    """The test statistic as a normal score, its sign that of the difference; 0 where there is no variance to judge by."""
    from scipy.stats import norm, t

    if not np.isfinite(spread.difference) or spread.difference <= 0:
        return 0.0
    tail = t.logsf(abs(difference) / np.sqrt(spread.difference), spread.df) if np.isfinite(spread.df) else None
    score = abs(difference) / np.sqrt(spread.difference) if tail is None else float(norm.isf(max(np.exp(tail), 1e-300)))
    return float(np.copysign(score, difference))


def _design_effect(spread: Variances, arm: Arm, base: Arm, pair: tuple[Ratio, Ratio]) -> float:
    """How much users who share replies tell less than independent ones would."""
    if arm.log is None or base.log is None:
        return 1.0
    alone = _by_user(*pair, arm, base)
    own, independent = spread.treatment + spread.control, alone.treatment + alone.control
    return own / independent if independent > 0 else 1.0


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
