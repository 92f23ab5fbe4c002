"""RAFT: reward ranked fine-tuning, CRRAFT without its constraints: the best reply of each prompt, all of equal weight.

No judge, no KL bound, no fallback and no calibrated weight (Dong et al. 2023; CGPO's baseline).
"""

from __future__ import annotations

from rluf_assets.policy.batch import Batch, Example, Reply, Selection


def select(batch: Batch) -> Selection:
    """The completion of highest reward for every prompt."""
    best = batch.reward.argmax(axis=1).tolist()
    return Selection([Example(Reply(p, k), 1.0) for p, k in enumerate(best)], ["selected"] * len(best))
