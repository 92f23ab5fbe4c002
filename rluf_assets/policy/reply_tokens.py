"""Which tokens end a reply, which may not stand in one, and whether a chat template can do without those.

A reply is what a user reads. A template that begins it inside a thought leaves it to the model to write the token that
ends the thought; one that says nothing where a reply begins leaves it the token that begins one. Sampling bans both, so
such a model would never answer: it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from rluf_assets.chat import Message
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.policy.prompts import PromptEncoder
from rluf_assets.rewards.chat_tokens import ChatTokens

# A question and an answer that no template makes anything else of, to see what it writes after one and before the other.
_ASKED, _ANSWERED = "qzxv", "vxzq"
_THOUGHT = re.compile(r"[<\[◁][|｜]?\w*(?:think|thought|reason)\w*[|｜]?[>\]▷]", re.IGNORECASE)
_ENDINGS = {"start": "end", "begin": "end", "prefix": "suffix", "open": "close"}


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
        """Those of a model with so many rows in its vocabulary.

        Raises ConfigError where nothing ends a reply, or where its template renders no prompt or leaves control tokens to
        the reply.
        """
        ends = frozenset(ends)
        outside = sorted(i for i in ends if not 0 <= i < vocabulary)
        if not ends or outside:
            raise ConfigError(
                f"{name}: end tokens {outside or 'none'}, expected ids below {vocabulary}, of generation_config.json, of the "
                "tokenizer's eos_token or of the chat template. Set eos_token_id in generation_config.json."
            )
        try:
            left = left_to_reply(encoder.chat, set(encoder.tokenizer.convert_ids_to_tokens(sorted(ends))))
        except DataError as error:
            raise ConfigError(f"{name}: {error}") from error
        if left:
            raise ConfigError(
                f"{name}: the chat template {left}. No reply here holds a control token or a thought, so this model would "
                "not come to its answer. Copy the folder and let its template write that where add_generation_prompt is "
                "true (<think>\\n\\n</think>\\n\\n: a thought that is over), or use a model that answers without."
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

    Generation settings that name none (they may say a temperature alone) leave it to the model's config. What a config says
    because its class does (2 in every Llama) counts where it is a control token: in another vocabulary it is some word.
    """
    configs = (config, config.get_text_config())
    of_class = set().union(*(_ids(type(one)) for one in configs)) - encoder.chat.control_ids
    named = [_ids(one) - of_class for one in configs]
    if generation is not None:
        named.insert(0, _ids(generation) - (of_class if generation._from_model_config else set()))
    ids = next((found for found in named if found), set())
    if encoder.tokenizer.eos_token_id is not None:
        ids.add(encoder.tokenizer.eos_token_id)
    if encoder.chat.turn_end is not None:
        ids.add(encoder.tokenizer.convert_tokens_to_ids(encoder.chat.turn_end))
    return frozenset(ids)


def _ids(where: object) -> set[int]:
    found = getattr(where, "eos_token_id", None)
    return set() if found is None else {found} if isinstance(found, int) else set(found)


def left_to_reply(chat: ChatTokens, ends: Collection[str]) -> str | None:
    """What a template leaves to the reply although no reply may hold it, in words; None where it leaves nothing.

    Raises DataError where it refuses a user's message both alone and after a system message.
    """
    question, answer = Message(role="user", content=_ASKED), Message(role="assistant", content=_ANSWERED)
    try:
        prompt = chat.render([question], generate=True)
    except DataError:
        prompt = chat.render([Message(role="system", content="a"), question], generate=True)
    written = prompt.rpartition(_ASKED)[2]
    shown, control, added = chat.readable(written), chat.control_in(written), chat.tokenizer.get_added_vocab()
    for token in (*control, *_THOUGHT.findall(shown)):
        closing = sorted(_closing(token), key=lambda closer: closer not in added)
        over = any(closer in shown.rpartition(token)[2] for closer in closing)
        needed = [closer for closer in closing if closer in added and closer not in ends]
        if not over and (needed or _THOUGHT.fullmatch(token)):
            return (
                f"ends a prompt with {shown!r}: {token!r} is opened there, {(needed or closing)[0]!r} left to the reply"
            )
    try:
        before = chat.render([question, answer], generate=False).partition(_ANSWERED)[0].rpartition(_ASKED)[2]
    except DataError:
        return None
    in_talk = chat.control_in(before)
    if len(in_talk) > len(control) and in_talk[: len(control)] == control:
        return f"writes {chat.readable(before)!r} before a reply, but ends a prompt with {shown!r}"
    return None


def _closing(token: str) -> list[str]:
    """How the token that closes what this one opens may be called: </think>, [/THINK], <|end_of_thought|>, <think|>."""
    ending = lambda found: _like(found.group(), _ENDINGS[found.group().lower()])  # noqa: E731
    named = re.sub("|".join(_ENDINGS), ending, token, flags=re.IGNORECASE)
    mirrored = re.sub(r"^<\|(\w+)>$", r"<\1|>", token)
    return [name for name in (re.sub(r"^(\W+)", r"\1/", token), named, mirrored) if name != token]


def _like(pattern: str, word: str) -> str:
    return word.upper() if pattern.isupper() else word
