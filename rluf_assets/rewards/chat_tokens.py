"""Chats as token ids, the same for reward models and policies: control tokens come from the chat template alone.

A *control token* is one that gives a text its structure: a tokenizer's special tokens, and added tokens that its chat
template writes. Typed by a user or a model it is text. To that end the tokenizer is rebuilt with each control token
under a name of Unicode noncharacters, which no text holds, and only what the template wrote is renamed with it. So all
else (normaliser, merges, white space around a token) stays as the tokenizer has it, and a text without control tokens
gets the ids that transformers gives it. Where a reply begins the text is cut: a prompt's ids are a prefix of those of
the prompt with its reply. Models that may think before they answer are told not to (`enable_thinking`, as their templates
call it): a reply here is what a user reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from rluf_assets.chat import CHAT_DATE, CHAT_TEMPLATE, END, ROLES, Message
from rluf_assets.errors import ConfigError, DataError

# Noncharacters (U+FDD0 to U+FDEF): never in an interchanged text; where one is all the same, it becomes U+FFFD.
# A private name is its number between two of them: of a control token, or of a text that reads like one.
_OPEN, _CLOSE, _TEXT, _CUT = "\ufdd0", "\ufdd1", "\ufdee", "\ufdef"
_DIGITS = "".join(map(chr, range(0xFDD2, 0xFDEE)))
_NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")
_NAMED = re.compile(f"{_OPEN}[^{_CLOSE}]*{_CLOSE}")
_TYPED = re.compile(f"{_TEXT}[^{_TEXT}]*{_TEXT}")
# A reply that no template makes anything else of, to see what it puts around one.
_PROBE = "qzxv"
DATE_KEY = "chat_date"


class Piece(NamedTuple):
    """Part of a rendered conversation; `reply`: an assistant's reply with the token that ends it."""

    text: str
    reply: bool


class _Encodes(Protocol):
    def __call__(self, texts: Sequence[str]) -> list[list[int]]: ...


