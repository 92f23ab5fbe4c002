"""Conversations as token ids: rendered with the model's own chat template, contexts cut at whole turns to fit.

The last token of a rendered conversation is where a reward model reads its score, in training and everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rluf_assets.chat import CHAT_TEMPLATE, END, ROLES, Message, fit_prompt
from rluf_assets.errors import DataError

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
        return known and self.tokenizer.chat_template == CHAT_TEMPLATE

    def _encode_by_message(self, rows: Sequence[list[Message]]) -> tuple[list[np.ndarray], list[int]]:
        """Tokenise each distinct message once; cutting a turn is then a matter of lengths."""
        if len(self._ids_of) > CACHED_MESSAGES:
            self._ids_of.clear()
        new = {(m["role"], m["content"]) for row in rows for m in row} - self._ids_of.keys()
        ordered = sorted(new)
        # What CHAT_TEMPLATE makes of one message, without the cost of Jinja for each.
        texts = [f"<|{role}|>{content}{END}" for role, content in ordered]
        self._ids_of.update(zip(ordered, self._tokenise(texts), strict=True))

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
        if not conversations:
            return []
        try:
            texts = self.tokenizer.apply_chat_template(list(conversations), tokenize=False)
        except TemplateError as error:
            raise DataError(
                f"the model's chat template refuses these conversations ({error}). Bring the roles into the order it "
                "expects, or train from a base without a template."
            ) from error
        return self._tokenise(texts)

    def _tokenise(self, texts: list[str]) -> list[np.ndarray]:
        if not texts:
            return []
        ids = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        return [np.asarray(row, dtype=np.int32) for row in ids]


def _conversation(prompt: Sequence[Message], completion: str) -> list[Message]:
    return [*prompt, Message(role="assistant", content=completion)]
