"""Held-out rows: whether they can be evaluated at all, and the sample of them that is scored.

A holdout at the natural rate is mostly negatives, and may be larger than memory: labels are read first, texts only of
the rows that are drawn.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.data import labels_of, pair_rows


def check_held(held: pl.LazyFrame, config: RewardConfig) -> None:
    """Raise DataError before any training if the held-out rows could not be evaluated afterwards."""
    if config.objective == "bradley_terry":
        pair_rows(held.collect(), "eval", config.model_copy(update={"use_margin": False}))
        return
    positives = labels_of(held, "holdout", config) > 0.5
    if positives.all() or not positives.any():
        raise DataError(
            f"holdout: all {len(positives)} labels are {positives[0]:g}; figures need both classes. Hold out more rows."
        )


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
