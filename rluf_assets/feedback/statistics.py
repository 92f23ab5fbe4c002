"""The few interval estimates the audit needs, clustered by user: one user's replies are not independent."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure and its confidence interval; nan where the data cannot tell."""

    value: float
    low: float
    high: float


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def correlation(x: Floats, y: Floats, cluster: NDArray[np.integer], confidence: float) -> Estimate:
    """Pearson's r with a cluster-robust interval (influence function of r, summed within clusters).

    psi_i = zx zy - r (zx^2 + zy^2) / 2; se = sqrt(sum_c (sum_{i in c} psi_i)^2) / n.
    """
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return NOTHING
    zx, zy = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    r = float(np.mean(zx * zy))
    influence = zx * zy - r * (zx**2 + zy**2) / 2
    return _normal(r, _clustered_se(influence, cluster), confidence, -1, 1)


def partial_correlation(
    x: Floats, y: Floats, controls: Floats, cluster: NDArray[np.integer], confidence: float
) -> Estimate:
    """Correlation of what is left of x and y ([n]) after a linear fit on `controls` ([n, k]) and a constant."""
    if len(x) < controls.shape[1] + 3:
        return NOTHING
    design = np.column_stack([np.ones(len(x)), controls])
    # Normal equations: a handful of columns, so this is exact enough and one pass over the rows.
    gram = design.T @ design
    rest = [column - design @ np.linalg.lstsq(gram, design.T @ column, rcond=None)[0] for column in (x, y)]
    if min(rest[0].std() / (x.std() or 1), rest[1].std() / (y.std() or 1)) < 1e-9:
        return NOTHING
    return correlation(rest[0], rest[1], cluster, confidence)


def ratio(part: Floats, whole: Floats, confidence: float) -> Estimate:
    """sum(part) / sum(whole) over independent users ([users]) with the linearised interval of a ratio."""
    total = whole.sum()
    if total == 0:
        return NOTHING
    rate = float(part.sum() / total)
    return _normal(rate, float(np.sqrt(np.sum((part - rate * whole) ** 2)) / total), confidence, 0, 1)


def proportion(successes: int, trials: int, confidence: float) -> Estimate:
    """A share with Wilson's interval."""
    if trials == 0:
        return NOTHING
    z, share = _z(confidence), successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    return Estimate(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _clustered_se(influence: Floats, cluster: NDArray[np.integer]) -> float:
    sums = np.bincount(cluster, weights=influence)
    return float(np.sqrt(np.sum(sums**2)) / len(influence))


def _normal(value: float, se: float, confidence: float, low: float, high: float) -> Estimate:
    half = _z(confidence) * se
    return Estimate(value, max(low, value - half), min(high, value + half))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
