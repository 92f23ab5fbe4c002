"""Phase *update*: gradient steps on the selected replies.

The selected replies are spread over `updates_per_iteration` optimiser steps, each of which takes its share of every
prompt group and ascends the groups' objectives, summed with their gradient weights (CGPO's gradient-level mixing; one
group is the ordinary case). Gradients are accumulated over batches of like length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from rluf_assets.distributed import ALONE, Ranks
from rluf_assets.policy import codpo, crraft
from rluf_assets.policy.config import OptimisationConfig, PromptGroup
from rluf_assets.policy.engine import TransformersEngine, length_batches
from rluf_assets.policy.learner import Learner, Piece
from rluf_assets.policy.selecting import completions_of


@dataclass(frozen=True)
class UpdateFigures:
    """What the steps of one iteration looked like: mean loss, mean gradient norm before clipping, steps taken."""

    loss: float
    gradient_norm: float
    steps: int


def update(
    engine: TransformersEngine,
    learner: Learner,
    selected: pl.DataFrame,
    groups: Sequence[PromptGroup],
    config: OptimisationConfig,
    seed: int,
    ranks: Ranks = ALONE,
) -> UpdateFigures:
    """Take the steps of one iteration; `selected` is the select phase's frame. Raises TrainingError on a NaN loss."""
    learned = selected.with_row_index("place").filter(pl.col("role").is_not_null())
    found = learned["place"], learned["logprob"] - learned["log_ratio"]
    reference = dict(zip(*(column.to_list() for column in found), strict=True)) if config.optimiser == "codpo" else {}
    losses, norms = [], []
    learn_without_dropout(engine.model)
    for share in _shares(learned, groups, config.updates_per_iteration, seed):
        if share.is_empty():
            continue
        loss, norm = learner.step(loss_pieces(engine, share, groups, config, reference, ranks.size))
        losses.append(loss)
        norms.append(norm)
    engine.model.eval()
    return UpdateFigures(float(np.mean(losses or [0.0])), float(np.mean(norms or [0.0])), len(losses))


def learn_without_dropout(model: torch.nn.Module) -> None:
    """Gradients of the very distribution that was sampled, and the same after a kill: nothing is dropped at random.

    Layers alone are told that they train, for only then do they compute their activations again in the backward pass.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


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


def loss_pieces(
    engine: TransformersEngine,
    share: pl.DataFrame,
    groups: Sequence[PromptGroup],
    config: OptimisationConfig,
    reference: dict[int, float],
    ranks: int = 1,
) -> list[Piece]:
    """One step's loss as the functions whose values add up to it, one batch of like lengths each, the same on every rank.

    A batch has up to `forward_tokens`, and less where that would leave a rank without one.
    """
    pieces: list[Piece] = []
    for group in groups:
        rows = share.filter(pl.col("group") == group.name)
        if rows.is_empty():
            continue
        pairs = engine.encode_pairs(rows["prompt"].to_list(), completions_of(rows), config.max_new_tokens)
        tokens = config.forward_tokens
        if ranks > 1:
            tokens = min(tokens, sum(map(_size, pairs)) // ranks)
        if config.optimiser == "codpo":
            pieces += _pair_pieces(engine, rows, pairs, group, config, reference, tokens)
            continue
        # One n for the step and group, so that gradients add up over batches to those of the whole mean.
        coefficient = torch.from_numpy(group.gradient_weight * crraft.mean_weights(rows["weight"].to_numpy()))
        for batch in length_batches([len(p) + len(c) for p, c in pairs], tokens):
            pieces.append(partial(_weighted_loss, engine, [pairs[i] for i in batch], coefficient[batch]))
    return pieces


def _weighted_loss(
    engine: TransformersEngine, pairs: list[tuple[list[int], list[int]]], coefficient: torch.Tensor
) -> torch.Tensor:
    with engine.precision():
        logprobs = engine.token_logprobs(pairs).sum(dim=1)
    return -(coefficient.to(logprobs) * logprobs).sum()


def _pair_pieces(
    engine: TransformersEngine,
    rows: pl.DataFrame,
    pairs: list[tuple[list[int], list[int]]],
    group: PromptGroup,
    config: OptimisationConfig,
    reference: dict[int, float],
    tokens: int,
) -> list[Piece]:
    """CODPO's loss: winner and loser of a prompt stand in consecutive rows after sorting."""
    order = rows.with_row_index("row").sort("prompt_id", "role", descending=[False, True])["row"].to_list()
    winners, losers = order[::2], order[1::2]
    reference_logprob = torch.tensor([reference[place] for place in rows["place"].to_list()])

    def loss(batch: list[int]) -> torch.Tensor:
        won, lost = [winners[i] for i in batch], [losers[i] for i in batch]
        with engine.precision():
            logprobs = engine.token_logprobs([pairs[i] for i in won + lost]).sum(dim=1)
        value = codpo.loss(
            logprobs[: len(won)],
            logprobs[len(won) :],
            reference_logprob[won].to(logprobs),
            reference_logprob[lost].to(logprobs),
            torch.tensor([len(pairs[i][1]) for i in won]).to(logprobs),
            beta=config.dpo_beta,
            nll_weight=config.dpo_nll_weight,
        )
        return value * group.gradient_weight * len(won) / len(winners)

    sizes = [2 * max(_size(pairs[w]), _size(pairs[x])) for w, x in zip(winners, losers, strict=True)]
    return [partial(loss, batch) for batch in length_batches(sizes, tokens)]


def _size(pair: tuple[list[int], list[int]]) -> int:
    return len(pair[0]) + len(pair[1])
