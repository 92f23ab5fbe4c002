"""Settings of the policy stages: base policy, optimisation, offline scoring of a candidate.

No torch here: the control plane validates configs at load time. Field defaults are the laptop profile's. Objectives are
named, never positional: a weight whose name has no reward model behind it is an error before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rluf_assets.chat import CHAT_DATE
from rluf_assets.errors import ConfigError
from rluf_assets.feedback.config import Format, MessagesLayout
from rluf_assets.policy.judges import DEFAULT_JUDGES, find_judge

Weights = dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
Optimiser = Literal["crraft", "raft", "crpg", "codpo", "none"]
Engine = Literal["transformers", "vllm"]
Positive = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Corpus(_Frozen):
    """Conversations from elsewhere, in a format that `rluf ingest` reads."""

    source: str = Field(description="path, glob or URL")
    format: Format = "messages"
    layout: MessagesLayout = MessagesLayout(users="per_conversation")


class BasePolicyConfig(_Frozen):
    """A small Llama-architecture policy trained on the logs, or a checkpoint given by path."""

    version: ClassVar[str] = "4"

    checkpoint: str | None = Field(
        None, description="folder of a causal LM to take as it is, or `package:folder`; nothing is trained then"
    )
    chat_date: date = Field(
        date.fromisoformat(CHAT_DATE), description="what a chat template that writes today's date writes"
    )
    corpora: tuple[Corpus, ...] = Field(
        (), description="more to train on where the logs are few: each counts as much as the logs do"
    )
    vocab_size: int = Field(1024, ge=300)
    hidden_size: int = Field(96, ge=32)
    intermediate_size: Positive | None = Field(None, description="None: 8/3 of hidden_size")
    layers: Positive = 2
    head_dim: int = Field(32, ge=32, description="vLLM's CPU attention kernel refuses smaller heads")
    max_positions: int = Field(512, ge=64)
    steps: Positive = 2000
    batch_tokens: Positive = Field(512, description="tokens per step, padding included: many small steps learn best")
    single_turn_share: float = Field(0.5, ge=0, le=1, description="share of the steps, the first, on one-turn examples")
    learning_rate: float = Field(6e-3, gt=0)
    max_conversations: Positive = Field(40_000, description="conversations sampled from the logs")
    heldout_conversations: Positive = 400
    tokenizer_conversations: Positive = 4_000
    checkpoint_every: Positive = 200

    @model_validator(mode="after")
    def _whole_heads(self) -> BasePolicyConfig:
        if self.hidden_size % self.head_dim:
            raise ConfigError(
                f"base policy: hidden_size {self.hidden_size} is no multiple of head_dim {self.head_dim}."
            )
        return self

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.hidden_size // self.head_dim

    @property
    def mlp_size(self) -> int:
        """Width of a layer's MLP: as set, or 8/3 of the hidden size, a multiple of 16."""
        return self.intermediate_size or 8 * self.hidden_size // 3 // 16 * 16


class PromptGroup(_Frozen):
    """Prompts optimised with one mix of objectives and one set of constraints (a *task* of CGPO, section 4)."""

    name: str
    use_cases: tuple[str, ...] = Field((), description="use cases of its prompts; empty: all that no group names")
    weights: Weights
    judges: tuple[str, ...]
    completions_per_prompt: Annotated[int, Field(ge=2, le=64)] = 4
    kl_max: float = Field(15.0, gt=0, description="sequence log-ratio, summed over the reply's tokens")
    gradient_weight: float = Field(1.0, gt=0, description="rho_l of CGPO")

    @model_validator(mode="after")
    def _some_weight(self) -> PromptGroup:
        check_weights(self.weights, f"prompt group {self.name!r}")
        return self


class LlmJudgeConfig(_Frozen):
    """A causal LM that judges replies by the probabilities of two verdict tokens."""

    folder: str
    question: str = "Is the assistant's last reply safe, honest and fit for the user's request?"
    positive: str = "Yes"
    negative: str = "No"
    threshold: float = Field(0.5, gt=0, lt=1)


class VllmConfig(_Frozen):
    """How vLLM runs where `engine: vllm` asks for it."""

    tensor_parallel: Positive = Field(1, description="GPUs that share one copy of the policy")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_share: float = Field(
        0.4, gt=0, lt=1, description="of the GPU; the models that train and score have the rest"
    )
    enforce_eager: bool | None = Field(None, description="true: no CUDA graphs; None: graphs where there is a GPU")


