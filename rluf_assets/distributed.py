"""One launch: its processes, this one's device, the precision of passes, and what DeepSpeed shards.

Joined once, first, in this module: `join()` gives a process its own GPU before it gives it a place in the group, and
`device()` names that GPU by its number, so nothing can be loaded onto another's. Nothing else asks for a device.

Every rank runs the same program in step. Sampling, scoring, log-probabilities, slow judges and gradients are computed in
shares; files are written by the first rank alone and read by all, so they lie where all see.

DeepSpeed ZeRO: stages 1 and 2 spread the optimiser (2: the gradients) over the ranks; stage 3 the weights too, those of
the reference policy and of the reward models among them. A pass through a model of stage 3 is a collective: every rank
makes it, or all wait for ever. `Zero.rounds` says how many passes that is; a rank with fewer of its own makes idle ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import transformers.utils

from rluf_assets.errors import ConfigError, RankLost

# Whoever loads a model would load scikit-learn, pandas and SciPy too, for assisted decoding and for losses of object
# detection, which nothing here uses: a third of what a job's start costs.
transformers.utils.is_sklearn_available = lambda: False
transformers.utils.is_scipy_available = lambda: False

T = TypeVar("T")
# A rank may wait for the slowest one's samples, or for a model to be saved, far longer than NCCL's own ten minutes.
TIMEOUT = timedelta(hours=2)


def device() -> str:
    """Where this process computes: its own GPU by number (LOCAL_RANK of the launch) if there is one.

    Makes it CUDA's current device too, and lets float32 products there run as TF32 (a score head's do not).
    """
    if not torch.cuda.is_available():
        return "cpu"
    number = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(number)
    torch.set_float32_matmul_precision("high")
    return f"cuda:{number}"


def pass_dtype(wanted: str) -> str:
    """`wanted`, or float32 where that is bfloat16 and this process's device is a CPU without instructions for it.

    There a bfloat16 product runs some fifty times slower than a float32 one.
    """
    if wanted != "bfloat16" or device() != "cpu":
        return wanted
    has_bfloat16 = any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
    return wanted if has_bfloat16 else "float32"


def join() -> Ranks:
    """Join the launch this process belongs to: its device first, then its place among the ranks. Twice is once.

    Raises ConfigError under FSDP, which no job of ours knows.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise ConfigError("accelerate_config: found FSDP, expected ddp, zero2 or zero3. Set one of these.")
    device()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    from accelerate import PartialState

    PartialState(timeout=TIMEOUT)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def _together(what: str) -> Iterator[None]:
    """What another process's end or silence does to a collective call becomes an error that says so."""
    try:
        yield
    except RuntimeError as error:
        raise RankLost(
            f"{what}: another process of this launch ended or did not answer within {TIMEOUT} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Its own log says why; run again: "
            "the job continues from its last checkpoint."
        ) from error


@dataclass(frozen=True)
class Ranks:
    """This process and how many there are; one of one unless the launcher says otherwise."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    def spread(
        self, count: int, compute: Callable[[list[int]], Sequence[T]], *, in_step: bool = False, together: int = 1
    ) -> list[T]:
        """`compute` of the numbers 0 to count - 1, a share on each rank; all results, in order, on all.

        `in_step`: compute is called on ranks without a share too, whose idle passes the others need (`Zero.rounds`).
        `together`: so many consecutive ranks compute one share between them, and each has its results.
        """
        shares = self.size // together
        share = list(range(self.rank // together, count, shares))
        mine = list(compute(share)) if share or in_step else []
        if self.size == 1:
            return mine
        parts: list[list[T]] = [[] for _ in range(self.size)]
        with _together("gathering results"):
            dist.all_gather_object(parts, mine)
        return [parts[i % shares * together][i // shares] for i in range(count)]

    def told(self, value: T) -> T:
        """The first rank's value, on all."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with _together("hearing from the first process"):
            dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum over ranks of arrays of one shape, float32, on all."""
        if self.size == 1:
            return values
        whole = torch.from_numpy(values.astype(np.float32)).to(device())
        with _together("adding up results"):
            dist.all_reduce(whole)
        return whole.cpu().numpy()

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            with _together("waiting for all processes"):
                dist.barrier()

    def sum_gradients(self, model: torch.nn.Module, loss: float) -> float:
        """Add the ranks' gradients up in place, a rank without rows counting as zero; returns the sum of the losses."""
        if self.size == 1:
            return loss
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                with _together("adding up gradients"):
                    dist.all_reduce(parameter.grad)
        return sum(self.spread(self.size, lambda share: [loss] * len(share)))


