"""The last layer of a Llama, computed only where a score is read.

A reward model uses one token per sequence; keys and values of the last layer are needed at every token, but queries,
the output projection and the MLP only at those. That saves most of one layer: a third of all work with two layers,
little with eighty. Other architectures run their last layer in full.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half


class LastLayerAtEnds:
    """Stands in for a Llama's last layer; with `at(rows, ends)` set, its output is zero everywhere else."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._layer = model.base_model.layers[-1]
        self._full = self._layer.forward
        self._where: tuple[torch.Tensor, torch.Tensor] | None = None
        self._layer.forward = self._forward

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether this is the architecture whose layer is rewritten here."""
        layers = getattr(model.base_model, "layers", None)
        return layers is not None and type(layers[-1]) is LlamaDecoderLayer

    def at(self, rows: torch.Tensor, ends: torch.Tensor) -> None:
        """Positions (sequences,) the next pass needs."""
        self._where = rows, ends

    def _forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **rest: Any,
    ) -> torch.Tensor:
        if self._where is None or self._layer.gradient_checkpointing:
            return self._full(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **rest
            )
        (rows, ends), self._where = self._where, None
        assert position_embeddings is not None
        batch, length, _ = hidden_states.shape
        # Equal sequences end at one node: each node once, or its gradient would count for each of them in full.
        nodes = torch.unique(rows * length + ends)
        rows, ends = nodes // length, nodes % length
        slots, per_row = _slots(rows, batch)
        at = ends.new_zeros(batch, per_row).index_put((rows, slots), ends)
        read = self._attend(hidden_states, at, attention_mask, position_embeddings)
        picked = hidden_states[torch.arange(batch, device=at.device)[:, None], at]
        picked = picked + read
        picked = picked + self._layer.mlp(self._layer.post_attention_layernorm(picked))
        values = picked[rows, slots]
        return values.new_zeros(batch, length, values.shape[-1]).index_put((rows, ends), values)

    def _attend(
        self,
        hidden: torch.Tensor,
        at: torch.Tensor,
        mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """What the tokens at `at` (rows, per row) read from all tokens before them; shape (rows, per row, width)."""
        attention = self._layer.self_attn
        batch, length, _ = hidden.shape
        normed = self._layer.input_layernorm(hidden)
        rows = torch.arange(batch, device=at.device)[:, None]
        cos, sin = (part.expand(batch, -1, -1) for part in position_embeddings)
        queries = _heads(attention.q_proj(normed[rows, at]), attention.head_dim)
        keys = _heads(attention.k_proj(normed), attention.head_dim)
        values = _heads(attention.v_proj(normed), attention.head_dim)
        queries, keys = _rotate(queries, cos[rows, at], sin[rows, at]), _rotate(keys, cos, sin)
        if mask is None:
            mask = (torch.arange(length, device=at.device) <= at[..., None])[:, None]
        else:
            mask = mask.expand(batch, -1, -1, -1)[:, 0][rows, at][:, None]
        attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
        output, _ = attend(attention, queries, keys, values, mask, scaling=attention.scaling, is_causal=False)
        return attention.o_proj(output.reshape(batch, at.shape[1], -1))


def _slots(rows: torch.Tensor, batch: int) -> tuple[torch.Tensor, int]:
    """Index of each sequence within its row, and the most any row has; `rows` is sorted."""
    counts = torch.bincount(rows, minlength=batch)
    starts = torch.cumsum(counts, 0) - counts
    slots = torch.arange(len(rows), device=rows.device) - starts[rows]
    return slots, int(counts.max()) if len(rows) else 1


def _heads(projected: torch.Tensor, head_dim: int) -> torch.Tensor:
    batch, length, _ = projected.shape
    return projected.view(batch, length, -1, head_dim).transpose(1, 2)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    cos, sin = cos[:, None], sin[:, None]
    return states * cos + rotate_half(states) * sin
