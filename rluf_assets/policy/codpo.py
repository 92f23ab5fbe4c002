"""CODPO: constrained online DPO (CGPO, section 4.1.3).

Pairs of one prompt's own replies: the best that passes every judge against the worst that fails one (where none fails:
the worst of all). Maximises log sigmoid(beta * difference of log-ratios) + (lambda / |a+|) log pi(a+).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from rluf_assets.policy.batch import Batch, Example, Reply, Selection


def select(batch: Batch) -> Selection:
    """At most one pair per prompt. No positive, or nothing to tell the replies apart by: skipped."""
    passed = batch.passed.copy()
    eligible = [Reply(int(p), int(k)) for p, k in np.argwhere(passed)]
    if eligible:
        rows, columns = np.array(eligible).T
        passed[rows, columns] = batch.costly(eligible)
    selection = Selection()
    for p, (reward, positive) in enumerate(zip(batch.reward, passed, strict=True)):
        if not positive.any():
            selection.outcome.append("skipped: no completion passes every judge")
            continue
        # Masked with a fill value: multiplied with 0, a violating reply would win where rewards are negative.
        winner = int(np.where(positive, reward, -np.inf).argmax())
        negative = ~positive & np.isfinite(reward)
        negative = negative if negative.any() else positive
        loser = int(np.where(negative, reward, np.inf).argmin())
        if winner == loser or (positive[loser] and reward[winner] == reward[loser]):
            selection.outcome.append("skipped: all rewards are equal")
            continue
        selection.examples += [Example(Reply(p, winner), 1.0, "winner"), Example(Reply(p, loser), 1.0, "loser")]
        selection.outcome.append("selected")
    return selection


def loss(
    winner: torch.Tensor,
    loser: torch.Tensor,
    winner_reference: torch.Tensor,
    loser_reference: torch.Tensor,
    winner_tokens: torch.Tensor,
    *,
    beta: float,
    nll_weight: float,
) -> torch.Tensor:
    """Mean over pairs; all arguments (pairs,): log pi, log pi_ref of winner and loser, tokens of the winner."""
    margin = (winner - winner_reference) - (loser - loser_reference)
    return -(logsigmoid(beta * margin) + nll_weight * winner / winner_tokens).mean()
