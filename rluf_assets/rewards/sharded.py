"""Whole float32 weights of a model that DeepSpeed trained in parts, so that it is saved as any other is.

ZeRO keeps the float32 weights in the optimiser's parts (ZeRO-3 the model's own too); what is in the module may be
bfloat16, or empty. Every process must call `gather_weights`; afterwards the first one holds a plain model.
"""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def gather_weights(model: Any, keep: bool) -> None:
    """Put whole float32 weights into `model` on the processes that `keep` them, one parameter at a time.

    Transformers is told that DeepSpeed is over: it would cut what is loaded next into parts as well, and one process
    would wait for the others for ever.
    """
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    whole = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            values = safe_get_full_fp32_param(parameter)
        else:  # frozen under adapters: the optimiser does not know it
            with zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                values = parameter.data.float()
        whole.append(values.to("cpu", copy=True) if keep else None)
    unset_hf_deepspeed_config()
    for parameter, values in zip(model.parameters(), whole, strict=True):
        if values is not None:
            parameter.data = values
