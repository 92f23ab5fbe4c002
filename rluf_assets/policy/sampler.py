"""Which engine samples in the loop, and how it gets the newest policy: `engine: transformers | vllm` of the profile.

`transformers` samples from the very model that is trained or, where no rank holds that whole, from a copy on each rank
that gets its weights before each sampling (so the policy must fit one device without its optimiser). `vllm` has weights
of its own: before each sampling it is handed the policy's, one after another, in memory. Where vLLM's workers are other
processes, or a checkpoint names the weights in another way, the policy is written to a folder and loaded there in place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from rluf_assets.chat import Message
from rluf_assets.distributed import ALONE, Ranks, Zero, device, pass_dtype
from rluf_assets.errors import ConfigError, TrainingError
from rluf_assets.policy.config import OptimisationConfig, VllmConfig
from rluf_assets.policy.engine import Completion, TransformersEngine
from rluf_assets.policy.learner import Learner
from rluf_assets.rewards.sharded import whole_weights

if TYPE_CHECKING:
    from rluf_assets.policy.vllm_engine import VLLMEngine


class Samples(Protocol):
    """What the sample phase needs of an engine; `together` consecutive ranks sample a share between them."""

    @property
    def together(self) -> int: ...

    def sample(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        n: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int,
        only: Sequence[int] | None = None,
    ) -> list[list[Completion]]: ...


class Sampler(Protocol):
    """Gives an engine that holds the policy as it is now."""

    def renew(self) -> Samples: ...


@dataclass(frozen=True)
class InProcess:
    """The trained model samples itself."""

    policy: TransformersEngine

    def renew(self) -> Samples:
        return self.policy


@dataclass
class ByCopy:
    """A whole copy of a sharded policy on each rank, made at the first sampling, kept for all."""

    policy: TransformersEngine
    base_policy: Path
    config: OptimisationConfig
    copy: TransformersEngine | None = field(default=None)

    @torch.no_grad()
    def renew(self) -> Samples:
        self.copy = self.copy or new_engine(self.base_policy, self.config)
        parameters = dict(self.copy.model.named_parameters())
        for name, values in whole_weights(self.policy.model):
            parameters[name].copy_(values)
        return self.copy


@dataclass
class ByVllm:
    """One vLLM engine, started at the first sampling, kept for all."""

    learner: Learner
    base_policy: Path
    folder: Path
    config: OptimisationConfig
    prompts: Sequence[Sequence[Message]]
    ranks: Ranks = ALONE
    engine: VLLMEngine | None = field(default=None)

    def renew(self) -> Samples:
        from rluf_assets.policy.vllm_engine import VLLMEngine

        self.engine = self.engine or VLLMEngine(
            self.base_policy,
            self.config.vllm,
            ranks=self.ranks.size,
            prompts=self.prompts,
            max_new_tokens=self.config.max_new_tokens,
        )
        if self.in_memory(self.engine):
            loaded = self.engine.take(self.learner.weights())
        else:
            self.ranks.wait()  # none reads the last weights any more
            self.folder.mkdir(parents=True, exist_ok=True)
            self.learner.save_policy(self.folder)
            loaded = self.engine.load(self.folder)
        versions = self.ranks.spread(self.ranks.size, lambda share: [loaded.version] * len(share))
        if len(set(versions)) > 1:
            raise TrainingError(
                f"vLLM holds different policies on {len(versions)} ranks ({sorted({v[:12] for v in versions})}), expected "
                "one. Run the job again; it goes on from its last state."
            )
        return loaded

    def in_memory(self, engine: VLLMEngine) -> bool:
        """Whether the engine can take this policy's weights as they are named in it."""
        from rluf_assets.policy.vllm_engine import checkpoint_names

        names = {name for name, _ in self.learner.engine.model.named_parameters()}
        return engine.in_process and names - {"lm_head.weight"} == checkpoint_names(self.base_policy) - {
            "lm_head.weight"
        }


def new_sampler(
    policy: TransformersEngine,
    learner: Learner,
    base_policy: Path,
    folder: Path,
    config: OptimisationConfig,
    ranks: Ranks,
    zero: Zero | None,
    prompts: Sequence[Sequence[Message]],
) -> Sampler:
    """The sampler that `config.engine` names, for these prompts; `folder`: scratch space for weights on their way to vLLM."""
    if config.engine == "vllm":
        check_tensor_parallel(config.vllm, ranks)
        return ByVllm(learner, base_policy, folder, config, prompts, ranks)
    if zero is not None and zero.shards_weights:
        return ByCopy(policy, base_policy, config)
    return InProcess(policy)


def check_tensor_parallel(config: VllmConfig, ranks: Ranks) -> None:
    """Raise ConfigError where a node's processes are no multiple of those that share one copy of the policy."""
    on_node = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
    if ranks.size > 1 and on_node % config.tensor_parallel:
        raise ConfigError(
            f"vllm: tensor_parallel {config.tensor_parallel}, but {on_node} processes on a node: expected a divisor of "
            "that, for so many of them share one copy of the policy."
        )


def new_engine(folder: Path, config: OptimisationConfig) -> TransformersEngine:
    """A policy folder's engine in this process, as the config says."""
    dtype = pass_dtype(config.dtype)
    return TransformersEngine(
        folder, device=device(), autocast=dtype == "bfloat16", batch_tokens=config.sampling_tokens
    )
