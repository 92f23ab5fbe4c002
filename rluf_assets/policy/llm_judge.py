"""A judge that is a language model: asked about a reply, it compares the probabilities of two verdict tokens.

Nothing is sampled (as CGPO's judges do): one forward pass, P(positive) / (P(positive) + P(negative)) against a
threshold. Any local causal LM serves. Slow next to rules, so the loop asks it only about replies that may be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rluf_assets.chat import Message
from rluf_assets.errors import ConfigError
from rluf_assets.policy.config import LlmJudgeConfig
from rluf_assets.policy.engine import TransformersEngine, length_batches
from rluf_assets.policy.judges import Verdict


class LlmJudge:
    """Judges replies with a causal LM folder; see LlmJudgeConfig for the question and the two tokens."""

    def __init__(self, config: LlmJudgeConfig, *, device: str = "cpu", batch_tokens: int = 8_192) -> None:
        self.config, self.batch_tokens = config, batch_tokens
        self.engine = TransformersEngine(config.folder, device=device)
        ids = self.engine.encoder.chat.encode_text([config.positive, config.negative])
        if not ids[0] or not ids[1] or ids[0][0] == ids[1][0]:
            raise ConfigError(
                f"llm_judge {config.folder}: {config.positive!r} and {config.negative!r} start with the same token for "
                "its tokenizer. Choose two verdicts that differ in their first token."
            )
        self.verdict_ids = [ids[0][0], ids[1][0]]

    def probabilities(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> np.ndarray:
        """P(positive | positive or negative) per reply, (rows,)."""
        asked = [self._ask(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        ids = self.engine.encoder.encode(asked, self.engine.max_positions - 1)
        found = np.zeros(len(ids))
        with torch.inference_mode():
            for batch in length_batches([len(row) for row in ids], self.batch_tokens):
                logits = self.engine.next_logits([ids[i] for i in batch])[:, self.verdict_ids]
                found[batch] = torch.softmax(logits.double(), dim=-1)[:, 0].cpu().numpy()
        return found

    def __call__(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> np.ndarray:
        """Whether each reply passes, (rows,) bool."""
        return self.probabilities(prompts, completions) >= self.config.threshold

    def judge(self, prompt: Sequence[Message], completion: str) -> Verdict:
        """One reply's verdict, in the form of every other judge."""
        probability = float(self.probabilities([prompt], [completion])[0])
        return Verdict(probability >= self.config.threshold, f"P({self.config.positive}) = {probability:.3f}")

    def _ask(self, prompt: Sequence[Message], completion: str) -> list[Message]:
        chat = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
        verdicts = f"Answer {self.config.positive} or {self.config.negative}."
        text = f"{self.config.question} {verdicts}\n\n{chat}\nassistant: {completion}\n\n{verdicts}"
        return [{"role": "user", "content": text}]