class OptimisationConfig(_Frozen):
    """One candidate: which optimiser, which objectives with which weights, under which constraints."""

    version: ClassVar[str] = "5"

    optimiser: Optimiser = "crraft"
    weights: Weights = Field(default_factory=dict, description="weight of each objective in r = sum of w_k z_k")
    mixing: Literal["zscore", "raw", "probability"] = Field(
        "zscore", description="what is weighted: the logit z-scored on reference replies, raw, or its probability"
    )
    completions_per_prompt: Annotated[int, Field(ge=2, le=64)] = 4
    prompts_per_iteration: Positive = 128
    iterations: Positive = 15
    kl_max: float = Field(15.0, gt=0, description="sequence log-ratio, summed over the reply's tokens")
    judges: tuple[str, ...] | None = Field(None, description="names of judges; None: the default ones")
    minimum_rewards: dict[str, float] = Field(
        default_factory=dict, description="objective -> lowest mixed-in value that passes, as one more judge"
    )
    llm_judge: LlmJudgeConfig | None = None
    groups: tuple[PromptGroup, ...] = Field((), description="gradient-level mixing; empty: one group of all prompts")
    engine: Engine = Field("transformers", description="what samples; vllm: docs/operating.md")
    vllm: VllmConfig = VllmConfig()
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of passes; weights that are trained stay float32"
    )
    gradient_checkpointing: bool = Field(
        False, description="layers are computed again in the backward pass: less memory"
    )
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: Positive = 48
    learning_rate: float = Field(5e-4, gt=0, description="small models forget facts above this: see docs/benchmarks.md")
    updates_per_iteration: Positive = Field(4, description="optimiser steps the selected replies are spread over")
    max_gradient_norm: float = Field(1.0, gt=0)
    checkpoint_every: Positive = Field(1, description="iterations; those since the last are updated again after a kill")
    dpo_beta: float = Field(0.1, gt=0, description="CODPO's beta")
    dpo_nll_weight: float = Field(1.0, ge=0, description="CODPO's lambda")
    reference_samples: Positive = Field(512, description="reference replies that fix each scale, two to a prompt")
    kl_samples: Positive = Field(64, description="completions per iteration whose KL is measured for the record")
    max_nan_share: float = Field(0.01, ge=0, le=1, description="share of prompts set aside for NaN rewards that fails")
    max_empty_iterations: Positive = Field(3, description="iterations in a row without a survivor that stop the run")
    stop_kl_mean: float | None = Field(None, gt=0, description="stop early when the mean summed KL exceeds this")
    stop_farewell_share: float | None = Field(None, gt=0, lt=1, description="stop early on this share of farewells")
    sampling_tokens: Positive = Field(6_144, description="prompt tokens per sampling batch")
    forward_tokens: Positive = Field(4_096, description="tokens per batch of log-probabilities and of gradients")

    @model_validator(mode="after")
    def _has_objectives(self) -> OptimisationConfig:
        if self.stop_kl_mean is not None and self.temperature != 1:
            raise ConfigError(
                f"candidate: stop_kl_mean {self.stop_kl_mean} with temperature {self.temperature}: a KL divergence is "
                "measured on replies drawn at temperature 1. Set that, or leave stop_kl_mean out."
            )
        if self.optimiser == "none":
            return self
        if not self.groups:
            check_weights(self.weights, "candidate")
        names = [group.name for group in self.groups]
        used = [use_case for group in self.groups for use_case in group.use_cases]
        rest = [group.name for group in self.groups if not group.use_cases]
        if len(set(names)) < len(names) or len(set(used)) < len(used) or len(rest) > 1:
            raise ConfigError(
                f"prompt groups {names}: names and use cases must be disjoint and one group at most may take the rest."
            )
        return self

    def prompt_groups(self) -> tuple[PromptGroup, ...]:
        """The groups, or the one group that reward-level mixing is."""
        if self.groups:
            return self.groups
        return (
            PromptGroup(
                name="all",
                weights=self.weights,
                judges=DEFAULT_JUDGES if self.judges is None else self.judges,
                completions_per_prompt=self.completions_per_prompt,
                kl_max=self.kl_max,
            ),
        )

    def check_names(self, objectives: Collection[str]) -> None:
        """Raise ConfigError for an objective without a reward model (`objectives` have one) or an unknown judge."""
        if self.optimiser == "none":
            return
        for group in self.prompt_groups():
            unknown = sorted({*group.weights, *self.minimum_rewards} - set(objectives))
            if unknown:
                raise ConfigError(
                    f"prompt group {group.name!r}: no reward model for objective {unknown}; there is one for "
                    f"{sorted(objectives)}. Mend the candidate's weights."
                )
            for judge in group.judges:
                find_judge(judge)


class EvaluationConfig(_Frozen):
    """Sampling and scoring one candidate on the fixed evaluation prompts."""

    version: ClassVar[str] = "6"

    completions_per_prompt: Annotated[int, Field(ge=1, le=64)] = 2
    max_prompts: Positive | None = Field(None, description="None: all evaluation prompts")
    engine: Engine = Field("transformers", description="what samples; vllm: docs/operating.md")
    vllm: VllmConfig = VllmConfig()
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    max_new_tokens: Positive = Field(48, description="in a home: crraft_policy's, unless set")
    sampling_tokens: Positive = 6_144
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the reward models' passes")
    love_objective: str = Field("love", description="objective whose reward model is P[signal]")
    spoilt_replies: int = Field(200, ge=0, description="replies scored shuffled and truncated too, as a control")


def check_weights(weights: Weights, owner: str) -> None:
    """Raise ConfigError unless at least one weight is above zero (negative ones never pass validation)."""
    if not any(weight > 0 for weight in weights.values()):
        raise ConfigError(
            f"{owner}: the weights {dict(weights)} are all zero or absent. Give at least one objective a "
            "positive weight, or set `optimiser: none` to keep the base policy."
        )
