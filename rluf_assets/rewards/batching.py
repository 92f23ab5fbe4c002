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


def plan_epochs(
    units: Sequence[Unit], *, batch_tokens: int, runs: int = 1, parts: int, seed: int, epochs: int
) -> list[list[list[np.ndarray]]]:
    """Each epoch's steps, each a list of `parts` index arrays into `units`; every unit stands in exactly one of an epoch.

    A step has at most `batch_tokens` tokens, padding included, and, where parts are at least `runs`, a part at most
    batch_tokens/runs; a unit that is larger stands alone. Steps do not depend on `parts`; one of fewer units than parts
    leaves some empty. All epochs have as many steps as the longest, for Trainer counts the first one's for all: steps
    of shorter ones are cut in two, never joined, so none outgrows the budget.
    """
    sizes = _Sizes.of(units)
    plans = [sizes.steps(batch_tokens, runs, np.random.default_rng((seed, epoch))) for epoch in range(epochs)]
    most = max(map(len, plans))
    return [[sizes.deal(step, parts, batch_tokens // runs) for step in sizes.split(plan, most)] for plan in plans]


@dataclass(frozen=True)
class _Sizes:
    """Longest row and number of rows of each unit, shape (units,): what cutting and dealing need to know."""

    longest: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, units: Sequence[Unit]) -> _Sizes:
        return cls(np.array([unit.longest for unit in units]), np.array([len(unit.trees) for unit in units]))

    def padded(self, members: np.ndarray) -> int:
        """Tokens of one pass over these units, padding included."""
        return int(self.rows[members].sum() * self.longest[members].max()) if len(members) else 0

    def steps(self, batch_tokens: int, runs: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The units of each step, sorted by length within it, in random order."""
        order = rng.permutation(len(self.longest))
        tokens = float((self.longest * self.rows).sum())
        bucket = max(1, int(len(order) * min(1.0, BUCKET_STEPS * batch_tokens / tokens)))
        steps: list[np.ndarray] = []
        for start in range(0, len(order), bucket):
            members = order[start : start + bucket]
            members = members[np.argsort(self.longest[members], kind="stable")]
            joined: list[np.ndarray] = []
            for run in self._cut(members, batch_tokens // runs):
                if joined and (len(joined) == runs or sum(map(self.padded, [*joined, run])) > batch_tokens):
                    steps.append(np.concatenate(joined))
                    joined = []
                joined.append(run)
            steps.append(np.concatenate(joined))
        return [steps[i] for i in rng.permutation(len(steps))]

    def _cut(self, members: np.ndarray, budget: int) -> Iterator[np.ndarray]:
        """Runs of units sorted by length whose padded size stays within the budget; a run has at least one unit."""
        start, used = 0, 0
        for i, unit in enumerate(members):
            used += self.rows[unit]
            if used * self.longest[unit] > budget and i > start:
                yield members[start:i]
                start, used = i, self.rows[unit]
        yield members[start:]

    def deal(self, step: np.ndarray, parts: int, budget: int) -> list[np.ndarray]:
        """Contiguous parts of about equal size, within the budget; each has a unit where there are enough."""
        if parts == 1 or len(step) <= parts:
            return list(np.array_split(step, parts))
        sizes = (self.longest * self.rows)[step]
        bounds = np.searchsorted(np.cumsum(sizes) / sizes.sum(), np.arange(1, parts) / parts) + 1
        lowest = np.arange(1, parts)
        bounds = np.clip(bounds, lowest, len(step) - parts + lowest)
        dealt = np.split(step, np.maximum.accumulate(np.maximum(bounds, lowest)))
        if any(self.padded(part) > budget and len(part) > 1 for part in dealt):
            dealt = self.split(list(self._cut(step, budget)), parts)
        return dealt

    def split(self, pieces: list[np.ndarray], count: int) -> list[np.ndarray]:
        """Halve the largest pieces of more than one unit until there are `count`; the order stays."""
        pieces = list(pieces)
        sizes = [self.padded(piece) if len(piece) > 1 else 0 for piece in pieces]
        while len(pieces) < count:
            i = int(np.argmax(sizes))
            tokens = np.cumsum((self.longest * self.rows)[pieces[i]])
            cut = min(int(np.searchsorted(tokens, tokens[-1] / 2)) + 1, len(pieces[i]) - 1)
            pieces[i : i + 1] = halves = [pieces[i][:cut], pieces[i][cut:]]
            sizes[i : i + 1] = [self.padded(half) if len(half) > 1 else 0 for half in halves]
        return pieces


class StepSampler(torch.utils.data.Sampler[list[int]]):
    """This rank's batches of unit indices, epoch by epoch; `rounds` batches make one optimiser step.

    A step has at most `batch_tokens` padded tokens over all ranks, a batch at most `micro_tokens` (None: as many).
    """

    def __init__(
        self,
        units: Sequence[Unit],
        *,
        batch_tokens: int,
        micro_tokens: int | None = None,
        rank: int,
        ranks: int,
        seed: int,
        epochs: int,
    ) -> None:
        runs = -(-batch_tokens // (micro_tokens or batch_tokens))
        self.rounds, self.rank, self.ranks = -(-runs // ranks), rank, ranks
        self.plans = plan_epochs(
            units, batch_tokens=batch_tokens, runs=runs, parts=self.rounds * ranks, seed=seed, epochs=epochs
        )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plans[0]) * self.rounds

    def __iter__(self) -> Iterator[list[int]]:
        for parts in self.plans[self.epoch]:
            for turn in range(self.rounds):
                yield parts[turn * self.ranks + self.rank].tolist()


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


def budget_batches(units: Sequence[Unit], batch_tokens: int, ranks: int = 1) -> Iterator[list[Unit]]:
    """Units by length, longest first, in batches within the token budget (one unit at least): for scoring.

    Where several ranks share them out, a batch has no more than a rank's share of all tokens, so that none stays idle.
    """
    if ranks > 1:
        batch_tokens = min(batch_tokens, sum(len(tree) for unit in units for tree in unit.trees) // ranks)
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