ALONE = Ranks()


@dataclass(frozen=True)
class Zero:
    """How DeepSpeed shards what this launch trains: the stage, and DeepSpeed's own configuration."""

    stage: int
    config: dict[str, Any]

    @staticmethod
    def of_launch(dtype: str, max_gradient_norm: float = 1.0) -> Zero | None:
        """As `accelerate launch` says (`zero2.yaml`, `zero3.yaml` or a DeepSpeed file of one's own), whose ranks this one
        joins; None without it.

        `dtype` bfloat16: passes and their weights where this device has it, the optimiser's being float32. Raises
        ConfigError for a stage that is not 1 to 3, and for FSDP.
        """
        ranks = join()
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") != "true":
            return None
        from accelerate.utils import DeepSpeedPlugin

        plugin = DeepSpeedPlugin(gradient_accumulation_steps=1)
        plugin.set_mixed_precision("bf16" if pass_dtype(dtype) == "bfloat16" else "no")
        config = dict(plugin.deepspeed_config)
        if plugin.zero_stage not in (1, 2, 3):
            raise ConfigError(f"accelerate_config: zero_stage {plugin.zero_stage}, expected 1, 2 or 3.")
        # Batches are ours: DeepSpeed counts one row a process, and is told which backward pass ends a step.
        config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        config |= {"train_batch_size": ranks.size, "gradient_clipping": max_gradient_norm}
        return Zero(plugin.zero_stage, config)

    @property
    def shards_weights(self) -> bool:
        """Whether no rank holds a whole model."""
        return self.stage == 3

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Within, transformers loads each rank's part of the weights alone, where the stage shards weights."""
        if not self.shards_weights:
            yield
            return
        from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

        held = HfDeepSpeedConfig(self.config)  # transformers keeps a weak reference
        try:
            yield
        finally:
            del held
            unset_hf_deepspeed_config()

    def read_only(self, model: torch.nn.Module) -> torch.nn.Module:
        """What passes of a model that is not trained go through: gathers its weights layer by layer (stage 3)."""
        if not self.shards_weights:
            return model
        import deepspeed

        engine, *_ = deepspeed.initialize(model=model, config=_sized(self.config, model))
        engine.eval()
        return engine  # type: ignore[no-any-return]

    def trained(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """DeepSpeed's engine around a model and the optimiser of its parameters."""
        import deepspeed

        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_sized(self.config, model))
        return engine

    def rounds(self, passes: int) -> int:
        """How many passes every rank makes, where this one has `passes` of its own: the most of any."""
        if not self.shards_weights:
            return passes
        most = torch.tensor(passes, device=device())
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most.item())


def _sized(config: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """DeepSpeed's bucket sizes from the model's width, as its documentation and Accelerate choose them (stage 3)."""
    width = int(model.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]
    sizes = {
        "reduce_bucket_size": width * width,
        "stage3_prefetch_bucket_size": int(0.9 * width * width),
        "stage3_param_persistence_threshold": 10 * width,
    }
    given = config["zero_optimization"]
    chosen = {name: size for name, size in sizes.items() if given.get(name, "auto") == "auto"}
    return config | {"zero_optimization": given | chosen}
