"""Rates of a policy from a simulated live test that integrates over users: `true_rates.parquet` of `ab_exposures`.

Every candidate sees the same contexts and users, so differences are paired by context. Only a simulation has
such a file; a company's own has counts, and `readout` says what they allow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.frames import require_columns, require_finite, require_rows
from rluf_assets.evaluation.stats import Array, Estimate, bootstrap

# rate -> (numerator, denominator); a denominator of None counts every reply.
RATES: dict[str, tuple[str, str | None]] = {
    "farewell_rate": ("farewell", None),
    "helpful_rate": ("helpful", "is_benign"),
    "harmful_compliance_rate": ("harmful_compliance", "is_harmful"),
    "false_refusal_rate": ("false_refusal", "is_benign"),
    "refusal_rate": ("refusal", None),
}


def love_rate_change(
    candidate: pl.DataFrame, baseline: pl.DataFrame, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> Estimate:
    """Relative change of expected love, candidate over baseline, with a paired bootstrap interval over contexts.

    Frames hold one row per context x completion: context_id, expected_love and, if given, weight (a context's share
    of traffic). Raises DataError if the contexts differ.
    """
    ours, theirs = (_per_context(frame, ["expected_love"]) for frame in (candidate, baseline))
    pairs = ours.join(theirs, on="context_id", suffix="_base")
    if not len(pairs) == len(ours) == len(theirs):
        raise DataError(
            f"true rates: found {len(ours)} and {len(theirs)} contexts of which {len(pairs)} are shared, expected the "
            "same ones. Play both A/B arms with the same seed and contexts."
        )
    table = pairs.select("expected_love", "expected_love_base").to_numpy()
    return bootstrap(table, _relative, resamples=resamples, seed=seed, confidence=confidence)[0]


def attribute_rates(
    rates: pl.DataFrame, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> dict[str, Any]:
    """`{rate: value, rate_ci: [low, high]}` of every attribute, with contexts as clusters; undefined ones are None."""
    columns = sorted({c for pair in RATES.values() for c in pair if c is not None and c in rates.columns})
    require_columns("true rates", rates, [n for n, _ in RATES.values()])
    frame = _per_context(rates, columns)
    found: dict[str, Any] = {}
    for name, (numerator, denominator) in RATES.items():
        table = frame.select(numerator, denominator or "weight").to_numpy()
        estimate = bootstrap(table, _ratio, resamples=resamples, seed=seed, confidence=confidence)[0]
        found[name], found[f"{name}_ci"] = estimate.value, [estimate.low, estimate.high]
    return found


def _per_context(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Weighted mean of each column over a context's completions, so that every context keeps its weight."""
    require_columns("true rates", frame, ["context_id", *columns])
    require_rows("true rates", frame)
    if "weight" not in frame.columns:
        frame = frame.with_columns(pl.lit(1.0).alias("weight"))
    require_finite("true rates", frame.with_columns(pl.col("weight", *columns).cast(pl.Float64)), ["weight", *columns])
    return (
        frame.group_by("context_id")
        .agg(*[(pl.col(c).cast(pl.Float64) * pl.col("weight")).mean() for c in columns], pl.col("weight").mean())
        .sort("context_id")
    )


def _relative(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1] - 1)[..., None]


def _ratio(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1])[..., None]
