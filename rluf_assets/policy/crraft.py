"""CRRAFT: calibrated-regularized reward ranking fine-tuning (CGPO, section 4.1.2; RLUF's optimiser).

Per prompt: drop the replies that fail a judge or leave the KL bound, take the best survivor by raw reward, and raise
its log-likelihood in proportion to its calibrated reward. No survivor: the reference policy's reply with weight 0.5
(= sigmoid(0)) if that meets every constraint, else the prompt is skipped. There is no negative gradient.
"""

from __future__ import annotations

import numpy as np

from rluf_assets.policy.batch import BASELINE, Batch, Example, Reply, Selection, Test
from rluf_assets.policy.objectives import calibrated_reward

FALLBACK_WEIGHT = 0.5


def best_survivor(reward: np.ndarray, survives: np.ndarray) -> np.ndarray:
    """Per prompt the survivor of highest reward, the first one of equals; -1 where none survives. Arrays (P, K)."""
    masked = np.where(survives, reward, -np.inf)
    return np.where(survives.any(axis=1), masked.argmax(axis=1), -1)


def first_passing(reward: np.ndarray, eligible: np.ndarray, test: Test) -> np.ndarray:
    """The same as `best_survivor(reward, eligible & test)`, testing as few replies as possible.

    In each round every undecided prompt puts up its best untested eligible reply, and all of these are tested in one
    call; a prompt is decided by its first reply that passes.
    """
    order = np.argsort(-np.where(eligible, reward, -np.inf), axis=1, kind="stable")
    candidates = eligible.sum(axis=1)
    best = np.full(len(reward), -1)
    for rank in range(reward.shape[1]):
        undecided = np.flatnonzero((best < 0) & (candidates > rank))
        if not len(undecided):
            break
        replies = [Reply(int(p), int(order[p, rank])) for p in undecided]
        for reply, passed in zip(replies, test(replies), strict=True):
            if passed:
                best[reply.prompt] = reply.completion
    return best


def select(batch: Batch) -> Selection:
    """Steps 2 to 5: one example per prompt at most, weighted with its calibrated reward."""
    best = first_passing(batch.reward, batch.passed, batch.admissible)
    without = np.flatnonzero(best < 0)
    fallbacks = [Reply(int(p), BASELINE) for p in without if batch.baseline_passed[p]]
    usable = {reply.prompt for reply, ok in zip(fallbacks, batch.admissible(fallbacks), strict=True) if ok}
    chosen = batch.reward[np.arange(len(best)), best]
    weight = calibrated_reward(chosen, batch.baseline_reward)
    selection = Selection()
    for p, k in enumerate(best.tolist()):
        if k >= 0:
            selection.examples.append(Example(Reply(p, k), float(weight[p])))
            selection.outcome.append("selected")
        elif p in usable:
            selection.examples.append(Example(Reply(p, BASELINE), FALLBACK_WEIGHT))
            selection.outcome.append("fallback")
        else:
            selection.outcome.append("skipped: neither a completion nor the baseline reply meets every constraint")
    return selection


def mean_weights(weights: np.ndarray) -> np.ndarray:
    """Step 6: w_i / n with n the rows of non-zero weight; the loss is -sum of these times log pi(a_i|s_i)."""
    return weights / max(1, int(np.count_nonzero(weights)))
