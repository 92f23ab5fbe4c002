"""The statistics every stage shares: cluster bootstrap, delta-method ratios, Fieller and Fisher intervals, corrections.

One resampling primitive: clusters' totals are resampled together, and every statistic (mean, ratio, relative change,
win rate) is a function of those totals, so paired quantities stay paired. Undefined figures are `None`, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rluf_assets.errors import DataError

Array = NDArray[np.float64]
# Resampled clusters held in memory at once (integers); bounds the bootstrap at about 100 MB.
BOOTSTRAP_CELLS = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; each is None where the data do not define it."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return "undefined" if self.value is None else f"{self.value:.4g} ({_shown(self.low)} to {_shown(self.high)})"


def resampled_totals(table: Array, *, resamples: int, seed: int) -> Array:
    """Totals of each column over clusters drawn with replacement: (clusters, columns) -> (resamples, columns).

    The cluster bootstrap: rows are clusters (users, prompts), columns their sums and counts.
    Raises DataError for an empty table or values that are not finite.
    """
    table = np.asarray(table, dtype=np.float64)
    clusters = table.shape[0]
    if clusters == 0:
        raise DataError("bootstrap: found no clusters (users or prompts), expected at least one. Check the inputs.")
    if not np.isfinite(table).all():
        raise DataError("bootstrap: found values that are not finite, expected sums and counts. Check the scores.")
    rng = np.random.default_rng(seed)
    totals = np.empty((resamples, table.shape[1]))
    step = max(1, BOOTSTRAP_CELLS // clusters)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(clusters, size=(rows, clusters))
        drawn += np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)
        totals[start : start + rows] = counts.astype(np.float64) @ table
    return totals


def bootstrap(
    table: Array, statistic: Callable[[Array], Array], *, resamples: int, seed: int, confidence: float
) -> list[Estimate]:
    """Percentile intervals of statistics of cluster totals.

    `statistic` maps totals (..., columns) to figures (..., k); returns k estimates. Undefined figures become None.
    """
    table = np.asarray(table, dtype=np.float64)
    replicates = resampled_totals(table, resamples=resamples, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.atleast_1d(statistic(table.sum(axis=0)))
        drawn = np.asarray(statistic(replicates)).reshape(resamples, -1)
    tail = (1 - confidence) / 2
    return [_estimate(value, drawn[:, k], tail) for k, value in enumerate(values)]


def _estimate(value: float, replicates: Array, tail: float) -> Estimate:
    """A resample may be undefined (empty denominator); if more than a tail of them are, so is the interval."""
    known = replicates[~np.isnan(replicates)]
    if not math.isfinite(value) or len(known) < len(replicates) * (1 - tail):
        return Estimate(finite(value), None, None)
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    return Estimate(finite(value), finite(low), finite(high))


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums over users, and each user's influence on it (the delta method's linearisation)."""

    value: float
    influence: Array

    @property
    def variance(self) -> float:
        users = len(self.influence)
        return float(np.sum(self.influence**2) * users / (users - 1)) if users > 1 else math.inf

    @property
    def degrees_of_freedom(self) -> float:
        return len(self.influence) - 1.0


def ratio_of_sums(numerator: Array, denominator: Array) -> Ratio | None:
    """R = sum(x)/sum(y) with influence (x_i - R y_i)/sum(y): Deng, Knoblich & Lu 2018 (arXiv 1803.06336), eq. 5.

    None if the denominator is zero.
    """
    total = float(denominator.sum())
    if total <= 0:
        return None
    value = float(numerator.sum()) / total
    return Ratio(value, (numerator - value * denominator) / total)


def welch(var_t: float, var_c: float, df_t: float, df_c: float) -> float:
    """Degrees of freedom of a difference of independent estimates (Welch-Satterthwaite); at least the smaller side's.

    Infinite where there is no variance to be unsure of.
    """
    if not (math.isfinite(var_t) and math.isfinite(var_c)) or var_t + var_c <= 0 or min(df_t, df_c) <= 0:
        return math.inf
    return (var_t + var_c) ** 2 / (var_t**2 / df_t + var_c**2 / df_c)


