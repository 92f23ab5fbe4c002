"""Off-policy evaluation: what a policy that was not live would have earned, read from logs whose chances are known.

Two estimators. *Arms* that were randomised with known probabilities: doubly robust per arm (AIPW), P[signal] as outcome
model. *Replies* whose log-probability was logged: importance weights of the candidate over the policy that wrote them,
clipped and self-normalised, added to what P[signal] says of the candidate's own replies (Dudik, Langford & Li 2011;
Swaminathan & Joachims 2015). Users are the clusters; intervals come from the linearised estimate.

A reading is an estimate, or it is *not enough overlap* with its reasons and no estimate in it. The rule (`OverlapRule`) is
fixed before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from rluf_assets.errors import DataError
from rluf_assets.evaluation.stats import Array, Estimate, critical_value, fieller

Labels = NDArray[Any]
_Z_SIZES = 3.9  # arms whose sizes differ by more are not what the probabilities say (two-sided p of 1e-4)


class OverlapRule(BaseModel):
    """When the logs say enough about another policy. Looser limits give numbers that its own interval does not cover."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    clip: float = Field(30.0, gt=1, description="importance weights are cut here")
    min_effective_users: float = Field(100.0, ge=2, description="Kish's effective number of users under the weights")
    min_effective_events: float = Field(15.0, ge=1, description="the same of users who gave the signal")
    max_clipped: float = Field(0.05, gt=0, lt=1, description="share of all weight that clipping takes away")
    max_user_share: float = Field(0.05, gt=0, lt=1, description="one user's share of all weight")
    mean_weight: tuple[float, float] = Field(
        (0.8, 1.25), description="of the uncut weights; 1 where the logs hold all that the policy would say"
    )
    max_unusable: float = Field(0.05, ge=0, lt=1, description="share of replies whose chance is not known")


@dataclass(frozen=True)
class Overlap:
    """How far the logs cover a policy: figures that are shown whatever the reading."""

    rows: int
    users: int
    effective_users: float
    effective_events: float
    largest_user_share: float
    largest_weight: float
    clipped_share: float
    mean_weight: float


@dataclass(frozen=True)
class Measured:
    """The rate of the signal under a policy, with each user's influence on it; `residual`: what users did beyond P[signal]."""

    rate: Estimate
    residual: Estimate
    overlap: Overlap
    influence: Mapping[Any, float]


@dataclass(frozen=True)
class NotEnoughOverlap:
    """The logs do not say: why, and the overlap where there was any to look at."""

    reasons: tuple[str, ...]
    overlap: Overlap | None = None


Reading = Measured | NotEnoughOverlap


@dataclass(frozen=True)
class LoggedReplies:
    """Replies that P[signal] has not seen: who read each, whether they gave the signal, P[signal], what each stands for."""

    user: Labels
    outcome: Array
    predicted: Array
    weight: Array


@dataclass(frozen=True)
class OwnReplies:
    """What P[signal] says of the candidate's own replies: one row per prompt, with its user and its weight in traffic."""

    user: Labels
    predicted: Array
    weight: Array


@dataclass(frozen=True)
class ArmRows:
    """What users of randomised arms did: replies and positives of each user, arm and context, with the arm's probability.

    predicted: per arm what P[signal] expects of it in each row's context (whatever arm the row is of).
    """

    user: Labels
    arm: Labels
    probability: Array
    replies: Array
    positives: Array
    predicted: Mapping[str, Array]


