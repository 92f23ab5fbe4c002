"""The transport audit: on a candidate's own live replies, does P[signal] say what users did?

An evaluator that was right on past policies may be wrong on a new one, which was optimised against it. Where a candidate has
any live slice, the mean of what users did less what was predicted is held against a margin, relative to what was predicted:
an equivalence test (Schuirmann 1987, by the interval), clustered by user, and by reply where users share replies (Cameron,
Gelbach & Miller 2011). Replies of few loving users get exact Poisson limits of their number, so that no love in a small slice
is no proof that there is none. What P[signal] trained on is no part of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.clustering import Codes
from rluf_assets.evaluation.frames import require_columns
from rluf_assets.evaluation.stats import Array, Estimate, critical_value, finite

MIN_EVENTS = 10  # users who loved something below which the interval is an exact one
TRANSPORT: dict[str, Any] = {
    "candidate": pl.String, "users": pl.Int64, "replies": pl.Int64, "left_out": pl.Int64, "observed": pl.Float64,
    "expected": pl.Float64, "residual": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64, "why": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class LiveSlice:
    """Replies that users met: user_id, reply_id, label (0 or 1), live_probability; and users who were left out."""

    replies: pl.DataFrame
    left_out: int = 0


def transport_row(candidate: str, live: LiveSlice, confidence: float) -> dict[str, Any]:
    """One row of TRANSPORT. residual: observed over expected positives, less one; `why` says why a figure is null."""
    require_columns(f"live replies of {candidate}", live.replies, ("user_id", "reply_id", "label", "live_probability"))
    figures, ids = pl.col("label", "live_probability"), pl.col("user_id", "reply_id")
    frame = live.replies.with_columns(figures.cast(pl.Float64, strict=False), ids.cast(pl.String))
    row: dict[str, Any] = {
        "candidate": candidate, "users": frame["user_id"].n_unique(), "replies": frame.height, "left_out": live.left_out,
        "observed": None, "expected": None, "residual": None, "ci_low": None, "ci_high": None, "why": "",
    }  # fmt: skip
    possible = pl.col("label").is_in([0.0, 1.0]) & pl.col("live_probability").is_between(0.0, 1.0)
    bad = frame.height - frame.filter(possible, pl.all_horizontal(ids.is_not_null())).height
    if frame.is_empty():
        left = f", and {live.left_out:,} users were left out whom P[signal] knows" if live.left_out else ""
        return row | {"why": f"it has no live replies{left}"}
    if bad:
        of = f"{bad:,} of its {frame.height:,} live replies"
        return row | {"why": f"{of} have no user, no label or no probability as prediction"}
    label, predicted = frame["label"].to_numpy(), frame["live_probability"].to_numpy()
    row |= {"observed": float(label.mean()), "expected": float(predicted.mean())}
    if row["users"] < 2 or predicted.sum() <= 0:
        return row | {"why": "one user, or a prediction of nothing at all, says nothing about the others"}
    found = residual(label, predicted, _codes(frame["user_id"]), _codes(frame["reply_id"]), confidence)
    return row | {"residual": found.value, "ci_low": found.low, "ci_high": found.high}


def residual(label: Array, predicted: Array, user: Codes, reply: Codes, confidence: float) -> Estimate:
    """Sum of labels over sum of predictions, less one, with its interval. user, reply: codes from 0."""
    expected = float(predicted.sum())
    value = float(label.sum()) / expected - 1
    influence = (label - (1 + value) * predicted) / expected
    pair = np.unique(user * (int(reply.max()) + 1) + reply, return_inverse=True)[1].astype(np.int64)
    variance = max(_clustered(influence, user), _clustered(influence, user) + _clustered(influence, reply)
                   - _clustered(influence, pair))  # fmt: skip
    clusters = min(int(user.max()), int(reply.max())) + 1
    half = critical_value(confidence, max(clusters - 1, 1)) * math.sqrt(variance)
    low, high = value - half, value + half
    loving = np.unique(user[label > 0]).size
    if loving < MIN_EVENTS:
        least, most = _poisson_limits(loving, confidence)
        each = float(label.sum()) / max(loving, 1) if loving else 1.0
        low, high = min(low, each * least / expected - 1), max(high, each * most / expected - 1)
    return Estimate(finite(value), finite(low), finite(high))


def _clustered(influence: Array, cluster: Codes) -> float:
    sums = np.bincount(cluster, weights=influence)
    count = len(np.unique(cluster))
    return float(sums @ sums) * count / max(count - 1, 1)


def _poisson_limits(count: int, confidence: float) -> tuple[float, float]:
    """Exact limits of a Poisson mean (Garwood 1936)."""
    from scipy.stats import chi2

    tail = (1 - confidence) / 2
    low = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(1 - tail, 2 * count + 2)) / 2


def _codes(ids: pl.Series) -> Codes:
    return np.asarray(ids.cast(pl.String).rank("dense").cast(pl.Int64).to_numpy() - 1)
