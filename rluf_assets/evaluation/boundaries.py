"""Boundaries of a test that is looked at at planned times: Lan & DeMets' alpha spending, by recursive integration.

    critical_values((0.2, 0.4, 0.6, 0.8, 1.0))      # 4.877, 3.357, 2.680, 2.290, 2.031, as published

At each look the interval of estimate +- critical value x standard error covers the truth at all looks together with the
confidence asked (Jennison & Turnbull's repeated confidence intervals). No library kept for Python does this; the method
is that of Armitage, McPherson & Rowe (1969): the density of the score that has not yet crossed is carried from look to
look on a grid. Tests hold it against the tables of Jennison & Turnbull and of gsDesign.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.stats import Array

Spending = Literal["obrien_fleming", "pocock"]
POINTS = 801  # of the grid at each look; 401 already give four digits
REACH = 8.0  # standard deviations beyond which nothing happens
NEVER = 8.0  # a look that may spend nothing yet


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """Share of a one-sided alpha that may be spent when this fraction of the planned information is in."""
    from scipy.stats import norm

    time = min(fraction, 1.0)
    if time <= 0:
        return 0.0
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * time)
    return float(2 * norm.sf(norm.isf(alpha / 2) / math.sqrt(time)))


@lru_cache(maxsize=512)
def critical_values(
    looks: tuple[float, ...], *, alpha: float = 0.05, spending: Spending = "obrien_fleming"
) -> tuple[float, ...]:
    """Two-sided critical values of z at each look; looks: fractions of the planned information, rising.

    Each side spends half of alpha. Raises ConfigError for looks that do not rise from above 0 to at most 1.
    """
    from scipy.stats import norm

    if not looks or any(not 0 < t <= 1 for t in looks) or any(b <= a for a, b in pairwise(looks)):
        raise ConfigError(f"looks {looks}: expected fractions that rise, above 0 and at most 1, as 0.5, 1.0.")
    side, before, last = alpha / 2, 0.0, 0.0
    grid = density = np.empty(0)
    found: list[float] = []
    for time in looks:
        share = max(spent(time, side, spending) - before, 1e-15)
        value = _bound(grid, density, share, time, time - last) if found else float(norm.isf(share))
        found.append(min(value, NEVER))
        grid, density = _carried(grid, density, found[-1] * math.sqrt(time), time, time - last)
        before, last = before + share, time
    return tuple(found)


def _bound(grid: Array, density: Array, share: float, time: float, step: float) -> float:
    """The critical value that exactly this share crosses now, of those that have not crossed before."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def crossing(z: float) -> float:
        beyond = norm.sf((z * math.sqrt(time) - grid) / math.sqrt(step))
        return float(np.trapezoid(density * beyond, grid)) - share

    return float(brentq(crossing, -1.0, 12.0))


def _carried(grid: Array, density: Array, bound: float, time: float, step: float) -> tuple[Array, Array]:
    """Density of the score at this look, below its bound."""
    from scipy.stats import norm

    new = np.linspace(-REACH * math.sqrt(time), bound, POINTS)
    if not len(grid):
        return new, np.asarray(norm.pdf(new, scale=math.sqrt(time)))
    kernel = norm.pdf(new[:, None], loc=grid[None, :], scale=math.sqrt(step))
    return new, np.asarray(np.trapezoid(kernel * density[None, :], grid, axis=1))
