"""How much of a predicted change comes true: the slope of true on predicted changes over past launches, errors in both.

Both changes of a launch are estimates: users who were asked, prompts that were answered. Noise in what was predicted draws
the least-squares slope towards none, and a noisy launch counts there as much as a sure one. Here each launch has its own
errors, with their covariances, and launches miss by more than their errors (`spread`). A slope b is held to be possible if
the rest y - b x, free of what it shares with x by its errors alone, is not related to x: Creasy-Fieller's set (Fuller 1987,
Measurement Error Models, 1.3; Williams 1959), with Knapp & Hartung's (2003) t-test for few launches of unlike size. Where x
hardly varies beyond its noise the set has no end, and there is no interval. Undefined figures are None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rluf_assets.evaluation.stats import Array, Estimate, critical_value, finite

# Slopes are looked for by their angle, so that steep ones are no farther apart than flat ones.
ANGLES = np.linspace(-math.pi / 2, math.pi / 2, 64)[1:-1]
LEAST_LAUNCHES = 4


@dataclass(frozen=True)
class Launches:
    """Predicted (x) and observed (y) changes, and the covariance of their errors: x's first, then y's."""

    x: Array
    y: Array
    errors: Array

    @property
    def known(self) -> bool:
        """Whether all of it is finite and there are enough launches whose predictions differ."""
        whole = all(np.isfinite(part).all() for part in (self.x, self.y, self.errors))
        return whole and len(self.x) >= LEAST_LAUNCHES and float(np.ptp(self.x)) > 0

    def blocks(self) -> tuple[Array, Array, Array]:
        """Covariances of x with x, of x with y, of y with y."""
        n = len(self.x)
        return self.errors[:n, :n], self.errors[:n, n:], self.errors[n:, n:]


def naive_slope(x: Array, y: Array, confidence: float) -> Estimate:
    """Least squares, blind to errors: what stands beside the slope, to show what blindness would have said."""
    from scipy.stats import linregress

    if len(x) < LEAST_LAUNCHES or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0:
        return Estimate(None, None, None)
    line = linregress(x, y)
    half = critical_value(confidence, len(x) - 2) * float(line.stderr)
    return Estimate(finite(float(line.slope)), finite(float(line.slope) - half), finite(float(line.slope) + half))


def calibration_slope(launches: Launches, confidence: float) -> Estimate:
    """The slope with its interval; bounds are None where the launches do not bound it, all where they do not define it."""
    if not launches.known:
        return Estimate(None, None, None)
    slopes = np.tan(ANGLES)
    relations = np.array([relation(launches, b) for b in slopes])
    value = _nearest_zero(lambda b: relation(launches, b)[0], slopes, relations[:, 0])
    if value is None:
        return Estimate(None, None, None)
    limit = critical_value(confidence, len(launches.x) - 2)

    def excess(b: float) -> float:
        return abs(relation(launches, b)[1]) - limit

    beyond = np.abs(relations[:, 1]) - limit
    low = _end(excess, slopes[::-1], beyond[::-1], value)
    high = _end(excess, slopes, beyond, value)
    # A slope that is bounded on one side only is not bounded: the set reaches round through the steepest slopes.
    return Estimate(finite(value), *((None, None) if low is None or high is None else (low, high)))


def relation(launches: Launches, b: float) -> tuple[float, float]:
    """What is left of y - b x on what x would be without its noise: slope and t."""
    xx, xy, yy = launches.blocks()
    rest = launches.y - b * launches.x
    errors = yy - b * (xy + xy.T) + b * b * xx
    covariance = errors + spread(rest, errors) * np.eye(len(rest))
    weights = np.linalg.pinv(covariance, hermitian=True)
    level = float(weights.sum(axis=0) @ rest / weights.sum())
    # x less the part of its error that shows in the rest: uncorrelated with the rest if b is the slope.
    latent = launches.x - (xy - b * xx) @ weights @ (rest - level)
    design = np.column_stack([np.ones(len(rest)), latent])
    information = design.T @ weights @ design
    if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
        return 0.0, 0.0
    inverse = np.linalg.inv(information)
    found = inverse @ design.T @ weights @ rest
    left = rest - design @ found
    scale = float(left @ weights @ left) / (len(rest) - 2)
    maps = inverse @ design.T @ weights
    # Never surer than the launches' own errors allow, however well few points happen to lie on a line.
    variance = max(scale * inverse[1, 1], float((maps @ errors @ maps.T)[1, 1]))
    return float(found[1]), float(found[1] / math.sqrt(variance)) if variance > 0 else math.copysign(math.inf, found[1])


def spread(rest: Array, errors: Array) -> float:
    """Variance by which launches miss beyond their errors (Paule & Mandel 1982, correlated errors); 0 where none shows."""
    from scipy.optimize import brentq

    values, vectors = np.linalg.eigh(errors)
    values = np.maximum(values, 0.0)
    ones, turned = vectors.T @ np.ones(len(rest)), vectors.T @ rest
    most = float(np.var(rest, ddof=1))
    if most <= 0:
        return 0.0

    def excess(extra: float) -> float:
        w = 1 / (values + extra)
        level = (w * ones * turned).sum() / (w * ones * ones).sum()
        return float((w * (turned - level * ones) ** 2).sum()) - (len(rest) - 1)

    least = most * 1e-9
    if excess(least) <= 0:
        return 0.0 if values.min() > 0 else least
    return float(brentq(excess, least, most * len(rest), xtol=least, rtol=1e-4))


def _nearest_zero(function: Callable[[float], float], at: Array, values: Array) -> float | None:
    """Where the function falls through zero, as what is left of y on x does as b rises; the flattest such place."""
    from scipy.optimize import brentq

    falls = [k for k in range(len(at) - 1) if values[k] > 0 >= values[k + 1]]
    if not falls:
        return None
    k = min(falls, key=lambda k: abs(at[k]))
    return float(brentq(function, at[k], at[k + 1]))


def _end(excess: Callable[[float], float], at: Array, values: Array, start: float) -> float | None:
    """From `start` along `at`: the first place where `excess` is above zero; None if there is none."""
    from scipy.optimize import brentq

    onward = [k for k in range(len(at)) if (at[k] - start) * (at[-1] - at[0]) > 0]
    inside = start
    for k in onward:
        if values[k] > 0:
            return finite(float(brentq(excess, inside, at[k]))) if excess(inside) < 0 else finite(inside)
        inside = float(at[k])
    return None
