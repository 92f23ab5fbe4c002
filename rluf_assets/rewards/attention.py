"""What a CPU computes in which precision: bfloat16 only where it has instructions for it, attention to be learned from
in float32.

Without such instructions a bfloat16 product runs some fifty times slower than a float32 one. With them PyTorch's CPU
flash attention still runs its bfloat16 backward several times slower than its float32 one, which costs more than
bfloat16 gains elsewhere. On a GPU the ordinary kernels are right.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32 = "sdpa_float32"


def _sdpa_float32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if not torch.is_grad_enabled():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    with torch.autocast(query.device.type, enabled=False):
        output, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return output.to(query.dtype), weights


AttentionInterface.register(FLOAT32, _sdpa_float32)
AttentionMaskInterface.register(FLOAT32, sdpa_mask)


def attention_for(config: PretrainedConfig, dtype: str, device: str) -> str:
    """Name of the attention implementation for a model that runs in `dtype` on `device`."""
    return FLOAT32 if dtype == "bfloat16" and device == "cpu" else "sdpa"


def pass_dtype(wanted: str, device: str) -> str:
    """`wanted`, or float32 where that is bfloat16 and the CPU has no instructions for it."""
    if wanted != "bfloat16" or device != "cpu":
        return wanted
    has_bfloat16 = any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
    return wanted if has_bfloat16 else "float32"
