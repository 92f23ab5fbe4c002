"""Token-budget batches from length buckets, seeded and identical on every rank, and their tensors.

A *unit* is what must stay together: one labelled reply, the replies that share a tree, or one pair. An optimiser step
is a set of units within `batch_tokens`, dealt to processes and accumulation rounds as equal parts; its gradient does
not depend on how many of either there are (1 x 8 = 2 x 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rluf_assets.rewards.trees import Tree, build_tree

# Steps sorted by length together: long enough to waste little padding, short enough to keep steps mixed.
BUCKET_STEPS = 24

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Unit:
    """Trees that stand in one batch, and the examples whose sequences they hold, in the order of the trees' ends."""

    trees: tuple[Tree, ...]
    examples: tuple[int, ...]

    @property
    def longest(self) -> int:
        return max(len(tree) for tree in self.trees)


def make_unit(sequences: Sequence[np.ndarray], examples: Sequence[int], share: bool) -> Unit:
    """A unit of one shared tree, or (where prefixes cannot be shared) of one chain per sequence."""
    trees = (build_tree(sequences),) if share else tuple(build_tree([sequence]) for sequence in sequences)
    return Unit(trees, tuple(examples))


def plan_steps(
    units: Sequence[Unit], batch_tokens: int, parts: int, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """One epoch: a list of steps, each a list of `parts` index arrays into `units`; every unit stands in exactly one.

    The steps do not depend on `parts`; one of fewer units than parts leaves some empty.
    """
    longest = np.array([unit.longest for unit in units])
    rows = np.array([len(unit.trees) for unit in units])
    order = rng.permutation(len(units))
    tokens = float((longest * rows).sum())
    bucket = max(1, int(len(units) * min(1.0, BUCKET_STEPS * batch_tokens / tokens)))
    steps: list[np.ndarray] = []
    for start in range(0, len(order), bucket):
        members = order[start : start + bucket]
        members = members[np.argsort(longest[members], kind="stable")]
        steps.extend(_cut(members, longest, rows, batch_tokens))
    return [_deal(steps[i], longest * rows, parts) for i in rng.permutation(len(steps))]


def _cut(members: np.ndarray, longest: np.ndarray, rows: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Runs of units sorted by length whose padded size stays within the budget; a run has at least one unit."""
    start, used = 0, 0
    for i, unit in enumerate(members):
        used += rows[unit]
        if used * longest[unit] > budget and i > start:
            yield members[start:i]
            start, used = i, rows[unit]
    yield members[start:]


def _deal(step: np.ndarray, sizes: np.ndarray, parts: int) -> list[np.ndarray]:
    """Contiguous parts of about equal size, each with at least one unit where there are enough."""
    if parts == 1 or len(step) <= parts:
        return list(np.array_split(step, parts))
    share = np.cumsum(sizes[step]) / sizes[step].sum()
    bounds = np.searchsorted(share, np.arange(1, parts) / parts) + 1
    lowest = np.arange(1, parts)
    bounds = np.clip(bounds, lowest, len(step) - parts + lowest)
    return np.split(step, np.maximum.accumulate(np.maximum(bounds, lowest)))


class StepSampler(torch.utils.data.Sampler[list[int]]):
    """This rank's batches of unit indices, epoch by epoch; `rounds` batches make one optimiser step."""

    def __init__(
        self, units: Sequence[Unit], *, batch_tokens: int, rounds: int, rank: int, ranks: int, seed: int, epochs: int
    ) -> None:
        generators = [np.random.default_rng((seed, epoch)) for epoch in range(epochs)]
        plans = [plan_steps(units, batch_tokens, rounds * ranks, generator) for generator in generators]
        # Trainer counts steps of the first epoch for all: epochs differ by a few, so all get as many as the shortest,
        # the last steps of longer ones joined.
        steps = min(len(plan) for plan in plans)
        self.plans = [_with_steps(plan, steps) for plan in plans]
        self.rounds, self.rank, self.ranks = rounds, rank, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plans[0]) * self.rounds

    def __iter__(self) -> Iterator[list[int]]:
        for parts in self.plans[self.epoch]:
            for turn in range(self.rounds):
                yield parts[turn * self.ranks + self.rank].tolist()


def _with_steps(plan: list[list[np.ndarray]], steps: int) -> list[list[np.ndarray]]:
    """Fold surplus steps into the first ones, part by part."""
    kept, surplus = plan[:steps], plan[steps:]
    for i, parts in enumerate(surplus):
        kept[i % steps] = [np.concatenate(pair) for pair in zip(kept[i % steps], parts, strict=True)]
    return kept


def collate(units: Sequence[Unit], pad_id: int) -> Batch:
    """Tensors of some units: right-padded `input_ids` (rows, length), `lengths`, and where each sequence ends.

    `rows`/`ends` (sequences,) point at end tokens, `examples` at the caller's rows. Branching trees add
    `position_ids` and `subtree_ends`, of the shape of `input_ids`.
    """
    trees = [tree for unit in units for tree in unit.trees]
    length = max((len(tree) for tree in trees), default=1)
    shape = (max(len(trees), 1), length)
    input_ids = np.full(shape, pad_id, np.int64)
    branching = any(not tree.is_chain for tree in trees)
    positions = np.zeros(shape, np.int64)
    # A padding token is a tree of its own: it attends to itself, so that no row of the mask is empty.
    subtree_ends = np.tile(np.arange(1, length + 1), (shape[0], 1))
    for row, tree in enumerate(trees):
        input_ids[row, : len(tree)] = tree.token_ids
        if branching:
            positions[row, : len(tree)] = tree.depths
            subtree_ends[row, : len(tree)] = tree.subtree_ends
    batch = {
        "input_ids": input_ids,
        "lengths": np.array([len(tree) for tree in trees] or [0]),
        "rows": np.repeat(np.arange(len(trees)), [len(tree.ends) for tree in trees]),
        "ends": np.concatenate([tree.ends for tree in trees]).astype(np.int64) if trees else np.zeros(0, np.int64),
        "examples": np.array([i for unit in units for i in unit.examples], dtype=np.int64),
    }
    if branching:
        batch |= {"position_ids": positions, "subtree_ends": subtree_ends}
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in batch.items()}


def budget_batches(units: Sequence[Unit], batch_tokens: int) -> Iterator[list[Unit]]:
    """Units by length, longest first, in batches within the token budget (one unit at least): for scoring."""
    batch: list[Unit] = []
    rows = 0
    for unit in sorted(units, key=lambda u: -u.longest):
        if batch and (rows + len(unit.trees)) * batch[0].longest > batch_tokens:
            yield batch
            batch, rows = [], 0
        batch.append(unit)
        rows += len(unit.trees)
    if batch:
        yield batch
