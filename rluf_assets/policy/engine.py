"""TransformersEngine: sampling from, and log-probabilities under, a causal LM folder, in this process.

Batches hold prompts of like length; each prompt is prefilled once for its n completions (see decoding.py). A prompt's
random numbers come from the seed and its own text, so its completions do not depend on the rest of the batch or call.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from rluf_assets.chat import Message
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.policy.decoding import Decoded, decode, prefill, sliding_window
from rluf_assets.policy.prompts import PromptEncoder
from rluf_assets.policy.reply_tokens import ReplyTokens, end_ids
from rluf_assets.rewards.attention import attend_in_float32, attention_window, position_limit


@dataclass(frozen=True)
class Completion:
    """One reply: its text, its tokens (the end token with it), whether it ended by itself, its summed log-probability.

    `logprob` is that of the sampling policy at temperature 1 with no token banned, whatever it was drawn with. `control`:
    a control token stands in it, which no engine should let through.
    """

    text: str
    token_ids: list[int]
    finished: bool
    logprob: float
    control: bool = False


class TransformersEngine:
    """Samples completions of chat prompts from a Hugging Face causal LM."""

    together = 1  # processes that sample a share between them

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
        batch_tokens: int = 6_144,
    ) -> None:
        self.folder = str(folder)
        self.autocast = autocast
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        if autocast and device == "cpu":
            attend_in_float32(model)
        self.model: PreTrainedModel = model.to(device).eval()
        self._passes: torch.nn.Module | None = None
        self._rounds: Callable[[int], int] = lambda passes: passes
        self.encoder = PromptEncoder(AutoTokenizer.from_pretrained(folder))
        self.batch_tokens = batch_tokens
        self.max_positions = positions_of(self.model.config, self.folder)
        rows = self.model.get_output_embeddings().weight
        self.tokens = ReplyTokens.of(
            end_ids(folder, self.encoder), self.encoder, int(getattr(rows, "ds_shape", rows.shape)[0]), self.folder
        )
        self.longest = longest_shared(self.model.config)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        return self.tokens.ends

    def sample(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        n: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int,
        only: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """n completions of each prompt, in input order; temperature 0 is greedy. `only`: of these rows alone, in this order.

        Contexts are cut at whole turns so that prompt and reply fit the model's positions. Two equal prompts in one
        call get different random numbers. Raises ConfigError if `max_new_tokens` leaves no room for a prompt.
        """
        ids = self.encoder.encode(prompts, room(self.folder, self.max_positions, max_new_tokens))
        keys = prompt_keys(ids, seed)
        if only is not None:
            ids, keys = [ids[i] for i in only], [keys[i] for i in only]
        check_shared(self.longest, max((len(row) for row in ids), default=0) + max_new_tokens, self.folder)
        completions: list[list[Completion]] = [[] for _ in ids]
        for batch in length_batches([len(x) + n * max_new_tokens // 4 for x in ids], self.batch_tokens):
            uniforms = None
            if temperature > 0:
                uniforms = torch.from_numpy(np.stack([_uniforms(keys[i], n, max_new_tokens) for i in batch]))
            with self.precision():
                decoded = decode(
                    self.model,
                    [ids[i] for i in batch],
                    uniforms,
                    n=n,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    end_ids=self.tokens.ends,
                    banned_ids=self.tokens.banned,
                )
            for i, row in zip(batch, self._completions(decoded), strict=True):
                completions[i] = row
        return completions

    def logprobs(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Completion],
        *,
        max_new_tokens: int | None = None,
        batch_tokens: int = 4_096,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """log pi(completion | prompt) under this engine's model, summed over the completion's tokens; float64, (rows,).

        `max_new_tokens` is what the completions were sampled with, so that long contexts are cut alike.
        """
        total = np.zeros(len(completions))
        ids = self.encode_pairs(prompts, completions, max_new_tokens) if completions else []
        batches = list(length_batches([len(p) + len(c) for p, c in ids], batch_tokens))
        idle = self._rounds(len(batches)) - len(batches)
        # Not in inference mode: weights that a sharded model gathers in it could not be trained afterwards.
        with torch.no_grad(), self.precision():
            for batch in batches:
                tokens = self.token_logprobs([ids[i] for i in batch], temperature)
                total[batch] = tokens.double().sum(dim=1).cpu().numpy()
            for _ in range(idle):
                self.token_logprobs([([0], [0])])  # an idle pass: other ranks have more than this one
        return total

    def token_logprobs(self, pairs: Sequence[tuple[list[int], list[int]]], temperature: float = 1.0) -> torch.Tensor:
        """`token_logprobs` under this engine's model, or through what shards it. Differentiable."""
        return token_logprobs(self.model, pairs, self._passes, temperature)

    def pass_through(self, module: torch.nn.Module, rounds: Callable[[int], int]) -> None:
        """Send passes through `module`, which wraps the model; `rounds`: how many all ranks make (distributed.py)."""
        self._passes, self._rounds = module, rounds
        self.autocast = False  # the wrapper has a precision of its own

    def precision(self) -> torch.autocast:
        """What its passes run in: bfloat16 where `autocast` asks for it, weights and sums staying float32."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast)

    def next_logits(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """Logits of the token after each row of ids, shape (rows, vocabulary)."""
        return prefill(self.model, list(ids), None)

    def encode_pairs(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[Completion],
        max_new_tokens: int | None = None,
    ) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, completion ids) of each row; prompts cut to what `max_new_tokens` (else the longest) leaves."""
        longest = max(len(completion.token_ids) for completion in completions)
        encoded = self.encoder.encode(prompts, room(self.folder, self.max_positions, max_new_tokens or longest))
        return [(p, list(c.token_ids)) for p, c in zip(encoded, completions, strict=True)]

    def _completions(self, decoded: Decoded) -> Iterator[list[Completion]]:
        lengths, finished = decoded.lengths.tolist(), decoded.finished.tolist()
        token_ids, n = decoded.token_ids.tolist(), decoded.token_ids.shape[1]
        steps = torch.arange(decoded.token_ids.shape[2], device=decoded.lengths.device)
        logprobs = (decoded.logprobs.double() * (steps < decoded.lengths[..., None])).sum(-1).tolist()
        flat = [row[j][: lengths[i][j]] for i, row in enumerate(token_ids) for j in range(n)]
        texts = self.encoder.decode([self.tokens.text_ids(ids) for ids in flat])
        controls = [self.tokens.controls(ids) for ids in flat]
        for i in range(len(token_ids)):
            at = range(i * n, i * n + n)
            yield [Completion(texts[k], flat[k], finished[i][k % n], logprobs[i][k % n], controls[k]) for k in at]


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row indices, longest rows first, so many that rows x longest stays within the budget (one row at least)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def token_logprobs(
    model: PreTrainedModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    through: torch.nn.Module | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Log-probability of each completion token, shape (rows, longest completion), zero beyond a row's own.

    Differentiable. Rows are padded on the right; a hook on the output layer gives it only the positions that predict
    completion tokens: logits of all others would cost more than the layers of a small model. `through`: what wraps the
    model and takes its passes, if anything does.
    """
    starts = torch.tensor([len(prompt) for prompt, _ in pairs])
    sizes = torch.tensor([len(completion) for _, completion in pairs])
    if int(sizes.min()) == 0:
        raise DataError("a completion without tokens has no log-probability; drop it before asking for one.")
    ids = torch.zeros(len(pairs), int((starts + sizes).max()), dtype=torch.long)
    for row, (prompt, completion) in enumerate(pairs):
        ids[row, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
    steps = torch.arange(int(sizes.max()))
    real = (steps < sizes[:, None]).to(model.device)
    # The position that predicts each token; beyond a row's own tokens, any.
    where = (starts[:, None] - 1 + steps).clamp(max=ids.shape[1] - 2).to(model.device)
    ids = ids.to(model.device)
    rows = torch.arange(len(pairs), device=model.device)[:, None]
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, where],))
    try:
        logits = (through or model)(input_ids=ids, use_cache=False).logits.float()
    finally:
        hook.remove()
    logits = logits if temperature == 1.0 else logits / temperature
    targets = ids.gather(1, where + 1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return torch.where(real, -losses.view(targets.shape), 0.0)


def positions_of(config: PretrainedConfig, folder: str) -> int:
    """Positions that a model knows. Raises ConfigError where its replies could not share their prompt's pass for them."""
    positions = position_limit(config)
    if positions is None or getattr(config.get_text_config(), "alibi", False):
        raise ConfigError(
            f"{folder}: a {config.model_type} model tells positions by distance (ALiBi) or says no max_position_embeddings; "
            "replies that share a prompt's pass would stand at wrong ones. Use another base."
        )
    return positions


def longest_shared(config: PretrainedConfig) -> int | None:
    """The longest row that may be sampled: one beyond a window whose masks are not made here would be read without it.

    None: any. 0: no row, as some layers are no attention.
    """
    window = attention_window(config)
    return None if window is None or sliding_window(config)[0] else window


def check_shared(longest: int | None, row: int, folder: str) -> None:
    """Raise ConfigError for a row beyond `longest_shared`; log-probabilities are read row by row, and need no such thing."""
    if longest is None or row <= longest:
        return
    layers = f"see {longest} back, a prompt with its reply has up to {row} tokens" if longest else "are no attention"
    remedy = ", or shorten max_new_tokens" if longest else ""
    raise ConfigError(
        f"{folder}: some layers {layers}. TransformersEngine cannot share a prompt between its replies there: set engine: "
        f"vllm (docs/operating.md){remedy}."
    )


def room(folder: str, max_positions: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have. Raises ConfigError if there are none."""
    left = max_positions - max_new_tokens
    if left < 1:
        raise ConfigError(
            f"{folder}: {max_new_tokens} new tokens leave no room for a prompt in {max_positions} positions. Lower "
            "max_new_tokens, or take a base that knows more."
        )
    return left


def prompt_keys(prompt_ids: Sequence[Sequence[int]], seed: int) -> list[int]:
    """A 128-bit random key per prompt from the seed, its tokens, and how often they stood before in this call."""
    seen: Counter[bytes] = Counter()
    keys = []
    for ids in prompt_ids:
        text = np.asarray(ids, dtype=np.int64).tobytes()
        digest = hashlib.sha256(f"{seed}:{seen[text]}:".encode() + text).digest()
        keys.append(int.from_bytes(digest[:16], "big"))
        seen[text] += 1
    return keys


def _uniforms(key: int, n: int, steps: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=key)).random((n, steps))