def read_replies(
    logged: LoggedReplies,
    candidate_logprob: Array,
    logged_logprob: Array,
    rule: OverlapRule,
    *,
    own: OwnReplies | None = None,
    confidence: float = 0.95,
) -> Reading:
    """The rate of a candidate from replies that another policy wrote.

    Without `own` replies it is the self-normalised mean alone. Raises DataError for figures that are not numbers.
    """
    _require_numbers("outcome", logged.outcome)
    _require_numbers("P[signal]", logged.predicted)
    _require_numbers("weight", logged.weight)
    _require_numbers("logged log-probability", logged_logprob)
    if np.isnan(candidate_logprob).any() or np.isposinf(candidate_logprob).any():
        raise DataError("off-policy evaluation: found log-probabilities of the candidate that are no numbers.")
    if len(logged.outcome) == 0:
        return NotEnoughOverlap(("there is not one logged reply",))
    ratio = np.exp(np.minimum(candidate_logprob - logged_logprob, 300.0))
    uncut, used = logged.weight * ratio, logged.weight * np.minimum(ratio, rule.clip)
    overlap = _overlap(logged.user, used, logged.outcome, largest=float(ratio.max()), uncut=uncut, base=logged.weight)
    reasons = _reasons(overlap, rule)
    if reasons:
        return NotEnoughOverlap(tuple(reasons), overlap)
    predicted = logged.predicted if own is not None else np.zeros(len(used))
    residual, of_residual = _mean(logged.outcome - predicted, used)
    users, value = [_per_user(logged.user, of_residual)], residual
    if own is not None:
        _require_numbers("P[signal] of the candidate's replies", own.predicted)
        direct, of_direct = _mean(own.predicted, own.weight)
        users.append(_per_user(own.user, of_direct))
        value += direct
    # A rate may come out below zero where the residual outweighs the prediction; its interval says so.
    return Measured(
        _estimate(value, together := _added(users), overlap, confidence),
        _estimate(residual, users[0], overlap, confidence) if own is not None else Estimate(None, None, None),
        overlap, together,
    )  # fmt: skip


def read_arms(rows: ArmRows, rule: OverlapRule, *, confidence: float = 0.95) -> dict[str, Reading]:
    """The rate of every arm over the users of all of them, doubly robust: one reading per arm, in the arms' order.

    Arms whose sizes are not what their probabilities say were not randomised so: not one of them is read.
    """
    for name, values in (("probability", rows.probability), ("replies", rows.replies), ("positives", rows.positives)):
        _require_numbers(name, values)
    if ((rows.probability <= 0) | (rows.probability > 1)).any():
        raise DataError("off-policy evaluation: found assignment probabilities outside (0, 1].")
    arms = [str(name) for name in np.unique(rows.arm)] if len(rows.arm) else []
    doubt = _unlike_their_sizes(rows, arms)
    return {arm: _arm(rows, arm, rule, doubt, confidence) for arm in arms}


def relative_change(ours: Measured, theirs: Measured, *, confidence: float = 0.95) -> Estimate:
    """Change of a rate against another one read from the same users (Fieller's interval)."""
    users = sorted({*ours.influence, *theirs.influence}, key=str)
    one, two = (np.array([reading.influence.get(user, 0.0) for user in users]) for reading in (ours, theirs))
    factor = len(users) / max(len(users) - 1, 1)
    df = min(ours.overlap.effective_users, theirs.overlap.effective_users) - 1
    value, against = ours.rate.value, theirs.rate.value
    if value is None or against is None:
        return Estimate(None, None, None)
    return fieller(
        value, against, factor * float(one @ one), factor * float(two @ two), factor * float(one @ two),
        confidence=confidence, df=df,
    )  # fmt: skip


def _arm(rows: ArmRows, arm: str, rule: OverlapRule, doubt: str | None, confidence: float) -> Reading:
    own, weight = rows.arm == arm, 1.0 / rows.probability
    predicted = rows.predicted[arm]
    _require_numbers(f"P[signal] of arm {arm}", predicted)
    used = weight[own] * rows.replies[own]
    overlap = _overlap(
        rows.user[own], used, rows.positives[own] / np.maximum(rows.replies[own], 1), largest=float(weight[own].max()),
        uncut=used, base=used,
    )  # fmt: skip
    reasons = [*([doubt] if doubt else []), *_reasons(overlap, rule)]
    if reasons:
        return NotEnoughOverlap(tuple(reasons), overlap)
    # All arms together, each row weighing one over its chance, stand for everybody; so does each arm alone.
    direct, of_direct = _mean(predicted, weight * rows.replies)
    residual, of_residual = _mean(rows.positives[own] / np.maximum(rows.replies[own], 1) - predicted[own], used)
    users = [_per_user(rows.user[own], of_residual), _per_user(rows.user, of_direct)]
    return Measured(
        _estimate(direct + residual, together := _added(users), overlap, confidence),
        _estimate(residual, users[0], overlap, confidence), overlap, together,
    )  # fmt: skip


