"""Novelty: does an A/B test's effect wear off, or grow, over the days after a user's first exposure?

From the exposed replies (one row each with `day`). A lift that users only show on their first days is curiosity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.clustering import reply_log
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, measured

DAY_SCHEMA: dict[str, Any] = {
    "candidate": pl.String, "metric": pl.String, "day": pl.Int64, "lift": pl.Float64, "ci_low": pl.Float64,
    "ci_high": pl.Float64, "users": pl.Int64,
}  # fmt: skip
Compare = Callable[[Metric, Arm, Arm], Mapping[str, Any] | None]


def part_of(name: str, arm: Arm, condition: pl.Expr) -> Arm | None:
    """The arm as if only the exposures that meet a condition had happened; None without any."""
    if arm.log is None:
        return None
    frame = arm.log.frame.filter(condition)
    if frame.is_empty():
        return None
    counts = [c for c, kind in frame.schema.items() if c != "day" and kind.is_numeric()]
    before = [c for c in arm.users.columns if c.startswith("pre_")]
    users = frame.group_by("user_id").agg(pl.col(counts).cast(pl.Float64).sum()).sort("user_id")
    users = users.join(arm.users.select("user_id", *before), on="user_id", how="left", maintain_order="left")
    return Arm(users, reply_log(name, frame, users))


def lift_by_day(name: str, arm: Arm, base: Arm, config: ReadoutConfig, compare: Compare) -> pl.DataFrame:
    """One row per goal metric and day since first exposure (DAY_SCHEMA); none without days in the exposed replies."""
    rows: list[dict[str, Any]] = []
    logs = [a.log for a in (arm, base) if a.log is not None and "day" in a.log.frame.columns]
    days = sorted(set(logs[0].frame["day"]) & set(logs[1].frame["day"])) if len(logs) == 2 else []
    for day in days:
        parts = [part_of(name, a, pl.col("day") == day) for a in (arm, base)]
        if parts[0] is None or parts[1] is None:
            continue
        for metric in measured(config.judged, parts[0].users, parts[1].users):
            row = compare(metric, parts[0], parts[1]) if metric.role == "goal" else None
            if row is not None:
                users = row["n_control"] + row["n_treatment"]
                figures = {k: row[k] for k in ("metric", "lift", "ci_low", "ci_high")}
                rows.append({"candidate": name, "day": day, "users": users, **figures})
    return pl.DataFrame(rows, schema=DAY_SCHEMA)


def novelty_check(
    name: str, days: pl.DataFrame, overall: Sequence[Mapping[str, Any]], config: ReadoutConfig
) -> dict[str, Any] | None:
    """A check of the goal metric's trend: weighted regression of the daily lifts on the day; None without a trend line.

    Fails where the trend is real and the later half of the days has the other sign than the whole: what the test shows in
    all is then not what users would get. The days' errors count as independent, so the interval is a little off where the
    same users come back daily.
    """
    from scipy.stats import norm

    known = days.drop_nulls(["lift", "ci_low", "ci_high"]).filter(pl.col("ci_high") > pl.col("ci_low"))
    if known["day"].n_unique() < 3:
        return None
    z = float(norm.ppf(0.5 + config.confidence / 2))
    x, y = known["day"].cast(pl.Float64).to_numpy(), known["lift"].to_numpy()
    weight = ((known["ci_high"] - known["ci_low"]).to_numpy() / (2 * z)) ** -2.0
    centred = x - np.average(x, weights=weight)
    spread = float(np.sum(weight * centred**2))
    slope, half = float(np.sum(weight * centred * y)) / spread, z / np.sqrt(spread)
    flat = slope - half <= 0 <= slope + half
    note = f"the lift changes by {slope:+.1%} a day ({slope - half:+.1%} to {slope + half:+.1%})"
    if flat:
        return {"candidate": name, "check": "novelty", "verdict": "ok", "note": note + ": no sign that it wears off"}
    late = x > (x.min() + x.max()) / 2
    last = float(np.average(y[late], weights=weight[late]))
    lifts = [r["lift"] for r in overall if r["role"] == "goal" and r["lift"] is not None]
    turned = any(lift * last < 0 for lift in lifts)
    told = f": in the later half of the days it is {last:+.1%}" if turned else ": read the days one by one"
    return {"candidate": name, "check": "novelty", "verdict": "fail" if turned else "warn", "note": note + told}
