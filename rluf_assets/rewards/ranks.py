"""The processes of one launch (`accelerate launch`): who computes which share, and how all come to know the whole.

Every rank runs the same program in step. Sampling, scoring, log-probabilities, slow judges and gradients are computed in
shares; files are written by the first rank alone and read by all, so they lie where all see.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """This process and how many there are; one of one unless the launcher says otherwise."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def of_launch() -> Ranks:
        """The ranks of the launch this process belongs to; joins them. On GPUs each rank takes its own."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Ranks()
        from accelerate import PartialState

        # A rank may wait for the slowest one's samples for longer than the ten minutes that NCCL would give it.
        PartialState(timeout=TIMEOUT)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return Ranks(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    def spread(
        self, count: int, compute: Callable[[list[int]], Sequence[T]], *, in_step: bool = False, together: int = 1
    ) -> list[T]:
        """`compute` of the numbers 0 to count - 1, a share on each rank; all results, in order, on all.

        `in_step`: compute is called on ranks without a share too, whose idle passes the others need (rewards/zero.py).
        `together`: so many consecutive ranks compute one share between them, and each has its results.
        """
        shares = self.size // together
        share = list(range(self.rank // together, count, shares))
        mine = list(compute(share)) if share or in_step else []
        if self.size == 1:
            return mine
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, mine)
        return [parts[i % shares * together][i // shares] for i in range(count)]

    def told(self, value: T) -> T:
        """The first rank's value, on all."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum over ranks of arrays of one shape, float32, on all."""
        if self.size == 1:
            return values
        whole = torch.from_numpy(values.astype(np.float32)).to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(whole)
        return whole.cpu().numpy()

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, model: torch.nn.Module, loss: float) -> float:
        """Add the ranks' gradients up in place, a rank without rows counting as zero; returns the sum of the losses."""
        if self.size == 1:
            return loss
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
        return sum(self.spread(self.size, lambda share: [loss] * len(share)))


ALONE = Ranks()