def fieller(
    treatment: float, control: float, var_t: float, var_c: float, cov: float = 0.0, *, confidence: float,
    df: float = math.inf,
) -> Estimate:  # fmt: skip
    """Relative lift treatment/control - 1 with Fieller's interval; df: degrees of freedom of the variances.

    It excludes zero exactly when the two-sided test of the difference rejects. None for the bounds where the control is
    not itself distinguishable from zero (the interval would be unbounded), and for all where the control is zero.
    """
    if control <= 0:
        return Estimate(None, None, None)
    difference, z2 = treatment - control, critical_value(confidence, df) ** 2
    lift = difference / control
    # Solved for the lift, not the ratio: (d - l c)^2 = z^2 Var(d - l c), so that the last term tests the difference.
    a = control**2 - z2 * var_c
    b = difference * control + z2 * (var_c - cov)
    c = difference**2 - z2 * (var_t + var_c - 2 * cov)
    if not (math.isfinite(a) and math.isfinite(c)) or a <= 0:
        return Estimate(lift, None, None)
    root = math.sqrt(max(b * b - a * c, 0.0))
    far = (b + math.copysign(root, b)) / a
    near = c / (a * far) if far != 0 else 0.0
    return Estimate(lift, min(near, far), max(near, far))


def difference_p_value(difference: float, variance: float, df: float = math.inf) -> float:
    """Two-sided p-value of a difference by Student's t (normal without df); 1 where there is no variance to judge by."""
    from scipy.stats import t

    if not math.isfinite(variance) or variance <= 0:
        return 1.0
    return float(2 * t.sf(abs(difference) / math.sqrt(variance), df))


def sequential_factor(observed: int, *, planned: int, confidence: float) -> float:
    """Half-width of an always-valid interval in standard errors: asymptotic confidence sequence with a normal mixture.

    Waudby-Smith et al. (arXiv 2103.06476), eq. 1, with the mixture tuned to be tightest at `planned` observations.
    """
    alpha = 1 - confidence
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned
    mass = observed * rho2
    return math.sqrt((mass + 1) / mass * (math.log(mass + 1) - 2 * math.log(alpha)))


def minimum_detectable_effect(standard_error: float, *, confidence: float, power: float) -> float:
    """Smallest true effect that a two-sided test at this standard error finds with the given power (normal)."""
    from scipy.stats import norm

    return (critical_value(confidence) + float(norm.ppf(power))) * standard_error


def pearson(x: Sequence[float], y: Sequence[float], *, confidence: float) -> Estimate:
    """Pearson's r with Fisher's interval; undefined below four points or without variation."""
    from scipy.stats import pearsonr

    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(None, None, None)
    result = pearsonr(x, y)
    interval = result.confidence_interval(confidence)
    return Estimate(float(result.statistic), finite(interval.low), finite(interval.high))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values; rejecting those below q keeps the false discovery rate at q."""
    from scipy.stats import false_discovery_control

    return [] if not len(p_values) else [float(p) for p in false_discovery_control(np.asarray(p_values))]


def paired_p_value(differences: Array) -> float:
    """Two-sided paired t-test; 1 where fewer than two pairs differ at all."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or np.ptp(differences) == 0:
        return 1.0
    return float(ttest_1samp(differences, 0.0).pvalue)


def finite(value: float | None) -> float | None:
    """The value as a plain float, or None if it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def critical_value(confidence: float, df: float = math.inf) -> float:
    """Two-sided critical value of Student's t; of the normal without df."""
    from scipy.stats import t

    return float(t.ppf(0.5 + confidence / 2, df))


def _shown(bound: float | None) -> str:
    return "?" if bound is None else f"{bound:.4g}"
