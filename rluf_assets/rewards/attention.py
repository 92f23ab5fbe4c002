"""How far a model's attention reaches, and which kernel computes it: on a CPU, attention to be learned from in float32.

PyTorch's CPU flash attention runs its bfloat16 backward several times slower than its float32 one, which costs more than
bfloat16 gains elsewhere. On a GPU the ordinary kernels are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32 = "sdpa_float32"

# Settings that hold the width of an attention window, in the spellings of transformers' models.
_WIDTH = re.compile(
    r"(sliding|attention|attn|local|keep)_.*(window|window_size|chunk_size|chunk_length)|window_size|"
    r"sliding_window|local_attention"
)
_WINDOWED = re.compile("sliding|chunk|local|window")
_FULL = {"full_attention", "global_attention", "global", "attention"}
# Settings of layers that carry a state from token to token, which no attention mask reaches.
_STATEFUL = re.compile("(mamba|ssm|rwkv|linear_attn|linear_conv|lru|conv_L)_.*|state_size|lru_width")
_OTHER_SENSES = re.compile("vision|image|audio|speech|video")


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


def attend_in_float32(model: PreTrainedModel) -> None:
    """What a model that learns in bfloat16 on a CPU needs; attention that is not PyTorch's kernel (DeBERTa) stays as it is."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(FLOAT32)


def attends_both_ways(config: PretrainedConfig) -> bool:
    """Whether a decoder has been told to see what follows too, as embedding models are (Gemma's switch, or `is_causal`)."""
    config = config.get_text_config()
    switch = getattr(config, "use_bidirectional_attention", False)
    return switch in (True, "all") or getattr(config, "is_causal", True) is False


def position_limit(config: PretrainedConfig) -> int | None:
    """The longest row in which a token's position means the same whatever else a pass holds; None: none is said.

    LongRoPE (Phi-3) turns every row of a pass by other angles once its longest is beyond the original length: a row's
    figures would hang on its neighbours, and a reply's on when it was cached.
    """
    config = config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    for settings in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):
        if settings.get("rope_type") == "longrope":
            limits.append(settings.get("original_max_position_embeddings"))
    known = [int(limit) for limit in limits if limit]
    return min(known) if known else None


def attention_window(config: PretrainedConfig | Mapping[str, Any]) -> int | None:
    """Tokens that every layer of a model sees back from a token, itself included; None where all see all before them.

    Within it a mask of our own (a tree's, a shared prefix's) means what the model's would; beyond, it would switch
    windows off. 0: some layer is no such attention at all (a recurrence, a convolution, a sparse index). Looked for
    wherever a config hides it: `layer_types`, windows per layer, nested text configs, switches such as Qwen2's.
    """
    widths = list(_widths(config.to_dict() if isinstance(config, PretrainedConfig) else config))
    return min(widths) if widths else None


def _widths(config: Mapping[str, Any]) -> Iterator[int]:
    types = {str(kind) for key in ("layer_types", "attention_layers", "block_types") for kind in config.get(key) or ()}
    windowed = {kind for kind in types if _WINDOWED.search(kind)}
    stateful = config.get("model_type") in ("rwkv", "xlstm")
    if stateful or types - windowed - _FULL or any(_STATEFUL.fullmatch(key) and value for key, value in config.items()):
        yield 0
    switched_off = config.get("use_sliding_window") is False
    for key, value in config.items():
        if isinstance(value, Mapping) and "num_hidden_layers" in value and not _OTHER_SENSES.search(key):
            yield from _widths(value)
        elif _WIDTH.fullmatch(key) and (windowed or not types) and not (switched_off and "sliding" in key):
            values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
            yield from (v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0)
