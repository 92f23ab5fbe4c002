"""The decode loop: all completions of a prompt are decoded together and share its one prefill.

The n completions of a prompt stand side by side as n query positions of one row: step s appends their n tokens to the
row's cache, and a mask lets completion j see the prompt and its own tokens only. So a prompt's keys and values are kept
and read once, not n times, and any causal LM of transformers with full attention works unchanged. Rows whose
completions have all ended are dropped from the batch. Tokens are drawn by inverse CDF from given uniform numbers, so a
sample depends on its prompt's numbers, not on what else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Decoded:
    """Sampled tokens and log-probabilities at temperature 1 (prompts, n, steps); lengths and finished (prompts, n)."""

    token_ids: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor
    finished: torch.Tensor


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values in a buffer of fixed size: no copying while it fills, rows can be dropped."""

    is_sliding = False

    def __init__(self, capacity: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.capacity, self.filled, self.stored = capacity, 0, dtype

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, width, dtype=self.stored)
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1], dtype=self.stored)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        self.keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def keep_rows(self, rows: torch.Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return self.capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompt_ids: list[list[int]],
    uniforms: torch.Tensor | None,
    *,
    n: int,
    max_new_tokens: int,
    temperature: float,
    end_ids: frozenset[int],
) -> Decoded:
    """Sample n completions for each prompt of one batch; greedy where `uniforms` is None.

    `uniforms`: (prompts, n, max_new_tokens) in [0, 1). A completion ends with one of `end_ids` (kept in its tokens) or
    at `max_new_tokens`. Prompts of like length belong in one batch: all are padded to the longest.
    """
    device = model.device
    lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
    batch, width = len(prompt_ids), int(lengths.max())
    ends = torch.tensor(sorted(end_ids), device=device)
    stored = _attention_dtype(model)
    layers = model.config.num_hidden_layers
    cache = Cache(layers=[_RowLayer(width + n * max_new_tokens, stored) for _ in range(layers)])
    mask = _mask(lengths, width, n, max_new_tokens, model.dtype)
    logits = prefill(model, prompt_ids, cache)[:, None].expand(-1, n, -1)

    result = Decoded(
        torch.zeros(batch, n, max_new_tokens, dtype=torch.long, device=device),
        torch.zeros(batch, n, max_new_tokens, device=device),
        torch.full((batch, n), max_new_tokens, device=device),
        torch.zeros(batch, n, dtype=torch.bool, device=device),
    )
    rows, done = torch.arange(batch, device=device), torch.zeros(batch, n, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        draw = None if uniforms is None else uniforms[rows, :, step].to(device)
        tokens, logprobs = _choose(logits, draw, temperature)
        result.token_ids[rows, :, step], result.logprobs[rows, :, step] = tokens, logprobs
        ended = torch.isin(tokens, ends) & ~done
        result.lengths[rows] = torch.where(ended, step + 1, result.lengths[rows])
        done |= ended
        result.finished[rows] = done
        left = ~done.all(dim=1)
        alive = int(left.sum())
        if alive == 0 or step == max_new_tokens - 1:
            break
        if alive <= 0.8 * len(rows):
            rows, done, tokens, mask, lengths = rows[left], done[left], tokens[left], mask[left], lengths[left]
            for layer in cache.layers:
                layer.keep_rows(left)
        seen = width + n * (step + 1)
        logits = model(
            input_ids=tokens,
            position_ids=(lengths + step)[:, None].expand(-1, n),
            attention_mask=mask[:, :, :, :seen],
            past_key_values=cache,
            use_cache=True,
        ).logits
    return result


def prefill(model: PreTrainedModel, prompt_ids: list[list[int]], cache: Cache | None) -> torch.Tensor:
    """Run the prompts, padded on the right, into `cache`; logits after each one's last token (prompts, vocab)."""
    lengths = torch.tensor([len(ids) for ids in prompt_ids])
    ids = torch.zeros(len(prompt_ids), int(lengths.max()), dtype=torch.long)
    for row, tokens in enumerate(prompt_ids):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    # Right padding and causal attention: real tokens never see a pad, so no mask is needed here.
    last, where = torch.unique(lengths - 1, return_inverse=True)
    logits = model(
        input_ids=ids.to(model.device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=last.to(model.device),
    ).logits
    return logits[torch.arange(len(prompt_ids)), where]


def _mask(lengths: torch.Tensor, width: int, n: int, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask (prompts, 1, n, width + n * steps): the prompt's real tokens, and each completion's own ones."""
    pad = torch.arange(width, device=lengths.device) >= lengths[:, None]
    others = ~torch.eye(n, dtype=torch.bool, device=lengths.device)
    hidden = torch.cat([pad[:, None, :].expand(-1, n, -1), others.repeat(1, steps).expand(len(lengths), -1, -1)], dim=2)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def _attention_dtype(model: PreTrainedModel) -> torch.dtype:
    """What attention computes in. Kept in anything else, the whole cache would be cast again at every step."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype


def _choose(
    logits: torch.Tensor, uniforms: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next tokens and their log-probabilities at temperature 1; logits (prompts, n, vocab), uniforms (prompts, n)."""
    logits = logits.float()
    probabilities = torch.softmax(logits, dim=-1)
    if uniforms is None:
        tokens = logits.argmax(dim=-1)
    else:
        drawn = probabilities if temperature == 1 else torch.softmax(logits / temperature, dim=-1)
        cumulative = drawn.cumsum(dim=-1)
        target = uniforms[..., None].to(cumulative.dtype) * cumulative[..., -1:]
        tokens = torch.searchsorted(cumulative, target, right=True)[..., 0].clamp_(max=logits.shape[-1] - 1)
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    # log sum exp from the likeliest token, whose probability never underflows: logits and probabilities pass once.
    return tokens, chosen - logits.amax(dim=-1) + probabilities.amax(dim=-1).log()
