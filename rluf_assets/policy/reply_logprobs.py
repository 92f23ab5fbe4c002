"""Log-probabilities of replies that a policy did not write: what off-policy evaluation asks a candidate for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rluf_assets.chat import Message
from rluf_assets.distributed import device
from rluf_assets.policy.engine import Completion, TransformersEngine


def reply_logprobs(
    folder: Path,
    prompts: Sequence[Sequence[Message]],
    replies: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_tokens: int,
) -> np.ndarray:
    """log pi(reply, ended | prompt) at a temperature; -inf for a reply longer than the policy may write, (rows,) float64."""
    engine = TransformersEngine(folder, device=device())
    tokenizer, turn_end = engine.encoder.tokenizer, engine.encoder.chat.turn_end
    end = min(engine.end_ids) if turn_end is None else int(tokenizer.convert_tokens_to_ids(turn_end))
    ids = [[*one, end] for one in engine.encoder.chat.encode_text(list(replies))]
    fits = np.array([len(one) <= max_new_tokens for one in ids], dtype=bool)
    found = np.full(len(ids), -np.inf)
    rows = np.flatnonzero(fits)
    said = [Completion(replies[i], ids[i], True, 0.0) for i in rows]
    found[rows] = engine.logprobs(
        [prompts[i] for i in rows], said, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens,
        temperature=temperature,
    )  # fmt: skip
    return found
