"""Prompts as token ids: rendered with the model's own chat template and cut at whole turns from the left to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rluf_assets.chat import CHAT_TEMPLATE, Message, fit_prompt


@dataclass(frozen=True)
class PromptEncoder:
    """Renders prompts with a tokenizer's chat template, or the toolkit's default where it has none."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def default_template(self) -> bool:
        """Whether the model renders chats with the toolkit's own template."""
        return self.tokenizer.chat_template in (None, CHAT_TEMPLATE)

    def render(self, prompt: Sequence[Message]) -> str:
        """The text a completion continues."""
        return self._render(prompt, generate=True)

    def render_whole(self, conversation: Sequence[Message]) -> str:
        """The text of a conversation that ends with a reply."""
        return self._render(conversation, generate=False)

    def encode(self, prompts: Sequence[Sequence[Message]], max_tokens: int) -> list[list[int]]:
        """Token ids of each prompt, at most `max_tokens`.

        Oldest turns go first; a last turn that alone is too long loses its oldest tokens.
        """
        if not prompts:
            return []
        encoded = self.token_ids([self.render(prompt) for prompt in prompts])
        for i, ids in enumerate(encoded):
            if len(ids) > max_tokens:
                cut, _ = fit_prompt(prompts[i], lambda p: len(self.token_ids([self.render(p)])[0]) <= max_tokens)
                encoded[i] = self.token_ids([self.render(cut)])[0][-max_tokens:]
        return encoded

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, special tokens left out."""
        return self.tokenizer.batch_decode(list(token_ids), skip_special_tokens=True)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts, nothing added."""
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def _render(self, messages: Sequence[Message], *, generate: bool) -> str:
        template = None if self.tokenizer.chat_template else CHAT_TEMPLATE
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=generate
            )
        )
