"""The decode loop: all completions of a prompt are decoded together and share its one prefill.

The n completions of a prompt stand side by side as n query positions of one row: step s appends their n tokens to the
row's cache, and a mask lets completion j see the prompt and its own tokens only. So a prompt's keys and values are kept
and read once, not n times, and any causal LM of transformers works unchanged whose layers attend to all before them, or
to a sliding window. Rows whose completions have all ended are dropped from the batch. Tokens are drawn by inverse CDF
from given uniform numbers, so a sample depends on its prompt's numbers, not on what else is in the batch.

Banned tokens are never drawn; log-probabilities are those of the model itself, bans and temperature aside, here as in
`token_logprobs` (engine.py) and in vLLM. So a reply has one log-probability, whoever computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel
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
    banned_ids: Sequence[int] = (),
) -> Decoded:
    """Sample n completions for each prompt of one batch; greedy where `uniforms` is None.

    `uniforms`: (prompts, n, max_new_tokens) in [0, 1). A completion ends with one of `end_ids` (kept in its tokens) or
    at `max_new_tokens`, and holds none of `banned_ids`. Prompts of like length belong in one batch: all are padded to the
    longest.
    """
    device = model.device
    lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
    batch, width = len(prompt_ids), int(lengths.max())
    ends = torch.tensor(sorted(end_ids), device=device)
    banned = torch.tensor(banned_ids, device=device) if banned_ids else None
    stored = _attention_dtype(model)
    layers = model.config.get_text_config().num_hidden_layers
    cache = Cache(layers=[_RowLayer(width + n * max_new_tokens, stored) for _ in range(layers)])
    masks = Masks.of(model.config, lengths, width, n, max_new_tokens, model.dtype)
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
        tokens, logprobs = _choose(logits, draw, temperature, banned)
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
            rows, done, tokens, lengths = rows[left], done[left], tokens[left], lengths[left]
            masks.keep_rows(left)
            for layer in cache.layers:
                layer.keep_rows(left)
        logits = model(
            input_ids=tokens,
            position_ids=(lengths + step)[:, None].expand(-1, n),
            attention_mask=masks.at(step, lengths),
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


@dataclass
class Masks:
    """What each completion sees: its prompt and its own tokens, and where layers have a window, the last of them only.

    Additive, (prompts, 1, n, width + n * steps). `sliding`: those of layers with a window, where one is shorter than a row;
    tokens that have left it stay hidden, so each step hides what has just left. `by_layer`: only some layers have one.
    """

    width: int
    n: int
    full: torch.Tensor
    sliding: torch.Tensor | None
    window: int
    by_layer: bool

    @classmethod
    def of(
        cls, config: PretrainedConfig, lengths: torch.Tensor, width: int, n: int, steps: int, dtype: torch.dtype
    ) -> Masks:
        pad = torch.arange(width, device=lengths.device) >= lengths[:, None]
        others = ~torch.eye(n, dtype=torch.bool, device=lengths.device)
        own = others.repeat(1, steps).expand(len(lengths), -1, -1)
        hidden = torch.cat([pad[:, None, :].expand(-1, n, -1), own], dim=2)
        full = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device)
        full = full.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
        window, by_layer = sliding_window(config)
        binds = window is not None and window < width + steps
        return cls(width, n, full, full.clone() if binds else None, window or 0, by_layer)

    def keep_rows(self, rows: torch.Tensor) -> None:
        self.full = self.full[rows]
        self.sliding = None if self.sliding is None else self.sliding[rows]

    def at(self, step: int, lengths: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """The masks for the tokens of one step, which stand `step` behind their prompts."""
        seen = self.width + self.n * (step + 1)
        full = self.full[..., :seen]
        if self.sliding is None:
            return full
        least = torch.finfo(full.dtype).min
        left = torch.arange(self.width, device=lengths.device) <= (lengths + step - self.window)[:, None]
        self.sliding[..., : self.width].masked_fill_(left[:, None, None], least)
        own = self.n * max(0, step - self.window + 1)
        self.sliding[..., self.width : self.width + own] = least
        sliding = self.sliding[..., :seen]
        return {"full_attention": full, "sliding_attention": sliding} if self.by_layer else sliding


def sliding_window(config: PretrainedConfig) -> tuple[int | None, bool]:
    """The width of the sliding window whose masks are made here, None without one; and whether only some layers have it.

    A window of any other kind is not (rewards/attention.py finds them all): no row may be longer than it.
    """
    config = config.get_text_config()
    kinds, window = set(getattr(config, "layer_types", None) or ()), getattr(config, "sliding_window", None)
    if not isinstance(window, int) or window < 1 or kinds - {"full_attention", "sliding_attention"}:
        return None, False
    if not kinds and getattr(config, "use_sliding_window", True) is False:
        return None, False
    return (window, bool(kinds)) if not kinds or "sliding_attention" in kinds else (None, False)


def _attention_dtype(model: PreTrainedModel) -> torch.dtype:
    """What attention computes in. Kept in anything else, the whole cache would be cast again at every step."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype


def _choose(
    logits: torch.Tensor, uniforms: torch.Tensor | None, temperature: float, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next tokens, and the model's own log-probabilities of them; logits (prompts, n, vocab), uniforms (prompts, n)."""
    logits = logits.float()
    probabilities = torch.softmax(logits, dim=-1)
    # log sum exp from the likeliest token, whose probability never underflows: logits and probabilities pass once.
    normaliser = logits.amax(dim=-1) - probabilities.amax(dim=-1).log()
    if uniforms is None:
        tokens = _without(logits, banned).argmax(dim=-1)
    else:
        drawn = probabilities
        if temperature != 1:
            drawn = torch.softmax(_without(logits, banned) / temperature, dim=-1)
        elif banned is not None:
            drawn = probabilities.index_fill_(-1, banned, 0.0)
        cumulative = drawn.cumsum(dim=-1)
        if banned is not None and not bool((cumulative[..., -1] > 0).all()):  # all probability was on banned tokens
            cumulative = torch.softmax(_without(logits, banned), dim=-1).cumsum(dim=-1)
        whole = cumulative[..., -1:]
        # Below the whole, whatever rounding does: the token drawn has a probability.
        target = torch.minimum(
            uniforms[..., None].to(whole.dtype) * whole, torch.nextafter(whole, torch.zeros_like(whole))
        )
        tokens = torch.searchsorted(cumulative, target, right=True)[..., 0]
    return tokens, logits.gather(-1, tokens[..., None])[..., 0] - normaliser


def _without(logits: torch.Tensor, banned: torch.Tensor | None) -> torch.Tensor:
    return logits if banned is None else logits.index_fill(-1, banned, -torch.inf)