class ChatTokens:
    """A tokenizer's chats; the toolkit's own template where it has none.

    Texts in its hands ("marked") have control tokens under their private names. `control_ids` are the tokens that no
    text becomes; `turn_end` is the one that ends an assistant's turn in the template, if one does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.template = template_of(tokenizer) or CHAT_TEMPLATE
        if "strftime_now" in self.template:
            # Saved with the tokenizer, so that whoever reads this model renders the same prompts on any day.
            tokenizer.init_kwargs.setdefault(DATE_KEY, CHAT_DATE)
        self.date = _date(tokenizer.init_kwargs.get(DATE_KEY, CHAT_DATE))
        control = _control_tokens(tokenizer, self.template, self._probes())
        self.control_ids = frozenset(control.values())
        self._names = {token: _name(i) for i, token in enumerate(control)}
        self._strings = {name: token for token, name in self._names.items()}
        self._control = _pattern(tokenizer, control)
        self._encode: _Encodes = (
            _Fast(tokenizer, control, self._names) if tokenizer.is_fast else _Slow(tokenizer, control, self._names)
        )
        # Our own template's pieces, ten times faster than Jinja; right where each of its marks is one token.
        self.own_template = self.template == CHAT_TEMPLATE and all(
            mark in self._names for mark in (END, *(f"<|{role}|>" for role in ROLES))
        )
        self.turn_end = self._turn_end()
        added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
        self._strips_right = self.turn_end in added and bool(added[self.turn_end].rstrip)

    def message(self, role: str, content: str) -> str:
        """One message in our own template's form, marked."""
        return f"{self._names[f'<|{role}|>']}{_without_noncharacters(content)}{self._names[END]}"

    def render(self, conversation: Sequence[Message], *, generate: bool) -> str:
        """A conversation as the template writes it; `generate`: up to where a reply begins. Raises DataError if it refuses."""
        if self.own_template and all(message["role"] in ROLES for message in conversation):
            text = "".join(self.message(m["role"], m["content"]) for m in conversation)
            return text + self._names["<|assistant|>"] if generate else text
        text = self._template_text([{**m, "content": self._typed(m["content"])} for m in conversation], generate)
        marked = self._control.sub(lambda found: self._names[found.group()], text)
        return _TYPED.sub(lambda found: self._strings[_OPEN + found.group()[1:-1] + _CLOSE], marked)

    def readable(self, text: str) -> str:
        """A marked text as the template wrote it."""
        return _NAMED.sub(lambda found: self._strings[found.group()], text)

    def control_in(self, marked: str) -> list[str]:
        """The control tokens of a marked text, in order."""
        return [self._strings[name] for name in _NAMED.findall(marked)]

    def pieces(self, conversation: Sequence[Message]) -> list[Piece]:
        """The conversation's marked text, cut before and after each reply whose prompt it begins with.

        One that does not end with a reply goes on to where its reply would begin.
        """
        whole = self.render(conversation, generate=conversation[-1]["role"] != "assistant")
        pieces, at = [], 0
        for i, message in enumerate(conversation):
            if message["role"] != "assistant" or i == 0:
                continue
            before = self.render(conversation[:i], generate=True)
            end = self._reply_end(whole, len(before), conversation[: i + 1])
            if len(before) < at or end is None or not whole.startswith(before):
                continue
            pieces += [Piece(whole[at : len(before)], False), Piece(whole[len(before) : end], True)]
            at = end
        return [piece for piece in (*pieces, Piece(whole[at:], False)) if piece.text]

    def encode_pieces(self, rows: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
        """Token ids of each piece of each row."""
        flat = self._encode([_CUT.join(piece.text for piece in row) for row in rows])
        return [_split(ids) for ids in flat]

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of whole conversations or, where one does not end with a reply, of what its reply follows."""
        rows = self.encode_pieces([self.pieces(conversation) for conversation in conversations])
        return [[i for piece in row for i in piece] for row in rows]

    def encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of marked texts (`message`, `render`)."""
        return self._encode(texts)

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain texts: no control token among them, whatever they say."""
        return self._encode([_without_noncharacters(text) for text in texts])

    def _reply_end(self, whole: str, begin: int, through: Sequence[Message]) -> int | None:
        """Where the reply that begins at `begin` ends, with its end token; `through`: the conversation up to it."""
        if self.turn_end is not None:
            name = self._names[self.turn_end]
            found = whole.find(name, begin)
            end = found + len(name)
            if self._strips_right:  # white space that the end token takes in belongs to its piece
                end = len(whole) - len(whole[end:].lstrip())
            return None if found < 0 else end
        text = self.render(through, generate=False)
        return len(text) if whole.startswith(text) and len(text) >= begin else None

    def _turn_end(self) -> str | None:
        conversation = [_message("user", "a"), _message("assistant", _PROBE), _message("user", "a")]
        for probe in (conversation[:2], conversation):
            try:
                after = self.render(probe, generate=False).partition(_PROBE)[2]
            except DataError:
                continue
            if found := _NAMED.match(after.lstrip()):
                return self._strings[found.group()]
        return None

    def _probes(self) -> list[str]:
        """What the template writes around messages, to see which tokens it uses."""
        user, system, reply = _message("user", "a"), _message("system", "a"), _message("assistant", "a")
        texts = [self.template]
        for probe in ([user], [user, reply, user], [system, user, reply, user]):
            try:
                texts.append(self._template_text(probe, probe[-1]["role"] == "user"))
            except DataError:
                continue
        return texts

    def _template_text(self, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), chat_template=self.template, tokenize=False, add_generation_prompt=generate,
                    strftime_now=self.date.strftime, enable_thinking=False,
                )
            )  # fmt: skip
        # A template is a program of its own: besides refusing, it may divide by zero or look up what is not there.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"the model's chat template refuses a conversation of {[m['role'] for m in messages]} ({error}). Bring the "
                "roles into the order it expects, or use a base without a template."
            ) from error

    def _typed(self, content: str) -> str:
        """A content with what reads like a control token under a name, so that it is not taken for the template's."""
        name = lambda found: _TEXT + self._names[found.group()][1:-1] + _TEXT  # noqa: E731
        return self._control.sub(name, _without_noncharacters(content))


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template of its chats; of several by name the one named default; empty where it has none."""
    if not tokenizer.chat_template:
        return ""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ConfigError(
            f"tokenizer: chat templates {sorted(tokenizer.chat_template)}, expected one named default. Name one so."
        ) from error


class _Fast:
    """A tokenizer of the Rust library, rebuilt with control tokens under their private names."""

    def __init__(self, tokenizer: Any, control: Mapping[str, int], names: Mapping[str, str]) -> None:
        spec = json.loads(tokenizer.backend_tokenizer.to_str())
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        for added in spec["added_tokens"]:
            added["content"] = names.get(added["content"], added["content"])
        _rename(spec["model"], names)
        self.rust = Tokenizer.from_str(json.dumps(spec))
        wrong = [token for token, i in control.items() if self.rust.token_to_id(names[token]) != i]
        if wrong:
            raise ConfigError(f"tokenizer: its control tokens {wrong} cannot be told from text. Use another base.")
        for token in self.rust.get_added_tokens_decoder().values():
            # A name that the normaliser changes is found only before it.
            if token.content in names.values() and len(self.rust.encode(token.content, add_special_tokens=False)) != 1:
                token.normalized = False
                self.rust.add_special_tokens([token])
        self.rust.add_special_tokens([AddedToken(_CUT, normalized=False, special=True)])
        self.cut = self.rust.token_to_id(_CUT)
        # Such a tokenizer puts a space before every run of text, so one that stands there already would count twice.
        self.prepends = self.rust.encode(f"{_CUT}a", add_special_tokens=False).tokens[1].startswith("\u2581")
        self.prepends &= spec["normalizer"] is not None

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        if self.prepends:
            texts = [text.replace(f"{_CUT} ", _CUT) for text in texts]
        found = self.rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [
            [-1 if i == self.cut else i for i in row.ids] if _CUT in text else row.ids
            for row, text in zip(found, texts, strict=True)
        ]


class _Slow:
    """A tokenizer written in Python: the text between control tokens goes to it with no token set apart."""

    def __init__(self, tokenizer: Any, control: Mapping[str, int], names: Mapping[str, str]) -> None:
        self.tokenizer, self.control = tokenizer, control
        self.tokens = {names[token]: token for token in control}
        self.added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(re.split(f"({_NAMED.pattern}|{_CUT})", text)) for text in texts]

    def _ids(self, parts: list[str]) -> list[int]:
        """`parts`: text, then a private name or a cut, then text, and so on."""
        for i, name in enumerate(parts):
            flags = self.added.get(self.tokens.get(name, ""))
            if flags is not None and flags.lstrip:
                parts[i - 1] = parts[i - 1].rstrip()
            if flags is not None and flags.rstrip:
                parts[i + 1] = parts[i + 1].lstrip()
        ids: list[int] = []
        for part in parts:
            if part == _CUT:
                ids.append(-1)
            elif part in self.tokens:
                ids.append(self.control[self.tokens[part]])
            elif part:
                ids += self._text_ids(part)
        return ids

    def _text_ids(self, text: str) -> list[int]:
        ids = self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(text, split_special_tokens=True))
        forbidden = set(self.control.values()) - {self.tokenizer.unk_token_id}
        if forbidden.isdisjoint(ids):
            return list(ids)
        # Its vocabulary knows the control token as a word: cut where that stands.
        if len(text) == 1:
            return []
        half = len(text) // 2
        return self._text_ids(text[:half]) + self._text_ids(text[half:])


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Put control tokens under their private names in a model's own vocabulary, where no text leads to them."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): i for token, i in vocab.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if "merges" in model:
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in merges if names.keys().isdisjoint((a, b, a + b))]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _control_tokens(tokenizer: Any, template: str, written: Sequence[str]) -> dict[str, int]:
    """Special tokens, and added ones that the template writes, with their ids, by id."""
    tokens = {str(token): i for token, i in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)}
    for i, token in tokenizer.added_tokens_decoder.items():
        text = str(token)
        if token.special or (text.strip() and any(text in part for part in written)):
            tokens[text] = i
    return dict(sorted(tokens.items(), key=lambda item: item[1]))


def _pattern(tokenizer: Any, control: Mapping[str, int]) -> re.Pattern[str]:
    """Finds control tokens in a text as a tokenizer does: leftmost, the longest first."""
    single = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.single_word}
    ordered = sorted(control, key=len, reverse=True)
    parts = [rf"(?<!\w){re.escape(t)}(?!\w)" if t in single else re.escape(t) for t in ordered]
    return re.compile("|".join(parts) or r"(?!)")


def _split(ids: Sequence[int]) -> list[list[int]]:
    """Runs of ids between cuts (-1)."""
    runs: list[list[int]] = [[]]
    for i in ids:
        if i < 0:
            runs.append([])
        else:
            runs[-1].append(i)
    return runs


def _name(number: int) -> str:
    base = len(_DIGITS)
    return f"{_OPEN}{_DIGITS[number // base**2 % base]}{_DIGITS[number // base % base]}{_DIGITS[number % base]}{_CLOSE}"


def _without_noncharacters(text: str) -> str:
    return _NONCHARACTERS.sub("\ufffd", text) if _NONCHARACTERS.search(text) else text


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"tokenizer: {DATE_KEY} {text!r} is no date. Write one as 2026-01-31.") from error
