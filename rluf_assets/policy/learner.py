"""Who takes the optimiser's steps and keeps its state: one copy of the policy per process, or DeepSpeed's parts of one.

A step's loss comes in pieces, functions that make one backward pass each; every rank takes its share of them, and what
is stepped along is the sum of all. State is written whole or not seen: a killed run goes on from the last one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from rluf_assets.distributed import Ranks, Zero
from rluf_assets.errors import ConfigError, TrainingError
from rluf_assets.lake import read_json, write_json
from rluf_assets.policy.base import save_policy
from rluf_assets.policy.config import OptimisationConfig
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.state import load_state, newest_state, save_state
from rluf_assets.rewards.sharded import whole_weights

Piece = Callable[[], torch.Tensor]
# The newest state, and the one before it should a disk have lost what was written last.
KEPT = 2
FACTS = "facts.json"


class Learner(Protocol):
    """What the loop needs of whatever trains the policy."""

    engine: TransformersEngine

    def step(self, pieces: Sequence[Piece]) -> tuple[float, float]:
        """Step along the sum of the pieces' gradients, clipped; returns the loss and the gradient norm before clipping."""
        ...

    def save_state(self, folder: Path, iteration: int, rows: list[dict[str, Any]]) -> None: ...

    def load_state(self, folder: Path) -> list[dict[str, Any]]:
        """Go back to the newest state under `folder`; returns the rows saved with it, none if there is no state."""
        ...

    def save_policy(self, out: Path) -> None: ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight, whole, by its name, one after another; on all ranks in step."""
        ...


def new_learner(engine: TransformersEngine, config: OptimisationConfig, ranks: Ranks, zero: Zero | None) -> Learner:
    """AdamW over the policy's parameters, no weight decay; sharded where the launch says so."""
    optimizer = torch.optim.AdamW(
        engine.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    if zero is not None:
        return ShardedLearner(engine, optimizer, config, ranks, zero)
    return WholeLearner(engine, optimizer, config, ranks)


class WholeLearner:
    """Every rank holds the whole policy and its optimiser, and takes the same step."""

    def __init__(
        self, engine: TransformersEngine, optimizer: torch.optim.Optimizer, config: OptimisationConfig, ranks: Ranks
    ) -> None:
        self.engine, self.optimizer, self.config, self.ranks = engine, optimizer, config, ranks

    def step(self, pieces: Sequence[Piece]) -> tuple[float, float]:
        loss = 0.0
        for piece in pieces[self.ranks.rank :: self.ranks.size]:
            part = piece()
            part.backward()
            loss += part.item()
        model = self.engine.model
        loss = self.ranks.sum_gradients(model, loss)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.max_gradient_norm))
        check_finite(loss, norm, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def save_state(self, folder: Path, iteration: int, rows: list[dict[str, Any]]) -> None:
        if self.ranks.first:
            save_state(folder / f"{iteration:06d}.safetensors", self.engine.model, self.optimizer, {"rows": rows})
            for old in sorted(folder.glob("*.safetensors"))[:-KEPT]:
                old.unlink()

    def load_state(self, folder: Path) -> list[dict[str, Any]]:
        newest = self.ranks.told(newest_state(folder))
        return load_state(newest, self.engine.model, self.optimizer)["rows"] if newest else []

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, values.detach()) for name, values in self.engine.model.named_parameters())

    def save_policy(self, out: Path) -> None:
        if self.ranks.first:
            save_policy(self.engine.model, self.engine.encoder.tokenizer, out, ends=self.engine.end_ids)
        self.ranks.wait()


class ShardedLearner:
    """DeepSpeed's engine around the policy: each rank holds its part of the optimiser, and of the weights in stage 3.

    A state is a folder of DeepSpeed's, one file per rank, and `facts.json`, written last.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        optimizer: torch.optim.Optimizer,
        config: OptimisationConfig,
        ranks: Ranks,
        zero: Zero,
    ) -> None:
        self.engine, self.config, self.ranks = engine, config, ranks
        self.deepspeed = zero.trained(engine.model, optimizer)
        engine.pass_through(self.deepspeed, zero.rounds)

    def step(self, pieces: Sequence[Piece]) -> tuple[float, float]:
        loss, size = 0.0, self.ranks.size
        rounds = -(-len(pieces) // size)
        for turn in range(rounds):
            mine = turn * size + self.ranks.rank
            # A rank without a piece makes the pass all the same, for nothing: the others wait for it in every layer.
            part = pieces[mine]() if mine < len(pieces) else pieces[0]() * 0.0
            loss += part.item()
            self.deepspeed.set_gradient_accumulation_boundary(turn == rounds - 1)
            self.deepspeed.backward(part * size)  # DeepSpeed takes the mean over ranks
        loss = sum(self.ranks.spread(size, lambda share: [loss] * len(share)))
        check_finite(loss, 0.0, self.config)
        self.deepspeed.step()
        norm = float(self.deepspeed.get_global_grad_norm())
        check_finite(loss, norm, self.config)
        return loss, norm

    def save_state(self, folder: Path, iteration: int, rows: list[dict[str, Any]]) -> None:
        name = f"{iteration:06d}"
        self.deepspeed.save_checkpoint(str(folder), tag=name, save_latest=False)
        self.ranks.wait()
        if self.ranks.first:
            write_json(str(folder / name / FACTS), {"ranks": self.ranks.size, "rows": rows})
            for old in sorted(path.parent for path in folder.glob(f"*/{FACTS}"))[:-KEPT]:
                (old / FACTS).unlink()
                shutil.rmtree(old)
        self.ranks.wait()

    def load_state(self, folder: Path) -> list[dict[str, Any]]:
        newest = self.ranks.told(max(folder.glob(f"*/{FACTS}"), default=None))
        if newest is None:
            return []
        facts = read_json(str(newest))
        if facts["ranks"] != self.ranks.size:
            raise ConfigError(
                f"{newest.parent}: a state of {facts['ranks']} processes, and this run has {self.ranks.size}. Run it with "
                f"{facts['ranks']}, or remove {folder} to start again."
            )
        self.deepspeed.load_checkpoint(str(folder), tag=newest.parent.name)
        return list(facts["rows"])

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        return whole_weights(self.engine.model)

    def save_policy(self, out: Path) -> None:
        weights = {}
        for name, values in self.weights():
            if self.ranks.first:
                weights[name] = values.to("cpu", copy=True)
        if self.ranks.first:
            save_policy(self.engine.model, self.engine.encoder.tokenizer, out, weights, self.engine.end_ids)
        self.ranks.wait()


def check_finite(loss: float, norm: float, config: OptimisationConfig) -> None:
    """Raise TrainingError for a loss or gradient norm that is no number."""
    if not np.isfinite(loss) or not np.isfinite(norm):
        raise TrainingError(f"update: loss {loss}, gradient norm {norm}. Lower learning_rate ({config.learning_rate}).")
