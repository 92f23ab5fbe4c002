"""Held-out rows: whether they can be evaluated at all, and the sample of them that is scored.

A holdout at the natural rate is mostly negatives, and may be larger than memory: labels are read first, texts only of
the rows that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.data import labelled_rows, labels_of, new_aside, pair_rows
from rluf_assets.rewards.encoding import Encoder
from rluf_assets.rewards.fitting import Encoding, encode_rows
from rluf_assets.rewards.model import encoder_of
from rluf_assets.rewards.set_aside import ROW, SetAside


@dataclass(frozen=True)
class HeldRows:
    """Held-out rows that can be scored, of `total`, with their token ids and an account of those that cannot."""

    rows: pl.DataFrame
    encoding: Encoding
    aside: SetAside
    total: int


def held_rows(held: pl.LazyFrame, config: RewardConfig, encoder: Encoder, *, seed: int) -> HeldRows:
    """The rows to score: for a signal all positives and a sample of negatives, for pairs all of them.

    Raises DataError as training does, before any training where it is called then (`check_held`).
    """
    # The margin only shapes the loss: held-out pairs need none.
    config = config.model_copy(update={"use_margin": False})
    if config.objective == "bradley_terry":
        frame = held.collect()
        total, aside = len(frame), new_aside(frame, "eval", config)
        rows = pair_rows(frame, "eval", config, aside)
    else:
        total, frame, unlabelled = sample_negatives(held, config, seed)
        aside = new_aside(frame, "holdout", config)
        aside.note(unlabelled, "no_label")
        aside.total += len(unlabelled)
        rows = labelled_rows(frame, "holdout", config, aside)
    rows, encoding, _ = encode_rows(rows, encoder, config, aside)
    return HeldRows(rows, encoding, aside, total)


def check_held(held: pl.LazyFrame, config: RewardConfig, base: str | Path, *, seed: int) -> None:
    """Raise DataError before any training if the held-out rows could not be evaluated afterwards.

    `base` is the folder that training starts from: its tokenizer tells which rows are too long.
    """
    held_rows(held, config, encoder_of(base, config.max_length), seed=seed)


def sample_negatives(holdout: pl.LazyFrame, config: RewardConfig, seed: int) -> tuple[int, pl.DataFrame, np.ndarray]:
    """The number of the holdout's rows; all its positives with a uniform sample of its negatives, in its order; and the
    numbers of the rows without a label.

    What a sampled negative stands for, 1/inclusion, is multiplied into `sample_weight`. Texts of other rows are not
    read. Raises DataError where only one class is there.
    """
    labels = labels_of(holdout, "holdout", config)
    unlabelled, is_positive = np.flatnonzero(np.isnan(labels)), labels > 0.5
    absent, negatives = np.flatnonzero(labels <= 0.5), config.evaluation.negatives
    if not is_positive.any() or not len(absent):
        known = labels[~np.isnan(labels)]
        found = f"all {len(known)} labels are {known[0]:g}" if len(known) else f"none of {len(labels)} rows has a label"
        raise DataError(f"holdout: {found}; figures need both classes. Hold out more rows.")
    few = len(absent) <= negatives
    drawn = absent if few else np.random.default_rng(seed).choice(absent, negatives, replace=False)
    kept = pl.Series(np.sort(np.concatenate([np.flatnonzero(is_positive), drawn])), dtype=pl.UInt32)
    rows = holdout.with_row_index(ROW).filter(pl.col(ROW).is_in(kept.implode())).collect(engine="streaming").sort(ROW)
    if not few:
        given = rows["sample_weight"].cast(pl.Float64) if "sample_weight" in rows.columns else pl.lit(1.0)
        factor = pl.when(pl.Series(is_positive[kept.to_numpy()])).then(1.0).otherwise(len(absent) / len(drawn))
        rows = rows.with_columns(sample_weight=given * factor)
    return len(labels), rows, unlabelled
