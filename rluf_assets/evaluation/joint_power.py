"""How likely a test of the planned size promotes: the goal and every guardrail together, over the planned looks.

The goal's power alone promises too much: five guardrails that are each shown with 90% are shown together less often. Metrics of
the same users go together, so their scores are drawn jointly: a Brownian motion per metric, correlated as users' influences
on the metrics are, and a test promotes at the first look at which all are beyond their bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from rluf_assets.evaluation.boundaries import critical_values
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, measured
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.evaluation.rare_events import users_with_event
from rluf_assets.evaluation.stats import Array, ratio_of_sums

DRAWS = 20_000


@dataclass(frozen=True)
class Sizing:
    """One metric of a plan: the standard error of its lift with one user in each arm, and how it is asked to differ."""

    metric: Metric
    rate: float
    unit_error: float  # relative; falls with the root of the users of an arm
    drift: float  # what is asked (lift or margin) in standard errors, with two users in all, shared as planned
    influence: Array

    def users(self, critical: float, power: float) -> int:
        """Users in both arms at which it alone is shown with this power."""
        from scipy.stats import norm

        return 2 * math.ceil(((critical + float(norm.ppf(power))) / self.drift) ** 2)


def sizings(users: pl.DataFrame, config: ReadoutConfig) -> list[Sizing]:
    """Goals and guardrails of the plan that these users' own behaviour can size.

    Of the others the columns are not there, or there is no event, or no user differs from another.
    """
    arm, found, even = Arm(users), [], math.sqrt(evenness(config))
    for metric in measured(config.judged, users):
        if metric.role == "diagnostic" or len(users) < 2:
            continue
        top, bottom = arm.values(metric.numerator), arm.values(metric.denominator)
        ratio = ratio_of_sums(top, bottom)
        if ratio is None or ratio.value <= 0:
            continue
        influence = ratio.influence * len(users) / ratio.value
        asked = config.plan.minimum_detectable_effect if metric.role == "goal" else metric.margin
        error = float(np.std(influence, ddof=1)) * math.hypot(1.0, _bar(metric))
        if not error > 1e-12:
            continue
        drifts = [] if asked is None else [asked / error]
        if metric.role == "guardrail" and metric.absolute_margin is not None:
            counts, seen = top[bottom > 0], users_with_event(top, bottom)
            spread = max((seen.share or 0.0) * (1 - (seen.share or 0.0)), float(np.var(counts)))
            if spread > 0:
                drifts.append(metric.absolute_margin / math.sqrt(2 * spread * len(users) / seen.at_risk))
        if drifts:
            found.append(Sizing(metric, ratio.value, error, even * max(drifts), influence))
    return found


def evenness(config: ReadoutConfig) -> float:
    """What a user tells in arms of the planned shares, over what one tells in arms of equal size; for the smallest arm."""
    shares = config.plan.planned_shares
    base, others = shares.get(config.baseline), [s for name, s in shares.items() if name != config.baseline]
    if base is None or not others:
        return 1.0
    part = min(others) / (min(others) + base)
    return 4 * part * (1 - part)


def joint_power(found: Sequence[Sizing], plan: AbPlan, *, users: int | None = None, seed: int = 0) -> float:
    """Chance that a goal passes and every guardrail with it at some planned look, with so many users in both arms.

    A goal has the lift that the plan asks for, and no guardrail moves. Goals are held to alpha over their number and that of
    candidates: Holm's first step.
    """
    if not any(s.metric.role == "goal" for s in found):
        return 0.0
    rng, arm = np.random.default_rng(seed), (users or plan.planned_users) / 2
    influences = np.stack([_harmless(s) for s in found])
    correlation = np.atleast_2d(np.corrcoef(influences))
    root = np.linalg.cholesky(correlation + 1e-9 * np.eye(len(found)))
    drift = np.array([s.drift for s in found]) * math.sqrt(arm)
    tests = plan.candidates * len(plan.goals)
    single = critical_values(plan.looks, alpha=plan.alpha, spending=plan.spending)
    corrected = critical_values(plan.looks, alpha=plan.alpha / tests, spending=plan.spending)
    goal = np.array([s.metric.role == "goal" for s in found])
    score, before = np.zeros((DRAWS, len(found))), 0.0
    promoted = np.zeros(DRAWS, dtype=bool)
    for k, time in enumerate(plan.looks):
        score += math.sqrt(time - before) * rng.standard_normal(score.shape) @ root.T
        before = time
        z = score / math.sqrt(time) + drift * math.sqrt(time)
        promoted |= (z[:, goal] >= corrected[k]).any(axis=1) & (z[:, ~goal] >= single[k]).all(axis=1)
    return float(promoted.mean())


def _bar(metric: Metric) -> float:
    """What the control's rate is multiplied by in the test, and its error with it: one, or one and the margin."""
    if metric.role == "goal" or metric.margin is None:
        return 1.0
    return 1 + metric.margin if metric.better == "lower" else 1 - metric.margin


def _harmless(sizing: Sizing) -> Array:
    """Influence on the score that should be large: of a metric that should fall, turned round."""
    return sizing.influence if sizing.metric.better == "higher" else -sizing.influence


def size_table(found: Sequence[Sizing], plan: AbPlan) -> pl.DataFrame:
    """One row per goal and guardrail: its rate, what is asked, users in both arms that show it, power at the planned size."""
    from scipy.stats import norm

    tests = plan.candidates * len(plan.goals)
    rows = []
    for s in found:
        is_goal = s.metric.role == "goal"
        alpha = plan.alpha / tests if is_goal else plan.alpha
        critical = critical_values(plan.looks, alpha=alpha, spending=plan.spending)[-1]
        asked = plan.minimum_detectable_effect if is_goal else s.metric.margin
        power = float(norm.cdf(s.drift * math.sqrt(plan.planned_users / 2) - critical))
        rows.append(
            {"metric": s.metric.name, "role": s.metric.role, "rate": s.rate, "asked": asked,
             "asked_absolute": s.metric.absolute_margin, "users_needed": s.users(critical, plan.power), "power": power}
        )  # fmt: skip
    schema = {"metric": pl.String, "role": pl.String, "rate": pl.Float64, "asked": pl.Float64,
              "asked_absolute": pl.Float64, "users_needed": pl.Int64, "power": pl.Float64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema)
