"""Models too large for one process: DeepSpeed ZeRO, where the launch's Accelerate configuration asks for it.

Stages 1 and 2 spread the optimiser (2: the gradients) over the ranks; stage 3 the weights too, those of the reference
policy and of the reward models among them. A pass through a model of stage 3 is a collective: every rank makes it,
or all wait for ever. `Zero.rounds` says how many passes that is; a rank with fewer of its own makes idle ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rluf_assets.errors import ConfigError
from rluf_assets.rewards.attention import pass_dtype
from rluf_assets.rewards.ranks import Ranks
from rluf_assets.rewards.scoring import RewardModel, device


@dataclass(frozen=True)
class Zero:
    """How DeepSpeed shards what this launch trains: the stage, and DeepSpeed's own configuration."""

    stage: int
    config: dict[str, Any]

    @staticmethod
    def of_launch(dtype: str, max_gradient_norm: float = 1.0, *, fsdp: bool = False) -> Zero | None:
        """As `accelerate launch` says (`zero2.yaml`, `zero3.yaml` or a DeepSpeed file of one's own), whose ranks this one
        joins; None without it.

        `dtype` bfloat16: passes and their weights where this device has it, the optimiser's being float32. Raises
        ConfigError for a stage that is not 1 to 3, and for FSDP unless the job knows it (`fsdp`): reward models alone are
        trained under that.
        """
        if not fsdp and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
            raise ConfigError("accelerate_config: FSDP, expected ddp, zero2 or zero3 for a job that runs a policy.")
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") != "true":
            return None
        from accelerate.utils import DeepSpeedPlugin

        ranks = Ranks.of_launch()
        plugin = DeepSpeedPlugin(gradient_accumulation_steps=1)
        plugin.set_mixed_precision("bf16" if pass_dtype(dtype, device()) == "bfloat16" else "no")
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


def load_scorer(folder: Path, dtype: str, zero: Zero | None, *, share_prefixes: bool = True) -> RewardModel:
    """A finished reward model that scores in `dtype`; in parts over the ranks where the stage shards weights."""
    dtype = pass_dtype(dtype, device())
    return in_parts(lambda: RewardModel.load(folder, device=device(), dtype=dtype, share_prefixes=share_prefixes), zero)


def in_parts(load: Callable[[], RewardModel], zero: Zero | None) -> RewardModel:
    """What `load` loads; where the stage shards weights, each rank's part of it, and all ranks score together."""
    if zero is None or not zero.shards_weights:
        return load()
    with zero.loading():
        model = load()
    model.pass_through(zero.read_only(model.network.model), Ranks.of_launch())
    return model


def _sized(config: dict[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    """DeepSpeed's bucket sizes from the model's width, as its documentation and Accelerate choose them (stage 3)."""
    width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    sizes = {
        "reduce_bucket_size": width * width,
        "stage3_prefetch_bucket_size": int(0.9 * width * width),
        "stage3_param_persistence_threshold": 10 * width,
    }
    given = config["zero_optimization"]
    chosen = {name: size for name, size in sizes.items() if given.get(name, "auto") == "auto"}
    return config | {"zero_optimization": given | chosen}
