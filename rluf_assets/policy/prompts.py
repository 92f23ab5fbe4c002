"""Prompts as token ids: rendered with the model's own chat template and cut at whole turns from the left to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from rluf_assets.chat import Message, fit_prompt
from rluf_assets.rewards.chat_tokens import ChatTokens


@dataclass(frozen=True)
class PromptEncoder:
    """Renders prompts with a tokenizer's chat template, or the toolkit's default where it has none."""

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def chat(self) -> ChatTokens:
        """The tokenizer's chats; what is typed in them never becomes a control token."""
        return ChatTokens(self.tokenizer)

    def render(self, prompt: Sequence[Message]) -> str:
        """The text a completion continues, to be read."""
        return self.chat.readable(self.chat.render(prompt, generate=True))

    def encode(self, prompts: Sequence[Sequence[Message]], max_tokens: int) -> list[list[int]]:
        """Token ids of each prompt, at most `max_tokens`.

        Oldest turns go first; a last turn that alone is too long loses its oldest tokens.
        """
        encoded = self.chat.encode(prompts)
        for i, ids in enumerate(encoded):
            if len(ids) > max_tokens:
                cut, _ = fit_prompt(prompts[i], lambda p: len(self.chat.encode([p])[0]) <= max_tokens)
                encoded[i] = self.chat.encode([cut])[0][-max_tokens:]
        return encoded

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, special tokens left out."""
        return self.tokenizer.batch_decode(list(token_ids), skip_special_tokens=True)
