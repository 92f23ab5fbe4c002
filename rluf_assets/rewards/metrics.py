"""Discrimination and calibration on weighted rows, each figure with an interval that resamples whole users.

Rows carry weights because negatives of a natural-rate holdout are scored as a sample (1/inclusion). Plain NumPy: every
statistic takes a matrix of row weights (resamples, rows), so a bootstrap is a few array operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from scipy.stats import chi2, norm

Estimate = tuple[float, list[float]]
Statistic = Callable[[np.ndarray], np.ndarray]
# Cells of the weight matrix in memory at once (float64).
CHUNK_CELLS = 20_000_000


@dataclass(frozen=True)
class Clusters:
    """Percentile intervals from resampling clusters (users) with replacement, seeded."""

    codes: np.ndarray
    weights: np.ndarray
    resamples: int = 200
    confidence: float = 0.95
    seed: int = 0

    @classmethod
    def of(cls, groups: np.ndarray, weights: np.ndarray, **options: float) -> Clusters:
        """Clusters of rows with equal `groups` values; shapes (rows,)."""
        codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
        return cls(codes, np.asarray(weights, np.float64), **options)  # type: ignore[arg-type]

    def inside(self, chosen: np.ndarray) -> Clusters:
        """The clusters of some rows alone; `chosen` is a mask of shape (rows,)."""
        options = {"resamples": self.resamples, "confidence": self.confidence, "seed": self.seed}
        return Clusters.of(self.codes[chosen], self.weights[chosen], **options)

    def estimate(self, statistic: Statistic) -> Estimate:
        """The statistic on the rows as they are, and its interval; resamples that lack a class are left out."""
        value = float(statistic(self.weights[None])[0])
        draws = np.concatenate([statistic(weights) for weights in self._resampled()])
        draws = draws[np.isfinite(draws)]
        if not len(draws) or not np.isfinite(value):
            return value, [float("nan"), float("nan")]
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return value, [float(low), float(high)]

    def _resampled(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(self.seed)
        clusters = int(self.codes.max()) + 1
        at_once = max(1, min(self.resamples, CHUNK_CELLS // max(len(self.codes), clusters)))
        for start in range(0, self.resamples, at_once):
            count = min(at_once, self.resamples - start)
            drawn = generator.integers(0, clusters, (count, clusters)) + np.arange(count)[:, None] * clusters
            times = np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters)
            yield times[:, self.codes] * self.weights


class RankStatistics:
    """AUROC and average precision of one score for any row weights; ties count half."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")
        self._order = order
        self._starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
        self._positive = np.asarray(labels, bool)[order]

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Probability that a positive outscores a negative; weights (resamples, rows) -> (resamples,)."""
        positives, negatives = self._mass(weights)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Mean precision over the positives, each at its own score as the threshold."""
        positives, negatives = self._mass(weights)
        above = [np.cumsum(mass[:, ::-1], axis=1)[:, ::-1] for mass in (positives, negatives)]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = above[0] / (above[0] + above[1])
            return np.where(positives > 0, positives * precision, 0).sum(1) / positives.sum(1)

    def _mass(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ordered = weights[:, self._order]
        return tuple(  # type: ignore[return-value]
            np.add.reduceat(ordered * mask, self._starts, axis=1) for mask in (self._positive, ~self._positive)
        )


def weighted_mean(values: np.ndarray) -> Statistic:
    """Statistic: the weighted mean of per-row values."""
    return lambda weights: weights @ values / weights.sum(1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """Statistic: the ratio of two weighted sums; NaN where the second is zero."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ numerator) / (weights @ denominator))

    return statistic


def correlation(a: np.ndarray, b: np.ndarray) -> Statistic:
    """Statistic: weighted Pearson correlation; NaN where a side is constant."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        shares = weights / weights.sum(1, keepdims=True)
        mean_a, mean_b = shares @ a, shares @ b
        covariance = shares @ (a * b) - mean_a * mean_b
        spread = (shares @ (a * a) - mean_a**2) * (shares @ (b * b) - mean_b**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(spread > 1e-12, covariance / np.sqrt(np.maximum(spread, 0)), np.nan)

    return statistic


def log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per-row cross-entropy, probabilities kept off 0 and 1 by 1e-12."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def poisson_interval(count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval for the mean of a Poisson count (Garwood 1936)."""
    tail = (1 - confidence) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count > 0 else 0.0
    return float(low), float(chi2.ppf(1 - tail, 2 * (count + 1)) / 2)


def observed_over_expected(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, confidence: float = 0.95
) -> Estimate:
    """Positives seen over positives predicted, with the Poisson interval of the count seen (positives weigh 1)."""
    observed, expected = float((weights * labels).sum()), float((weights * probabilities).sum())
    low, high = poisson_interval(observed, confidence)
    return observed / expected, [low / expected, high / expected]


def calibration_slope(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, groups: np.ndarray, confidence: float = 0.95
) -> tuple[Estimate, Estimate]:
    """Slope and intercept of a logistic regression of the label on logit(p) (Cox 1958): 1 and 0 when calibrated.

    Weighted maximum likelihood with a sandwich variance clustered by `groups`.
    """
    x = logit(np.clip(probabilities, 1e-12, 1 - 1e-12))
    design = np.stack([np.ones_like(x), x - np.average(x, weights=weights)], axis=1)
    beta = np.array([logit(np.clip(np.average(labels, weights=weights), 1e-9, 1 - 1e-9)), 1.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -50, 50)))
        information = (design * (weights * p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (weights * (labels - p)))
        except np.linalg.LinAlgError:
            return (float("nan"), [float("nan")] * 2), (float("nan"), [float("nan")] * 2)
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    scores = design * (weights * (labels - p))[:, None]
    codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
    summed = np.stack([np.bincount(codes, column) for column in scores.T], axis=1)
    # Back to the uncentred design, whose intercept is the log odds at p = 1/2's logit, 0.
    back = np.array([[1.0, -np.average(x, weights=weights)], [0.0, 1.0]])
    inverse = back @ np.linalg.inv(information)
    variance = inverse @ (summed.T @ summed) @ inverse.T
    z = norm.ppf(1 - (1 - confidence) / 2)
    intercept, slope = back @ beta
    errors = z * np.sqrt(np.diag(variance))
    return (
        (float(slope), [float(slope - errors[1]), float(slope + errors[1])]),
        (float(intercept), [float(intercept - errors[0]), float(intercept + errors[0])]),
    )


def equal_mass_bins(probabilities: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Bin index of each row, 0 to bins - 1, so that bins hold about equal weight; equal probabilities stay together."""
    _, inverse = np.unique(probabilities, return_inverse=True)
    mass = np.bincount(inverse.reshape(-1), weights)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.minimum((middle * bins).astype(int), bins - 1)[inverse.reshape(-1)]
