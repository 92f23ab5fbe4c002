"""Weights that DeepSpeed keeps in parts: written where they are whole, and gathered after training to be saved.

ZeRO keeps the float32 weights in the optimiser's parts, ZeRO-3 the model's own too: what is in the module may be
bfloat16, or empty. Every process must call these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def gathered(parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[Any]:
    """Parameters whole inside, as the first process writes them; in parts again afterwards where ZeRO-3 had them so."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)  # type: ignore[no-any-return]


def whole_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole float32 values of each parameter that DeepSpeed trains, one after another."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, safe_get_full_fp32_param(parameter).detach()


@torch.no_grad()
def gather_weights(model: Any, keep: bool, load_again: Callable[[], Any]) -> None:
    """Put whole float32 weights into `model` on the processes that `keep` them.

    What adapters left as it is comes from `load_again()`, the model as it was before training: DeepSpeed has rounded
    it to the pass's precision. Transformers is told that DeepSpeed is over: it would cut what is loaded next into parts
    as well, and one process would wait for the others for ever.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    whole = {}
    for name, values in whole_weights(model):
        if keep:
            whole[name] = values.to("cpu", copy=True)
    unset_hf_deepspeed_config()
    if keep:
        if not all(parameter.requires_grad for parameter in model.parameters()):
            whole = {name: parameter.data for name, parameter in load_again().named_parameters()} | whole
        for name, parameter in model.named_parameters():
            parameter.data = whole.pop(name)
