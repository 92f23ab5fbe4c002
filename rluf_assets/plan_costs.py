"""What a model of a given shape costs: memory per GPU, and seconds of arithmetic, decoding and exchange, from stated formulas.

`planning` puts them together for each job.
"""

from __future__ import annotations

from typing import Literal

from resources.profiles.plan import ModelShape, PlanSettings

GIB = 2**30
Sharding = Literal["none", "zero2", "zero3"]


def state_memory(shape: ModelShape, gpus: int, sharding: Sharding = "none") -> dict[str, float]:
    """GiB per GPU of weights, gradients and optimiser while training.

    Unsharded: float32 weights, gradients and Adam's two moments, over several GPUs DDP's buckets. ZeRO-2 and ZeRO-3 as
    DeepSpeed's `estimate_zero2_model_states_mem_needs` and `estimate_zero3_...` say, nothing offloaded (FSDP likewise).
    """
    whole, part = shape.parameters / GIB, shape.parameters / gpus / GIB
    if sharding == "none" or gpus == 1:
        return {"weights": 4 * whole, "gradients": (4 if gpus == 1 else 8) * whole, "optimiser": 8 * whole}
    if sharding == "zero2":
        return {"weights": 2 * whole + 4 * part, "gradients": 6 * part, "optimiser": 8 * part}
    largest = 4 * max(shape.layer_parameters, shape.embedding_parameters) / GIB
    return {"weights": 6 * part + largest, "gradients": 4 * part, "optimiser": 8 * part}


def activation_memory(shape: ModelShape, tokens: int, *, width: int, checkpointing: bool, logits: bool) -> float:
    """GiB of what a backward pass needs kept for `tokens` at once; `width` is the bytes of one value.

    Per token and layer: six vectors of hidden size (two norms), queries and attention output, keys and values, four
    vectors of the MLP's width. Recomputing keeps one vector per layer and one whole layer. Attention itself keeps
    nothing (flash or SDPA). Logits of a language model: the values, their log-softmax and its gradient in float32.
    """
    heads = 2 * shape.head_dim * (shape.heads + shape.kv_heads)
    layer = 6 * shape.hidden_size + heads + 4 * shape.intermediate_size
    kept = shape.layers * shape.hidden_size + layer if checkpointing else shape.layers * layer
    return tokens * (kept * width + (12 * shape.vocab_size if logits else 0)) / GIB


def forward_memory(shape: ModelShape, tokens: int, *, width: int, logits: bool) -> float:
    """GiB of a pass without gradients: one layer's values at a time, and the logits in float32 where they are asked for."""
    layer = 4 * shape.hidden_size + 2 * shape.head_dim * (shape.heads + shape.kv_heads) + 2 * shape.intermediate_size
    return tokens * (layer * width + (4 * shape.vocab_size if logits else 0)) / GIB


def kv_cache_memory(shape: ModelShape, sequences: float, length: int, tensor_parallel: int) -> float:
    """GiB per GPU of keys and values of `sequences` at once, in two bytes each."""
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2
    return sequences * length * per_token / tensor_parallel / GIB


def collective_seconds(
    shape: ModelShape, gpus: int, sharding: Sharding, plan: PlanSettings, *, training: bool
) -> float:
    """Seconds that GPUs exchange weights and gradients for one batch, none of it hidden behind arithmetic.

    ZeRO-3 gathers two bytes a parameter for a forward pass, and in training again for the backward pass, with gradients
    scattered after it; ZeRO-2 gathers once after a step; DDP reduces four bytes a parameter twice over.
    """
    if gpus == 1 or (sharding != "zero3" and not training):
        return 0.0
    weights_in_bytes = {"zero3": 6 if training else 2, "zero2": 4, "none": 8}[sharding]
    return weights_in_bytes * shape.parameters / (plan.gather_gb_s * 1e9)


def compute_seconds(flops: float, gpus: int, plan: PlanSettings) -> float:
    """Seconds of arithmetic at the share of the peak that the plan assumes."""
    return flops / (gpus * plan.gpu.tflops * 1e12 * plan.mfu)


def decode_seconds(shape: ModelShape, tokens: float, width: int, tensor_parallel: int, plan: PlanSettings) -> float:
    """Seconds to decode a batch for `tokens` steps: each step reads all weights once from the GPU's memory."""
    weights = shape.parameters * width / tensor_parallel
    return tokens * weights / (plan.gpu.memory_gb_s * 1e9 * plan.bandwidth_share)
