"""Rare harms in absolute terms: users with an event, of the users at risk, by exact binomial limits.

A ratio to zero is undefined, and near zero its normal interval is a fiction. The difference of two shares is neither: each
arm's share has exact limits (Clopper & Pearson 1934), combined by Newcombe's square-and-add rule (1998, method 10 with
exact limits for Wilson's). A user counts once, however many events they had. Zero events in an arm is a small share that is
not yet known to be zero, never "no harm".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rluf_assets.evaluation.stats import Array, Estimate, finite


@dataclass(frozen=True)
class Events:
    """Users with an event, of the users at risk. `effective` divides both where users are not independent (see below)."""

    users: float
    at_risk: float

    @property
    def share(self) -> float | None:
        return self.users / self.at_risk if self.at_risk > 0 else None

    def effective(self, design_effect: float) -> Events:
        """As if from fewer, independent users: where users share replies, by the variance that this adds."""
        factor = max(design_effect, 1.0) if math.isfinite(design_effect) else math.inf
        return Events(self.users / factor, self.at_risk / factor)


def users_with_event(numerator: Array, denominator: Array) -> Events:
    """Users whose numerator is above zero, of those whose denominator is."""
    at_risk = denominator > 0
    return Events(float(np.sum(at_risk & (numerator > 0))), float(np.sum(at_risk)))


def difference_of_counts(
    treatment: tuple[Array, Array], control: tuple[Array, Array], critical: float, design_effect: float
) -> Estimate:
    """Events per user at risk, treatment less control: what a share of users cannot see, the same ones harmed more often.

    treatment, control: each user's events and exposure to the risk. Undefined where an arm has fewer than two at risk.
    """
    ours, theirs = (events[at_risk > 0] for events, at_risk in (treatment, control))
    if min(len(ours), len(theirs)) < 2:
        return Estimate(None, None, None)
    value = float(ours.mean() - theirs.mean())
    variance = float(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
    half = critical * math.sqrt(variance * max(design_effect, 1.0))
    return Estimate(finite(value), finite(value - half), finite(value + half))


def exact_limits(events: Events, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson limits of a share; the whole of [0, 1] where nobody was at risk."""
    from scipy.stats import beta

    k, n, tail = events.users, events.at_risk, (1 - confidence) / 2
    if n <= 0:
        return 0.0, 1.0
    low = 0.0 if k <= 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k >= n else float(beta.ppf(1 - tail, k + 1, n - k))
    return low, high


def clustered_share(events: Array, at_risk: Array, confidence: float) -> Estimate:
    """A share of what is at risk, with exact limits; rows are clusters (prompts), each of which counts once.

    As few independent trials as there are clusters, or would be if all weighed the same (Kish's effective number).
    """
    total = float(at_risk.sum())
    if total <= 0 or not (np.isfinite(events).all() and np.isfinite(at_risk).all()):
        return Estimate(None, None, None)
    trials = total**2 / float((at_risk**2).sum())
    share = float(events.sum()) / total
    return Estimate(share, *exact_limits(Events(share * trials, trials), confidence))


def difference_of_shares(treatment: Events, control: Events, confidence: float) -> Estimate:
    """Treatment's share less the control's, with its interval; undefined where an arm has nobody at risk."""
    ours, theirs = treatment.share, control.share
    if ours is None or theirs is None:
        return Estimate(None, None, None)
    low_t, high_t = exact_limits(treatment, confidence)
    low_c, high_c = exact_limits(control, confidence)
    difference = ours - theirs
    low = difference - math.hypot(ours - low_t, high_c - theirs)
    high = difference + math.hypot(high_t - ours, theirs - low_c)
    return Estimate(difference, max(low, -1.0), min(high, 1.0))
