"""Is an A/B test sound? Sample ratio, users in both arms, one user's traffic, shared replies, what was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, metric_columns

CHECK_SCHEMA = {"candidate": pl.String(), "check": pl.String(), "verdict": pl.String(), "note": pl.String()}


def check_test(name: str, arms: Mapping[str, Arm], config: ReadoutConfig) -> list[dict[str, Any]]:
    """Checks of the test itself: sample ratio, users in both arms, traffic held by one user, metrics not measured."""
    from scipy.stats import chisquare

    arm, base = arms[name].users, arms[config.baseline].users
    counts = np.array([len(arm), len(base)])
    shares = np.array([config.planned_shares.get(n, 1.0) for n in (name, config.baseline)])
    expected = counts.sum() * shares / shares.sum()
    p_value = float(chisquare(counts, expected).pvalue)
    overlap = arm.join(base, on="user_id", how="semi").height
    replies = [a.values("replies") for a in (arms[name], arms[config.baseline])]
    heaviest = max(float(r.max() / max(r.sum(), 1.0)) for r in replies)
    missing = [m.name for m in config.metrics if not (metric_columns(arm, m) and metric_columns(base, m))]
    shared = arms[name].log is not None and arms[config.baseline].log is not None
    silent = [
        m.name for m in config.metrics if m.name not in missing and _no_events(m, arms[name], arms[config.baseline])
    ]
    return [
        _check(
            name, "sample_ratio", p_value >= config.srm_p_value,
            f"{counts[0]} users in the arm, {counts[1]} in the baseline's (p = {p_value:.3g})",
        ),
        _check(
            name, "users_in_one_arm", overlap == 0,
            f"{overlap} users are in both arms" + (": compared as pairs" if overlap else ""), fails="warn",
        ),
        _check(
            name, "traffic_spread", heaviest <= config.max_user_share,
            f"the heaviest user holds {heaviest:.1%} of an arm's replies", fails="warn",
        ),
        _check(
            name, "replies_shared", True,
            f"users share {_distinct(arms[name])} replies: intervals are clustered by user and by reply" if shared
            else "every exposure counts as a reply of its own: intervals are clustered by user",
        ),
        _check(
            name, "metrics_measured", not missing,
            f"not in the exposures: {', '.join(missing)}" if missing else "all metrics are measured", fails="info",
        ),
        _check(
            name, "events_in_both_arms", not silent,
            f"no events in an arm, no lift stated: {', '.join(silent)}" if silent else "every metric has events",
            fails="warn",
        ),
    ]  # fmt: skip


def _distinct(arm: Arm) -> int:
    return 0 if arm.log is None else int(arm.log.frame["reply_id"].n_unique())


def _no_events(metric: Metric, arm: Arm, base: Arm) -> bool:
    return any(a.values(metric.numerator).sum() == 0 for a in (arm, base))


def _check(candidate: str, check: str, passed: bool, note: str, fails: str = "fail") -> dict[str, Any]:
    return {"candidate": candidate, "check": check, "verdict": "ok" if passed else fails, "note": note}
