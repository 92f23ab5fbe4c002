"""Power of an A/B test: how likely so many users show a lift of this size. Read from a readout's own standard error.

power_curve(readout.row("moderate", "love_rate"), lifts=(0.05, 0.1), config=ReadoutConfig())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import ReadoutConfig

MULTIPLES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 25.0, 100.0)
ENOUGH_POWER_LIFTS = (0.02, 0.05, 0.1, 0.2)


def power_curve(
    row: Mapping[str, Any], config: ReadoutConfig, *, lifts: Sequence[float] = ENOUGH_POWER_LIFTS
) -> pl.DataFrame:
    """One row per relative lift and number of users (both arms): `lift`, `users`, `power` of the two-sided test.

    row: a row of the readout; its standard error shrinks with the square root of the users. Raises DataError where it
    states no minimum detectable effect (no events in an arm).
    """
    from scipy.stats import norm

    if row["mde"] is None:
        raise DataError(
            f"A/B readout: {row['metric']!r} of {row['candidate']!r} has no minimum detectable effect, expected events "
            "in both arms. Wait for reactions, or take a metric that has some."
        )
    critical = float(norm.ppf(0.5 + config.confidence / 2))
    error = row["mde"] / (critical + float(norm.ppf(config.plan.power)))
    users = np.array(MULTIPLES) * (row["n_control"] + row["n_treatment"])
    rows = []
    for lift in lifts:
        distance = abs(lift) / (error / np.sqrt(MULTIPLES))
        power = norm.cdf(distance - critical) + norm.cdf(-distance - critical)
        rows += [{"lift": float(lift), "users": round(n), "power": float(p)} for n, p in zip(users, power, strict=True)]
    return pl.DataFrame(rows)


def users_needed(row: Mapping[str, Any], lift: float) -> int | None:
    """Users in both arms together at which a lift of this size is found with the readout's power; None if unknown."""
    if row["mde"] is None or lift == 0:
        return None
    return int(np.ceil((row["n_control"] + row["n_treatment"]) * (row["mde"] / lift) ** 2))
