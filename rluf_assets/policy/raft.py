"""RAFT: reward ranked fine-tuning, CRRAFT without its constraints: the best reply of each prompt, all of equal weight.

No judge, no KL bound, no fallback and no calibrated weight (Dong et al. 2023; CGPO's baseline).
"""

from __future__ import annotations

import numpy as np

from rluf_assets.policy.batch import Batch, Example, Reply, Selection


def select(batch: Batch) -> Selection:
    """The completion of highest reward for every prompt, among those whose tokens are all text."""
    best, some = batch.reward.argmax(axis=1), np.isfinite(batch.reward).any(axis=1)
    examples = [Example(Reply(int(p), int(best[p])), 1.0) for p in np.flatnonzero(some)]
    outcome = np.where(some, "selected", "skipped: a control token in every completion")
    return Selection(examples, outcome.tolist())
