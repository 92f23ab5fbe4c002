"""Which engine samples in the loop, and how it gets the newest policy: `engine: transformers | vllm` of the profile.

`transformers` samples from the very model that is trained. `vllm` is another process with weights of its own: before
each sampling the policy is written to a folder, loaded there in place, and its version asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rluf_assets.chat import Message
from rluf_assets.errors import ConfigError
from rluf_assets.policy.base import save_policy
from rluf_assets.policy.config import OptimisationConfig, VllmConfig
from rluf_assets.policy.engine import Completion, TransformersEngine
from rluf_assets.policy.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from rluf_assets.policy.vllm_engine import VLLMEngine


class Samples(Protocol):
    """What the sample phase needs of an engine."""

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
class ByVllm:
    """One vLLM engine, started at the first sampling, kept for all."""

    policy: TransformersEngine
    base_policy: Path
    folder: Path
    config: VllmConfig
    ranks: Ranks = ALONE
    engine: VLLMEngine | None = field(default=None)

    def renew(self) -> Samples:
        from rluf_assets.policy.vllm_engine import VLLMEngine

        self.engine = self.engine or VLLMEngine(self.base_policy, self.config)
        self.ranks.wait()  # none reads the last weights any more
        if self.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_policy(self.policy.model, self.policy.encoder.tokenizer, self.folder)
        self.ranks.wait()
        return self.engine.load(self.folder)


def new_sampler(
    policy: TransformersEngine, base_policy: Path, folder: Path, config: OptimisationConfig, ranks: Ranks
) -> InProcess | ByVllm:
    """The sampler that `config.engine` names; `folder` is scratch space for weights on their way to vLLM.

    Raises ConfigError for tensor parallelism within ranks: every rank has an engine of its own.
    """
    if config.engine == "vllm":
        if ranks.size > 1 and config.vllm.tensor_parallel > 1:
            raise ConfigError(
                f"vllm: tensor_parallel {config.vllm.tensor_parallel} in a job of {ranks.size} processes, expected 1: "
                "each process samples its share with an engine of its own. Set it to 1, or run one process."
            )
        return ByVllm(policy, base_policy, folder, config.vllm, ranks)
    return InProcess(policy)
