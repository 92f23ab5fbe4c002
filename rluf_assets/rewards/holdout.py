"""Held-out rows: whether they can be evaluated at all, and the sample of them that is scored.

A holdout at the natural rate is mostly negatives, and may be larger than memory: labels are read first, texts only of
the rows that are drawn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.data import labelled_rows, labels_of, pair_rows
from rluf_assets.rewards.encoding import Encoded, Encoder
from rluf_assets.rewards.model import encoder_of


def check_held(held: pl.LazyFrame, config: RewardConfig, base: str | Path, *, seed: int) -> None:
    """Raise DataError before any training if the held-out rows could not be evaluated afterwards.

    `base` is the folder that training starts from: its tokenizer tells which rows are too long.
    """
    if config.objective == "bradley_terry":
        rows = pair_rows(held.collect(), "eval", config.model_copy(update={"use_margin": False}))
        sides = ("chosen", "rejected")
    else:
        positives = labels_of(held, "holdout", config) > 0.5
        if positives.all() or not positives.any():
            raise DataError(
                f"holdout: all {len(positives)} labels are {positives[0]:g}; figures need both classes. "
                "Hold out more rows."
            )
        lenient = config.model_copy(update={"on_empty_completion": "drop"})
        rows, sides = labelled_rows(sample_negatives(held, lenient, seed)[1], "holdout", lenient), ("completion",)
    encoder = encoder_of(base, config.max_length)
    for side in sides:
        encode_held(encoder, rows, side, config)


def encode_held(encoder: Encoder, rows: pl.DataFrame, column: str, config: RewardConfig) -> Encoded:
    """Token ids of held-out rows' prompts and replies (`column`). Raises DataError where too long a row is an error."""
    encoded = encoder.encode(rows["prompt"].to_list(), rows[column].to_list())
    if encoded.too_long.any() and config.on_too_long == "error":
        raise DataError(
            f"holdout: {int(encoded.too_long.sum())} of {len(rows)} rows do not fit {encoder.max_length} tokens "
            "even with one turn. Raise max_length, or set on_too_long: drop."
        )
    return encoded


def sample_negatives(holdout: pl.LazyFrame, config: RewardConfig, seed: int) -> tuple[int, pl.DataFrame]:
    """The holdout's rows; and all its positives with a uniform sample of its negatives, in its order.

    What a sampled negative stands for, 1/inclusion, is multiplied into `sample_weight`. Texts of other rows are not
    read.
    """
    is_positive = labels_of(holdout, "holdout", config) > 0.5
    absent, negatives = np.flatnonzero(~is_positive), config.evaluation.negatives
    if len(absent) <= negatives:
        return len(is_positive), holdout.collect()
    chosen = np.random.default_rng(seed).choice(absent, negatives, replace=False)
    kept = pl.Series(np.sort(np.concatenate([np.flatnonzero(is_positive), chosen])), dtype=pl.UInt32)
    rows = holdout.with_row_index("row").filter(pl.col("row").is_in(kept.implode())).collect(engine="streaming")
    rows = rows.sort("row").drop("row")
    given = rows["sample_weight"].cast(pl.Float64) if "sample_weight" in rows.columns else pl.lit(1.0)
    factor = pl.when(pl.Series(is_positive[kept.to_numpy()])).then(1.0).otherwise(len(absent) / negatives)
    return len(is_positive), rows.with_columns(sample_weight=given * factor)
