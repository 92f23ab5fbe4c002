"""How well love could be told from text at all: the truth's own AUROC on the holdout, the ceiling for P[signal]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.simulation import truth
from rluf_assets.simulation.config import OracleConfig
from rluf_assets.simulation.reading import read
from rluf_assets.simulation.truth import Bools, Floats

_Z = 1.959964


def oracle_auroc(holdout: pl.DataFrame, config: OracleConfig, seed: int, stream: int) -> dict[str, Any]:
    """AUROC of P(love | reply and context), integrated over users, on all positives and sampled negatives.

    holdout: prompt, completion, label, turn_index of the logging policy's replies. Weights undo the holdout's own
    sampling (`inclusion_probability`). Returns auroc, auroc_ci (95%, DeLong), positives, rows. Raises DataError if a
    class is missing.
    """
    positives, negatives = holdout.filter(pl.col("label")), holdout.filter(~pl.col("label"))
    if positives.is_empty() or negatives.is_empty():
        raise DataError(
            f"holdout: found {len(positives)} positives and {len(negatives)} negatives, expected both. "
            "Build the signal set over more days or replies."
        )
    if len(negatives) > config.negatives:
        rng = np.random.default_rng([stream, seed])
        negatives = negatives[np.sort(rng.choice(len(negatives), config.negatives, replace=False))]
    rows = pl.concat([positives, negatives])
    score = expected_love_in_logs(rows)
    weight = np.ones(len(rows))
    if "inclusion_probability" in rows.columns:
        weight = 1.0 / rows["inclusion_probability"].to_numpy()
    auroc, low, high = auroc_with_interval(score, rows["label"].to_numpy(), weight)
    return {"auroc": auroc, "auroc_ci": [low, high], "positives": len(positives), "rows": len(rows)}


def expected_love_in_logs(rows: pl.DataFrame) -> Floats:
    """P(love | prompt, completion) under the logging policy, whose farewells tell of the hidden state."""
    text = read(rows["prompt"], rows["completion"])
    # The prompt is cut at ten turns; the log knows the turn.
    text = replace(text, turn=rows["turn_index"].to_numpy().astype(np.int64))
    return truth.expected_love(text, truth.happy_given_logged_text(text))


def auroc_with_interval(score: Floats, label: Bools, weight: Floats) -> tuple[float, float, float]:
    """Weighted AUROC (ties count half) and its 95% interval from the variance of placements (DeLong et al. 1988)."""
    placements = {}
    for side in (True, False):
        mine, other = label == side, label != side
        order = np.argsort(score[other], kind="stable")
        sorted_score, mass = score[other][order], np.concatenate([[0.0], np.cumsum(weight[other][order])])
        below = mass[np.searchsorted(sorted_score, score[mine], side="left")]
        upto = mass[np.searchsorted(sorted_score, score[mine], side="right")]
        placed = (below + upto) / 2 / mass[-1]
        placements[side] = (placed if side else 1 - placed, weight[mine] / weight[mine].sum())
    values, shares = placements[True]
    auroc = float((values * shares).sum())
    variance = sum(float((share**2 * (value - auroc) ** 2).sum()) for value, share in placements.values())
    margin = _Z * np.sqrt(variance)
    return auroc, max(auroc - margin, 0.0), min(auroc + margin, 1.0)
