"""What `rluf plan` must be told: shapes of models that are not on this machine, the GPU, and what has to be assumed.

Nothing here changes what is computed. Every figure is shown by `rluf plan` beside what follows from it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelShape(_Frozen):
    """A Llama-architecture model, by the names of its config.json."""

    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    tied: bool = False

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        tables = 1 if self.tied else 2
        return self.layers * self.layer_parameters + tables * self.embedding_parameters + self.hidden_size


class Gpu(_Frozen):
    """One accelerator; TFLOP/s are dense bf16, from its data sheet, as is what its memory gives a second."""

    name: str
    memory_gb: float = Field(gt=0, description="GiB that can be allocated")
    tflops: float = Field(gt=0)
    memory_gb_s: float = Field(3350, gt=0, description="GB/s that its memory gives")


class PlanSettings(_Frozen):
    """Assumptions of a plan. `models` gives shapes by role (policy, p_love, helpfulness, safety, llm_judge), else the base
    policy's."""

    models: dict[str, ModelShape] = {}
    gpu: Gpu = Gpu(name="H100 80 GB", memory_gb=79.0, tflops=989.0, memory_gb_s=3350.0)
    mfu: float = Field(0.35, gt=0, le=1, description="share of the GPU's peak that arithmetic reaches")
    bandwidth_share: float = Field(0.5, gt=0, le=1, description="share of the memory's rate that decoding reaches")
    gather_gb_s: float = Field(250.0, gt=0, description="GB/s that each GPU receives when all gather weights")
    disk_gb_s: float = Field(20.0, gt=0, description="GB/s of the shared disk, all nodes together")
    prompt_tokens: int = Field(128, ge=1, description="mean tokens of a prompt with its context")
    reply_share: float = Field(0.5, gt=0, le=1, description="mean length of a reply over max_new_tokens")
