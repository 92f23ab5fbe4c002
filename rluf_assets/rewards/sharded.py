"""Whole float32 weights of a model that DeepSpeed trained in parts, so that it is saved as any other is.

ZeRO keeps the float32 weights in the optimiser's parts (ZeRO-3 the model's own too); what is in the module may be
bfloat16, or empty. Every process must call `gather_weights`; afterwards the first one holds a plain model.
"""

from __future__ import annotations

from typing import Any

import torch


def frozen_weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of what adapters leave as it is: DeepSpeed would round it to the pass's precision."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if not p.requires_grad}


@torch.no_grad()
def gather_weights(model: Any, frozen: dict[str, torch.Tensor], keep: bool) -> None:
    """Put whole float32 weights, `frozen` ones among them, into `model` on the processes that `keep` them.

    Transformers is told that DeepSpeed is over: it would cut what is loaded next into parts as well, and one process
    would wait for the others for ever.
    """
    from deepspeed.utils import safe_get_full_fp32_param
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    trained = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            values = safe_get_full_fp32_param(parameter)
            if keep:
                trained[name] = values.to("cpu", copy=True)
    unset_hf_deepspeed_config()
    if keep:
        for name, parameter in model.named_parameters():
            parameter.data = trained[name] if parameter.requires_grad else frozen[name]
