"""The two losses. Each returns the *sum* over examples and what to divide it by, so that any split of a step into
processes and accumulation rounds gives the same gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def bce_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of binary cross-entropies; labels from 0 to 1. All shapes (examples,)."""
    return (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).sum()


def bradley_terry_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margins: torch.Tensor, centering: float
) -> torch.Tensor:
    """Sum over pairs of -log sigmoid(r_chosen - r_rejected - margin) + centering (r_chosen + r_rejected)^2.

    Bradley and Terry 1952; margin: Touvron et al. 2023; centering: Eisenstein et al. 2023.
    """
    loss = -F.logsigmoid(chosen - rejected - margins)
    if centering:
        loss = loss + centering * (chosen + rejected) ** 2
    return loss.sum()
