"""Conversations as token ids: rendered with the model's own chat template, contexts cut at whole turns to fit.

The last token of a rendered conversation is where a reward model reads its score, in training and everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from rluf_assets.chat import ROLES, Message, fit_prompt
from rluf_assets.rewards.chat_tokens import ChatTokens

# Messages whose token ids are kept: a context comes back with every later reply of its conversation.
CACHED_MESSAGES = 200_000


@dataclass(frozen=True)
class Encoded:
    """Token ids of each row (int32), turns cut from its context, and whether it does not fit even with one turn."""

    token_ids: list[np.ndarray]
    turns_dropped: np.ndarray
    too_long: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """Tokenizer with a chat template, and the longest row a model takes."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    _ids_of: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def chat(self) -> ChatTokens:
        """The tokenizer's chats; what is typed in them never becomes a control token."""
        return ChatTokens(self.tokenizer)

    def encode(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Encoded:
        """Token ids of prompt and reply, each row at most `max_length` unless marked too long."""
        rows = [_conversation(p, c) for p, c in zip(prompts, completions, strict=True)]
        encode = self._encode_by_message if self._by_message(rows) else self._encode_whole
        token_ids, dropped = encode(rows)
        too_long = np.array([len(ids) > self.max_length for ids in token_ids], dtype=bool)
        return Encoded(token_ids, np.array(dropped, dtype=np.int64), too_long)

    def _by_message(self, rows: Sequence[list[Message]]) -> bool:
        """Whether rendering is a concatenation of messages that special tokens set apart: so with our own template."""
        known = all(message["role"] in ROLES for row in rows for message in row)
        return known and self.chat.own_template

    def _encode_by_message(self, rows: Sequence[list[Message]]) -> tuple[list[np.ndarray], list[int]]:
        """Tokenise each distinct message once; cutting a turn is then a matter of lengths."""
        if len(self._ids_of) > CACHED_MESSAGES:
            self._ids_of.clear()
        new = {(m["role"], m["content"]) for row in rows for m in row} - self._ids_of.keys()
        ordered = sorted(new)
        texts = [self.chat.message(role, content) for role, content in ordered]
        found = (np.asarray(ids, dtype=np.int32) for ids in self.chat.encode_marked(texts))
        self._ids_of.update(zip(ordered, found, strict=True))

        token_ids, dropped = [], []
        for row in rows:
            parts = [self._ids_of[m["role"], m["content"]] for m in row]
            kept, turns = row, 0
            if sum(map(len, parts)) > self.max_length:
                kept, turns = self._fit(row, lambda cut: sum(len(self._ids_of[m["role"], m["content"]]) for m in cut))
                parts = [self._ids_of[m["role"], m["content"]] for m in kept]
            token_ids.append(np.concatenate(parts))
            dropped.append(turns)
        return token_ids, dropped

    def _encode_whole(self, rows: Sequence[list[Message]]) -> tuple[list[np.ndarray], list[int]]:
        """Render and tokenise whole conversations: right for any template."""
        token_ids, dropped = self._ids(rows), [0] * len(rows)
        for i, ids in enumerate(token_ids):
            if len(ids) > self.max_length:
                cut, dropped[i] = self._fit(rows[i], lambda cut: len(self._ids([list(cut)])[0]))
                token_ids[i] = self._ids([cut])[0]
        return token_ids, dropped

    def _fit(self, row: Sequence[Message], length_of: Callable[[list[Message]], int]) -> tuple[list[Message], int]:
        """The longest run of last turns within `max_length`, reply included, and the number of turns cut."""
        reply = row[-1]
        cut, dropped = fit_prompt(row[:-1], lambda prompt: length_of([*prompt, reply]) <= self.max_length)
        return [*cut, reply], dropped

    def _ids(self, conversations: Sequence[list[Message]]) -> list[np.ndarray]:
        return [np.asarray(ids, dtype=np.int32) for ids in self.chat.encode(conversations)]


def _conversation(prompt: Sequence[Message], completion: str) -> list[Message]:
    return [*prompt, Message(role="assistant", content=completion)]
