"""Reliability of P[signal] on the natural-rate holdout: mean prediction against observed rate, bin by bin.

Rows are weighted by the inverse of their inclusion probability (all positives and a sample of negatives are scored).
Intervals are exact Poisson ones on the number of positives: with rates near 0.1% that is the binomial's limit.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from rluf_assets.evaluation.frames import require_columns, require_finite, require_rows


def reliability(scores: pl.DataFrame, *, bins: int = 8, confidence: float = 0.95) -> pl.DataFrame:
    """One row per bin: predicted, observed, low, high, replies (weighted), positives.

    scores: label, weight, live_probability (`holdout_scores.parquet`). Bins hold equal numbers of positives, so that
    each observed rate is known about equally well; fewer bins where positives are few.
    """
    from scipy.stats import chi2

    require_columns("holdout_scores", scores, ("label", "weight", "live_probability"))
    require_rows("holdout_scores", scores)
    frame = scores.select(
        pl.col("label").cast(pl.Float64), pl.col("weight").cast(pl.Float64), pl.col("live_probability").cast(pl.Float64)
    )
    require_finite("holdout_scores", frame, frame.columns)
    frame = frame.sort("live_probability")
    positives = frame.filter(pl.col("label") > 0)["live_probability"].to_numpy()
    count = max(1, min(bins, len(positives) // 10))
    cuts = np.unique(np.quantile(positives, np.linspace(0, 1, count + 1)[1:-1])) if len(positives) else np.array([])
    frame = frame.with_columns(
        pl.Series("bin", np.searchsorted(cuts, frame["live_probability"].to_numpy(), side="right"))
    )
    weight, label = pl.col("weight"), pl.col("label")
    table = frame.group_by("bin").agg(
        ((weight * pl.col("live_probability")).sum() / weight.sum()).alias("predicted"),
        weight.sum().alias("replies"),
        (label > 0).sum().alias("positives"),
        ((weight * label).sum() / weight.sum()).alias("observed"),
        (weight * label).sum().alias("weighted_positives"),
    )
    table = table.sort("bin")
    found = table["positives"].to_numpy().astype(float)
    tail = (1 - confidence) / 2
    scale = (
        np.where(found > 0, table["weighted_positives"].to_numpy() / np.maximum(found, 1), 1.0)
        / table["replies"].to_numpy()
    )
    low = np.where(found > 0, chi2.ppf(tail, 2 * np.maximum(found, 1)) / 2, 0.0) * scale
    high = chi2.ppf(1 - tail, 2 * found + 2) / 2 * scale
    return table.with_columns(pl.Series("low", low), pl.Series("high", high)).select(
        "predicted", "observed", "low", "high", "replies", "positives"
    )
