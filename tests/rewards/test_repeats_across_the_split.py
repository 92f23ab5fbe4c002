"""A holdout row whose text training saw tells of memory, not of foresight: AUROC without such rows, and users apart."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from rluf_assets.rewards.evaluation import _without_repeats, slice_columns
from rluf_assets.rewards.metrics import Clusters


def _holdout(n: int = 400) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels, seen = (rng.random(n) < 0.3).astype(float), rng.random(n) < 0.4
    logits = rng.standard_normal(n) + np.where(seen, 8 * labels, 0.5 * labels)  # what was seen is known by heart
    rows = pl.DataFrame({"text_in_train": seen, "completion": "x", "user_group": ["new", "established"] * (n // 2)})
    return rows, logits, labels


def test_auroc_without_what_training_saw() -> None:
    rows, logits, labels = _holdout()
    clusters = Clusters.of(np.arange(400) % 50, np.ones(400), resamples=200, confidence=0.95, seed=0)
    found = _without_repeats(rows, logits, labels, clusters)
    fresh = ~rows["text_in_train"].to_numpy()
    assert found["rows_repeated_in_train"] == (~fresh).sum()
    assert found["auroc_without_repeats"] == pytest.approx(roc_auc_score(labels[fresh], logits[fresh]))
    low, high = found["auroc_without_repeats_ci"]
    assert low < found["auroc_without_repeats"] < high < roc_auc_score(labels, logits)
    everything = _without_repeats(rows.with_columns(text_in_train=pl.lit(True)), logits, labels, clusters)
    assert everything["auroc_without_repeats"] is None and everything["rows_repeated_in_train"] == 400
    assert _without_repeats(rows.drop("text_in_train"), logits, labels, clusters) == {}


def test_new_and_established_users_are_slices_of_their_own() -> None:
    rows, _, _ = _holdout()
    assert set(slice_columns(rows)["user_group"]) == {"new", "established"}
    assert "user_group" not in slice_columns(rows.with_columns(user_group=pl.lit(None, pl.String)))
