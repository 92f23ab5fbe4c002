"""Which tokens end a reply, and which may not stand in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from rluf_assets.errors import ConfigError
from rluf_assets.policy.prompts import PromptEncoder


@dataclass(frozen=True)
class ReplyTokens:
    """`ends`: any of them ends a reply, and is its last token. `banned`: never sampled, in no reply.

    Banned are control tokens that end nothing (rewards/chat_tokens.py) and rows of the vocabulary without a token: decoded
    they are nothing, so neither a judge nor a reward model would see what is learned.
    """

    ends: frozenset[int]
    banned: tuple[int, ...]

    @classmethod
    def of(cls, ends: Iterable[int], encoder: PromptEncoder, vocabulary: int, name: str) -> ReplyTokens:
        """Those of a model with so many rows in its vocabulary. Raises ConfigError where nothing ends a reply."""
        ends = frozenset(ends)
        outside = sorted(i for i in ends if not 0 <= i < vocabulary)
        if not ends or outside:
            raise ConfigError(
                f"{name}: end tokens {outside or 'none'}, expected ids below {vocabulary}, of generation_config.json, of the "
                "tokenizer's eos_token or of the chat template. Set eos_token_id in generation_config.json."
            )
        nameless = set(range(vocabulary)) - set(encoder.tokenizer.get_vocab().values())
        banned = {i for i in encoder.chat.control_ids if i < vocabulary} | nameless
        return cls(ends, tuple(sorted(banned - ends)))

    def text_ids(self, reply: Sequence[int]) -> Sequence[int]:
        """A reply's tokens without the one that ends it."""
        return reply[:-1] if reply[-1] in self.ends else reply

    def controls(self, reply: Sequence[int]) -> bool:
        """Whether a control token stands in a reply, its end token aside."""
        held = self.text_ids(reply)
        return not self.ends.isdisjoint(held) or not set(self.banned).isdisjoint(held)


def end_ids(folder: str | Path, encoder: PromptEncoder) -> frozenset[int]:
    """Tokens that end a reply of the model in `folder`."""
    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:
        generation = None
    return all_end_ids(generation, AutoConfig.from_pretrained(folder), encoder)


def all_end_ids(
    generation: GenerationConfig | None, config: PretrainedConfig, encoder: PromptEncoder
) -> frozenset[int]:
    """Those that a model's generation settings name, the tokenizer's own, and the one that ends a turn in its template.

    Generation settings that name none (they may say a temperature alone) leave it to the model's config.
    """
    named = [getattr(where, "eos_token_id", None) for where in (generation, config, config.get_text_config())]
    found = next((ids for ids in named if ids is not None), ())
    ids = {found} if isinstance(found, int) else set(found)
    if encoder.tokenizer.eos_token_id is not None:
        ids.add(encoder.tokenizer.eos_token_id)
    if encoder.chat.turn_end is not None:
        ids.add(encoder.tokenizer.convert_tokens_to_ids(encoder.chat.turn_end))
    return frozenset(ids)
