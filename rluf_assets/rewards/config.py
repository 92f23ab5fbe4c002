"""Settings of the reward-model stage, for P[signal] (binary cross-entropy) and expert pairs (Bradley-Terry) alike.

No torch here: the control plane validates configs at load time. Field defaults are the laptop profile's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rluf_assets.errors import ConfigError

Objective = Literal["bce", "bradley_terry"]
Unusable = Literal["set_aside", "drop", "error"]
Positive = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraConfig(_Frozen):
    """Low-rank adapters on the base; the score head is trained in full and saved with them, merged."""

    rank: Positive = 16
    alpha: float = Field(32.0, gt=0)
    targets: str | tuple[str, ...] = Field("all-linear", description="peft's target_modules")


class EvaluationConfig(_Frozen):
    """What is scored and reported on the held-out rows."""

    negatives: Positive = Field(
        12_000, description="holdout negatives scored: all positives, a uniform sample of these"
    )
    bootstrap_resamples: int = Field(200, ge=50)
    confidence: float = Field(0.95, gt=0, lt=1)
    reliability_bins: int = Field(10, ge=2)
    worst_mistakes: int = Field(12, ge=0, description="mistakes shown with their text in the report")
    ensemble_members: int = Field(
        8, ge=0, description="bce: score heads refitted on held-out users, to see where the score is not determined"
    )
    min_slice_rows: int = Field(50, ge=2, description="smaller slices get no metrics of their own")


class AdoptionConfig(_Frozen):
    """How a P[signal] trained on new rows takes the place of the one in force."""

    warm_start: bool = Field(True, description="start from the model in force, with `replay_share` of rows it has seen")
    require: Literal["not_worse", "better"] = Field(
        "not_worse", description="what the comparison on the later holdout must tell; better: new candidates less often"
    )


class RewardConfig(_Frozen):
    """One reward model. `objective` decides the loss and the columns that the data must have."""

    version: ClassVar[str] = "7"

    objective: Objective = "bce"
    base: str | None = Field(
        None, description="folder of a pretrained model to start from, or `package:folder`; None: the base policy"
    )
    epochs: Positive = 2
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps; then a cosine to zero")
    max_grad_norm: float = Field(1.0, gt=0)
    batch_tokens: Positive = Field(
        6_144, description="tokens of one optimiser step, padding included, over all processes"
    )
    micro_batch_tokens: Positive | None = Field(
        None, description="tokens of one forward pass; None: all of a process's"
    )
    max_length: int = Field(256, ge=8, description="tokens of prompt and reply; contexts are cut at whole turns to fit")
    on_too_long: Unusable = Field(
        "set_aside",
        description="a reply that does not fit even with one turn: set aside and counted against max_set_aside_share, "
        "dropped (set aside without a limit), or an error",
    )
    on_empty_completion: Unusable = "set_aside"
    max_set_aside_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of a file's rows that may be unusable; beyond, the run stops before training",
    )
    share_prefixes: bool = Field(
        True, description="one pass over text that rows share; causal models whose attention spans max_length"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16",
        description="of the forward pass; weights stay float32. A CPU without bfloat16 instructions takes float32",
    )
    dropout: float = Field(0.0, ge=0, lt=1)
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    validation_share: float = Field(0.1, gt=0, lt=0.5, description="share of users (else prompts) kept for temperature")
    max_train_rows: Positive = 200_000
    soft_labels: bool = Field(False, description="bce: labels may be any value from 0 to 1")
    use_margin: bool = Field(False, description="bradley_terry: subtract the column `margin` from the difference")
    centering: float = Field(0.0, ge=0, description="bradley_terry: weight of (r_chosen + r_rejected)^2")
    replay_share: float = Field(
        0.5, ge=0, lt=1, description="warm start: share of rows the last model has seen already"
    )
    checkpoint_steps: Positive = 100
    log_steps: Positive = 10
    evaluation: EvaluationConfig = EvaluationConfig()
    adoption: AdoptionConfig = AdoptionConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RewardConfig:
        if self.micro_batch_tokens is not None and self.micro_batch_tokens > self.batch_tokens:
            raise ConfigError(
                f"micro_batch_tokens {self.micro_batch_tokens} is more than batch_tokens {self.batch_tokens}. "
                "A forward pass is a part of a step: lower the first or raise the second."
            )
        if self.objective == "bce" and (self.use_margin or self.centering):
            raise ConfigError("use_margin and centering belong to objective 'bradley_terry', found 'bce'. Remove them.")
        if self.objective == "bradley_terry" and self.soft_labels:
            raise ConfigError("soft_labels belongs to objective 'bce', found 'bradley_terry'. Remove it.")
        return self
