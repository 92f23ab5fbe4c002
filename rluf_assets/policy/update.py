"""Phase *update*: gradient steps on the selected replies.

The selected replies are spread over `updates_per_iteration` optimiser steps, each of which takes its share of every
prompt group and ascends the groups' objectives, summed with their gradient weights (CGPO's gradient-level mixing; one
group is the ordinary case). Gradients are accumulated over batches of like length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from rluf_assets.errors import TrainingError
from rluf_assets.policy import codpo, crraft
from rluf_assets.policy.config import OptimisationConfig, PromptGroup
from rluf_assets.policy.engine import TransformersEngine, length_batches, token_logprobs
from rluf_assets.policy.ranks import ALONE, Ranks
from rluf_assets.policy.selecting import completions_of


@dataclass(frozen=True)
class UpdateFigures:
    """What the steps of one iteration looked like: mean loss, mean gradient norm before clipping, steps taken."""

    loss: float
    gradient_norm: float
    steps: int


def new_optimizer(engine: TransformersEngine, config: OptimisationConfig) -> torch.optim.AdamW:
    """AdamW over the policy's parameters, no weight decay."""
    return torch.optim.AdamW(
        engine.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )


def update(
    engine: TransformersEngine,
    optimizer: torch.optim.Optimizer,
    reference_engine: TransformersEngine,
    selected: pl.DataFrame,
    groups: Sequence[PromptGroup],
    config: OptimisationConfig,
    seed: int,
    ranks: Ranks = ALONE,
) -> UpdateFigures:
    """Take the steps of one iteration; `selected` is the select phase's frame. Raises TrainingError on a NaN loss.

    Each rank computes the gradients of its share of every step's batches; added up, they are one process's own.
    """
    learned = selected.with_row_index("place").filter(pl.col("role").is_not_null())
    reference: dict[int, float] = {}
    if config.optimiser == "codpo":
        # Afresh, not from the select phase: a resumed run has not been through that one.
        found = reference_engine.logprobs(
            learned["prompt"].to_list(),
            completions_of(learned),
            max_new_tokens=config.max_new_tokens,
            batch_tokens=config.forward_tokens,
        )
        reference = dict(zip(learned["place"].to_list(), found.tolist(), strict=True))
    losses, norms = [], []
    engine.model.train()
    for share in _shares(learned, groups, config.updates_per_iteration, seed):
        if share.is_empty():
            continue
        loss = ranks.sum_gradients(engine.model, _accumulate(engine, share, groups, config, reference, ranks))
        norm = float(torch.nn.utils.clip_grad_norm_(engine.model.parameters(), config.max_gradient_norm))
        if not np.isfinite(loss) or not np.isfinite(norm):
            raise TrainingError(
                f"update: loss {loss}, gradient norm {norm}. Lower learning_rate ({config.learning_rate})."
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        norms.append(norm)
    engine.model.eval()
    return UpdateFigures(float(np.mean(losses or [0.0])), float(np.mean(norms or [0.0])), len(losses))


def _shares(learned: pl.DataFrame, groups: Sequence[PromptGroup], steps: int, seed: int) -> list[pl.DataFrame]:
    """The learned rows in `steps` parts, whole prompts each, every group spread evenly over the parts."""
    rng = np.random.default_rng(seed)
    part: dict[str, int] = {}
    for group in groups:
        ids = learned.filter(pl.col("group") == group.name)["prompt_id"].unique(maintain_order=True).to_list()
        order = rng.permutation(len(ids))
        part |= {ids[i]: rank % steps for rank, i in enumerate(order.tolist())}
    parts = learned["prompt_id"].replace_strict(part, return_dtype=pl.Int32)
    return [learned.filter(parts == step) for step in range(steps)]


def _accumulate(
    engine: TransformersEngine,
    share: pl.DataFrame,
    groups: Sequence[PromptGroup],
    config: OptimisationConfig,
    reference: dict[int, float],
    ranks: Ranks = ALONE,
) -> float:
    """Backward pass of this rank's batches of one step's loss; returns their part of its value."""
    total = 0.0
    for group in groups:
        rows = share.filter(pl.col("group") == group.name)
        if rows.is_empty():
            continue
        pairs = engine.encode_pairs(rows["prompt"].to_list(), completions_of(rows), config.max_new_tokens)
        if config.optimiser == "codpo":
            total += _pair_loss(engine, rows, pairs, group, config, reference, ranks)
            continue
        # One n for the step and group, so that gradients add up over batches to those of the whole mean.
        coefficient = torch.from_numpy(group.gradient_weight * crraft.mean_weights(rows["weight"].to_numpy()))
        batches = list(length_batches([len(p) + len(c) for p, c in pairs], config.forward_tokens // ranks.size))
        for batch in batches[ranks.rank :: ranks.size]:
            with engine.precision():
                logprobs = token_logprobs(engine.model, [pairs[i] for i in batch]).sum(dim=1)
            loss = -(coefficient[batch].to(logprobs) * logprobs).sum()
            loss.backward()
            total += loss.item()
    return total


def _pair_loss(
    engine: TransformersEngine,
    rows: pl.DataFrame,
    pairs: list[tuple[list[int], list[int]]],
    group: PromptGroup,
    config: OptimisationConfig,
    reference: dict[int, float],
    ranks: Ranks,
) -> float:
    """CODPO's loss: winner and loser of a prompt stand in consecutive rows after sorting."""
    order = rows.with_row_index("row").sort("prompt_id", "role", descending=[False, True])["row"].to_list()
    winners, losers = order[::2], order[1::2]
    reference_logprob = torch.tensor([reference[place] for place in rows["place"].to_list()])
    total = 0.0
    sizes = [2 * max(_size(pairs[w]), _size(pairs[x])) for w, x in zip(winners, losers, strict=True)]
    batches = list(length_batches(sizes, config.forward_tokens // ranks.size))
    for batch in batches[ranks.rank :: ranks.size]:
        won, lost = [winners[i] for i in batch], [losers[i] for i in batch]
        with engine.precision():
            logprobs = token_logprobs(engine.model, [pairs[i] for i in won + lost]).sum(dim=1)
        loss = codpo.loss(
            logprobs[: len(won)],
            logprobs[len(won) :],
            reference_logprob[won].to(logprobs),
            reference_logprob[lost].to(logprobs),
            torch.tensor([len(pairs[i][1]) for i in won]).to(logprobs),
            beta=config.dpo_beta,
            nll_weight=config.dpo_nll_weight,
        )
        scaled = loss * group.gradient_weight * len(won) / len(winners)
        scaled.backward()
        total += scaled.item()
    return total


def _size(pair: tuple[list[int], list[int]]) -> int:
    return len(pair[0]) + len(pair[1])
