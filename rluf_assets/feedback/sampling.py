"""Reproducible sampling: every row's number in [0, 1) comes from its id and the seed, never from row order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


def stable_uniform(column: str, seed: int) -> pl.Expr:
    """Expression: a number in [0, 1) per string id, the same on every machine and library version."""

    def draw(ids: pl.Series) -> pl.Series:
        return pl.Series(ids.name, uniforms(ids, seed))

    return pl.col(column).map_batches(draw, return_dtype=pl.Float64, is_elementwise=True)


def reply_uniform(seed: int) -> pl.Expr:
    """Expression: a number in [0, 1) per message, which is known by its conversation and id."""
    key = pl.concat_str("conversation_id", "message_id", separator="/", ignore_nulls=True)
    return key.map_batches(
        lambda ids: pl.Series(ids.name, uniforms(ids, seed)), return_dtype=pl.Float64, is_elementwise=True
    )


def uniforms(ids: pl.Series, seed: int) -> NDArray[np.float64]:
    """[rows] numbers in [0, 1): SplitMix64 over the id's bytes, eight at a time, started from seed and length."""
    if ids.is_empty():
        return np.zeros(0)
    encoded = ids.cast(pl.Binary).fill_null(b"")
    lengths = encoded.bin.size().to_numpy().astype(np.uint64)
    width = max(8, -(-int(lengths.max()) // 8) * 8)
    words = np.array(encoded.to_list(), dtype=f"S{width}").view("<u8").reshape(len(ids), width // 8)
    with np.errstate(over="ignore"):
        state = _mixed(np.uint64(seed % 2**64) * _STEP + lengths)
        for nth in range(words.shape[1]):
            # Past its end an id adds nothing, so that the batch's longest id has no say.
            state = np.where(lengths > np.uint64(8 * nth), _mixed((state + _STEP) ^ words[:, nth]), state)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def exact_counts(positives: int, negatives: int, target: float, max_rows: int) -> tuple[int, int]:
    """Largest (positives, negatives) to keep whose share of positives is exactly `target`, within what there is."""
    share = Fraction(target).limit_denominator(1000)
    ones, zeros = share.numerator, share.denominator - share.numerator
    blocks = min(positives // ones, negatives // zeros, max_rows // share.denominator)
    return ones * blocks, zeros * blocks


def thinned(weights: Floats, order: Floats, n: int, start: float) -> Floats:
    """[rows] new weights, of which at most `n` are above zero; their sum, and the mean of each over draws, are kept.

    Systematic sampling with probabilities proportional to size (Madow 1949): what is heavier than the step is kept as
    it is; of the others, laid end to end by `order` (numbers drawn for the rows), one is kept at every step from
    `start` (a number in [0, 1)) on.
    """
    if len(weights) <= n:
        return weights
    heavy = np.zeros(len(weights), dtype=bool)
    step = weights.sum() / n
    while (more := (weights >= step) & ~heavy).any():
        heavy |= more
        step = weights[~heavy].sum() / (n - heavy.sum())
    rest = np.flatnonzero(~heavy)
    rest = rest[np.argsort(order[rest], kind="stable")]
    ends = np.cumsum(weights[rest])
    hit = np.searchsorted(ends, (np.arange(n - heavy.sum()) + start) * step, side="right")
    found = np.where(heavy, weights, 0.0)
    found[rest[np.minimum(hit, len(rest) - 1)]] = step
    return found


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX[0]
    state = (state ^ (state >> np.uint64(27))) * _MIX[1]
    return state ^ (state >> np.uint64(31))