def _unlike_their_sizes(rows: ArmRows, arms: Sequence[str]) -> str | None:
    """Why the arms were not randomised with these probabilities: users over their chance must be as many in each."""
    sizes = {}
    for arm in arms:
        own = rows.arm == arm
        _, first = np.unique(rows.user[own], return_index=True)
        chance = 1.0 / rows.probability[own][first]
        sizes[arm] = float(chance.sum()), float((chance**2).sum())
    if len(sizes) < 2:
        return "the logs name fewer than two arms with a probability"
    least, most = min(sizes.items(), key=lambda one: one[1][0]), max(sizes.items(), key=lambda one: one[1][0])
    if most[1][0] - least[1][0] > _Z_SIZES * math.sqrt(most[1][1] + least[1][1]):
        return (
            f"the arms are not of the sizes that their probabilities say: {least[0]} stands for {least[1][0]:.0f} users, "
            f"{most[0]} for {most[1][0]:.0f}"
        )
    return None


def _mean(values: Array, weight: Array) -> tuple[float, Array]:
    """Weighted mean and each row's influence on it."""
    total = float(weight.sum())
    mean = float(values @ weight) / total
    return mean, weight * (values - mean) / total


def _per_user(user: Labels, influence: Array) -> dict[Any, float]:
    names, code = np.unique(user, return_inverse=True)
    sums = np.bincount(code, weights=influence, minlength=len(names))
    return dict(zip(names.tolist(), sums.tolist(), strict=True))


def _added(parts: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    total: dict[Any, float] = {}
    for part in parts:
        for user, value in part.items():
            total[user] = total.get(user, 0.0) + value
    return total


def _estimate(value: float, influence: Mapping[Any, float], overlap: Overlap, confidence: float) -> Estimate:
    each = np.fromiter(influence.values(), dtype=np.float64)
    variance = float(each @ each) * len(each) / max(len(each) - 1, 1)
    half = critical_value(confidence, overlap.effective_users - 1) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def _overlap(user: Labels, used: Array, outcome: Array, *, largest: float, uncut: Array, base: Array) -> Overlap:
    _, code = np.unique(user, return_inverse=True)
    totals: Array = np.bincount(code, weights=used).astype(np.float64)
    events: Array = np.bincount(code, weights=used * outcome).astype(np.float64)
    total = float(totals.sum())
    return Overlap(
        rows=len(used),
        users=len(totals),
        effective_users=_effective(totals),
        effective_events=_effective(events),
        largest_user_share=float(totals.max()) / total if total > 0 else 1.0,
        largest_weight=largest,
        clipped_share=max(1.0 - total / float(uncut.sum()), 0.0) if uncut.sum() > 0 else 1.0,
        mean_weight=float(uncut.sum()) / float(base.sum()) if base.sum() > 0 else 0.0,
    )


def _effective(totals: Array) -> float:
    """Kish's effective number of equal weights."""
    top = float(totals.max(initial=0.0))
    if top <= 0:
        return 0.0
    scaled = totals / top
    return float(scaled.sum() ** 2 / (scaled @ scaled))


def _reasons(overlap: Overlap, rule: OverlapRule) -> list[str]:
    """What of the rule is not met, in words."""
    low, high = rule.mean_weight
    found = []
    if overlap.effective_users < rule.min_effective_users:
        found.append(
            f"{overlap.users} users weigh as much as {overlap.effective_users:.1f} would alike, fewer than "
            f"{rule.min_effective_users:g}"
        )
    if overlap.effective_events < rule.min_effective_events:
        found.append(
            f"the users who gave the signal weigh as much as {overlap.effective_events:.1f} would alike, fewer than "
            f"{rule.min_effective_events:g}"
        )
    if not low <= overlap.mean_weight <= high:
        found.append(
            f"the mean weight is {overlap.mean_weight:.3g}, not near 1: the logs hold not enough of what the policy says"
        )
    if overlap.clipped_share > rule.max_clipped:
        found.append(f"cutting weights at {rule.clip:g} takes {overlap.clipped_share:.1%} of them")
    if overlap.largest_user_share > rule.max_user_share:
        found.append(f"one user has {overlap.largest_user_share:.1%} of all weight")
    return found


def _require_numbers(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"off-policy evaluation: found {name} that is not a number, expected finite figures.")
