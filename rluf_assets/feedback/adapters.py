"""Log formats -> canonical tables, as pure `LazyFrame -> LazyFrame` functions: two per format, listed in `ADAPTERS`.

`canonical` is Parquet, JSONL or CSV that already has the canonical columns. `messages` is OpenAI/ShareGPT-style JSONL,
one conversation per line, with reactions or 0/1 marks on the messages. What tracing tools log is in `tracing.py`,
`otel.py` and `open_webui.py`. What a format lacks becomes null, not invented. A further format is one more pair of
functions and one more line in `ADAPTERS`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.chat_json import listed_messages
from rluf_assets.feedback.config import Format, IngestConfig, MessagesLayout
from rluf_assets.feedback.ledger import MEDIA, media_in
from rluf_assets.feedback.message_reactions import from_field, from_label, from_ratings, from_side_file, labels_of
from rluf_assets.feedback.open_webui import open_webui_feedback, open_webui_messages
from rluf_assets.feedback.otel import otel_evaluations, otel_messages
from rluf_assets.feedback.redaction import excerpt
from rluf_assets.feedback.schemas import MESSAGES, OPTIONAL, PROMPT, TABLES, conform, empty
from rluf_assets.feedback.sources import Opened
from rluf_assets.feedback.tracing import langfuse_messages, langfuse_scores, langsmith_feedback, langsmith_messages
from rluf_assets.feedback.values import CALLS, REFUSAL, as_speaker, clocks_in, or_refusal

# What public logs call our columns, where the layout says nothing.
_ALIASES: Mapping[str, Sequence[str]] = {
    "conversation_id": ("conversation_id", "id", "chat_id"),
    "message_id": ("message_id", "id"),
    "user_id": ("user_id", "user"),
    "parent_id": ("parent_id", "parentId", "parent_message_id", "parentMessageId"),
    "created_at": ("created_at", "timestamp"),
    "policy_version": ("policy_version", "model"),
}
_LENT = ("user_id", "policy_version", "experiment_arm", "use_case", "locale", "assignment_probability")
_PER_MESSAGE = [name for name in MESSAGES if name in OPTIONAL["messages"] or name in ("message_id", "user_id")]
# What a conversation says once is said of each of its messages.
_PER_CONVERSATION = ["conversation_id", *(name for name in _PER_MESSAGE if name not in ("message_id", "parent_id"))]


def canonical_messages(frame: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Rows that already are canonical messages (after the layout's column renames)."""
    renamed = _renamed(frame, layout)
    names = renamed.collect_schema()
    if "role" in names and "content" in names:
        said = _text_or_refusal(names, pl.col, "content")
        renamed = renamed.with_columns(role=_speaker(names, pl.col, "role", "content", layout), content=said)
    return conform(renamed, "messages", where)


def canonical_reactions(frame: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Rows that already are canonical reactions (after the layout's column renames)."""
    return conform(_renamed(frame, layout), "reactions", where)


def chat_messages(frame: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """One row per message of each conversation line.

    A conversation without an id is known by its place in the source, a message by its place in the conversation. Where
    messages name their parents, turns are counted along each path. A reply before any user message gets turn -1. Where
    a label of the whole conversation is all there is, it was offered on the last reply, and on no other.
    """
    messages, fields = _exploded(frame, layout, where)
    if "user_id" not in messages.collect_schema():
        raise DataError(
            f"{where}: no column for ['user_id']; found {list(frame.collect_schema())}. Name it in layout.columns, or "
            f"declare layout.users: per_conversation."
        )
    role = _role(fields, layout, where)
    names, other = messages.collect_schema(), {layout.marks, layout.reactions, *layout.ratings}
    if (
        (labels := labels_of(frame.collect_schema(), layout))
        and "reactions_shown" not in names
        and not other & set(fields)
    ):
        labelled = pl.any_horizontal(pl.col(f"label/{one}").is_not_null() for one in labels)
        messages = messages.with_columns(
            reactions_shown=pl.when(role == "assistant").then(labelled & pl.col("closing"))
        )
    return conform(
        messages.with_columns(
            role=role,
            content=_text_or_refusal(
                fields, pl.col("message").struct.field, _name(fields, layout.content, where, "content")
            ),
            turn_index=pl.when(role == "system").then(pl.max_horizontal("turn_index", 0)).otherwise("turn_index"),
        ),
        "messages",
        where,
    )


def chat_reactions(frame: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """One row per mark, rating or reaction on a message; a mark of 0 says that the user left it unset.

    A label of a whole conversation (KTO) is one of its last reply. A source without conversations is a side file: one
    reaction per row, by `message_id`.
    """
    found = frame.collect_schema()
    if "message_id" in _renamed(frame, layout).collect_schema() and not any(name in found for name in layout.messages):
        return from_side_file(_renamed(frame, layout), where)
    messages, fields = _exploded(frame, layout, where)
    parts = [from_ratings(messages, name, fields[name], words) for name, words in layout.ratings.items()
             if name in fields]  # fmt: skip
    parts += [
        from_field(messages, name, fields[name], where) for name in (layout.marks, layout.reactions) if name in fields
    ]
    parts += [from_label(messages, name, found[name], layout.labels[name]) for name in labels_of(found, layout)]
    if not parts:
        return empty("reactions").lazy()
    return pl.concat([conform(part, "reactions", where) for part in parts])


class LogFormat(NamedTuple):
    """The two functions of a format: each takes the opened source, the layout and the source's name for errors.

    `lines`: the source is opened as one column of JSON texts, for formats whose records have no one shape.
    """

    messages: Callable[[pl.LazyFrame, MessagesLayout, str], pl.LazyFrame]
    reactions: Callable[[pl.LazyFrame, MessagesLayout, str], pl.LazyFrame]
    lines: bool = False


ADAPTERS: Mapping[Format, LogFormat] = {
    "canonical": LogFormat(canonical_messages, canonical_reactions),
    "messages": LogFormat(chat_messages, chat_reactions),
    "sharegpt": LogFormat(chat_messages, chat_reactions),
    "langfuse": LogFormat(langfuse_messages, langfuse_scores, lines=True),
    "langsmith": LogFormat(langsmith_messages, langsmith_feedback, lines=True),
    "otel": LogFormat(otel_messages, otel_evaluations, lines=True),
    "open_webui": LogFormat(open_webui_messages, open_webui_feedback, lines=True),
}


def hash_user_ids(frame: pl.LazyFrame, salt: str) -> pl.LazyFrame:
    """Replace `user_id` by its keyed BLAKE2 hash (each distinct id of a batch is hashed once)."""

    def hashed(ids: pl.Series) -> pl.Series:
        distinct = ids.drop_nulls().unique()
        codes = [hashed_id(one, salt) for one in distinct]
        return ids.replace_strict(distinct, pl.Series(codes, dtype=pl.String), return_dtype=pl.String)

    return frame.with_columns(pl.col("user_id").map_batches(hashed, return_dtype=pl.String, is_elementwise=True))


def hashed_id(user_id: str, salt: str) -> str:
    """What the lake stores in place of a logged user id."""
    return hmac.new(salt.encode(), user_id.encode(), hashlib.blake2s).hexdigest()[:24]


def canonical_unreadable(opened: Opened, config: IngestConfig) -> list[str]:
    """One line per column of times or numbers with values that cannot be read; the first is shown with its place.

    Raises DataError where no value of a column can be read: then it is not the rows that are wrong.
    """
    if not opened.records:
        return []
    raw = _renamed(opened.frame(as_text=True), config.layout)
    schema = raw.collect_schema()
    names = [name for name, dtype in TABLES[config.table].items() if name in schema and dtype != pl.String]
    with clocks_in(config.layout.time_zone):
        read = conform(raw, config.table, opened.source).select(pl.col(names).name.suffix("/read"))
    both = pl.concat([raw.select(names), read], how="horizontal").with_row_index("/record")
    told = []
    for name in names:
        given = pl.col(name).is_not_null()
        if schema[name] == pl.String:
            given &= pl.col(name).str.strip_chars() != ""
        bad = given & pl.col(f"{name}/read").is_null()
        count, all_of, place, value = (
            both.select(bad.sum().alias("bad"), given.sum().alias("given"), pl.col("/record").filter(bad).first(),
                        pl.col(name).filter(bad).first()).collect().row(0)
        )  # fmt: skip
        if not count:
            continue
        first = f"the first is {excerpt(value)!r} ({opened.place(place)})"
        if count == all_of:
            raise DataError(
                f"{opened.source}: none of the {count} values of {name} can be read as {TABLES[config.table][name]}; "
                f"{first}. Convert the column in the source, or map another in layout.columns."
            )
        told.append(f"{count} of {all_of} values of {name} cannot be read; {first}")
    return told


def canonical_parts(opened: Opened, config: IngestConfig) -> Counter[str]:
    """Parts of the texts of canonical rows that are no text, by kind."""
    raw = _renamed(opened.frame(as_text=True), config.layout)
    dtype = raw.collect_schema().get("content")
    if dtype is None or not (dtype == pl.String or isinstance(dtype, pl.List | pl.Struct)):
        return Counter()
    text = pl.col("content") if dtype == pl.String else pl.struct("content").struct.json_encode()
    held = raw.select(text).filter(pl.col("content").str.contains(MEDIA.pattern)).collect()["content"]
    return sum((media_in(one) for one in held), Counter[str]())


def _renamed(frame: pl.LazyFrame, layout: MessagesLayout) -> pl.LazyFrame:
    """The columns that the layout names under our names; one that already has such a name gives way."""
    found = frame.collect_schema()
    return frame.with_columns(
        pl.col(source).alias(name) for name, source in layout.columns.items() if source in found and source != name
    )


def _exploded(frame: pl.LazyFrame, layout: MessagesLayout, where: str) -> tuple[pl.LazyFrame, dict[str, Any]]:
    """One row per message with the conversation's columns, `turn_index` and ids; and the message struct's fields."""
    frame = _completed(frame, layout)
    schema = frame.collect_schema()
    name = next((column for column in layout.messages if column in schema), None)
    dtype = schema[name] if name is not None else None
    entry = dtype.inner if isinstance(dtype, pl.List) else None
    if name is None or not isinstance(entry, pl.Struct):
        raise DataError(
            f"{where}: expected a column {' or '.join(layout.messages)} with a list of message objects; "
            f"found {dict(schema)}. Name it in layout.messages."
        )
    fields: dict[str, Any] = {field.name: field.dtype for field in entry.fields}
    sources = {target: source for target in _PER_CONVERSATION if (source := _source_of(target, layout, schema))}
    outer = {target: pl.col(source) for target, source in sources.items()}
    outer["conversation_id"] = _by_place(sources.get("conversation_id"), schema, where)
    if layout.users == "per_conversation":
        outer["user_id"] = outer["conversation_id"]
    inner = {
        target: source
        for target in _PER_MESSAGE
        if (source := _source_of(target, layout, fields)) and not (target == "user_id" and layout.users != "logged")
    }
    role = _role(fields, layout, where, pl.element())
    if "reply_logprob" in outer:  # said of a whole conversation it is that of its only reply, or of none
        only = pl.col(name).list.eval((role == "assistant").cast(pl.Int32)).list.sum() == 1
        outer["reply_logprob"] = pl.when(only).then(outer["reply_logprob"])
    position = pl.int_ranges(pl.col(name).list.len()).alias("position")
    turns = pl.col(name).list.eval((role == "user").cast(pl.Int32).cum_sum() - 1).alias("turn_index")
    # The last reply of the conversation, which a label of the whole is about.
    replies = (role == "assistant").cast(pl.Int32)
    closing = pl.col(name).list.eval((replies == 1) & (replies.cum_sum(reverse=True) == 1)).alias("closing")
    conversations = frame.with_row_index("place").filter(pl.col(name).list.len() > 0).select(
        *(column.alias(target) for target, column in outer.items()),
        pl.col(name).alias("message"), turns, position, closing,
        *(pl.col(label).alias(f"label/{label}") for label in layout.labels if label in schema),
    )  # fmt: skip
    rows = conversations.explode("message", "turn_index", "position", "closing", empty_as_null=False)
    own = {target: pl.col("message").struct.field(source) for target, source in inner.items()}
    # A message that names none of its own (a user, a model) has its conversation's; a time is never lent.
    lent = [target for target in own if target in outer and target in _LENT]
    own |= {target: pl.coalesce(own[target].cast(pl.String), pl.col(target).cast(pl.String)) for target in lent}
    named = rows.with_columns(column.alias(target) for target, column in own.items())
    placed = pl.format("{}/{}", "conversation_id", "position")
    if "message_id" not in inner or fields[inner["message_id"]] == pl.Null:
        named = named.with_columns(message_id=placed)
    elif fields[inner["message_id"]] == pl.String:
        named = named.with_columns(message_id=pl.coalesce("message_id", placed))
    if "parent_id" in inner:
        named = _turns_on_paths(named, _role(fields, layout, where))
    return named, fields


def _completed(frame: pl.LazyFrame, layout: MessagesLayout) -> pl.LazyFrame:
    """Rows of a prompt and its completion (TRL's unpaired preferences) as conversations; others as they are."""
    schema = frame.collect_schema()
    sides = {"prompt": "user", "completion": "assistant"}
    if any(name in schema for name in layout.messages) or not all(name in schema for name in sides):
        return frame
    if all(schema[name] == pl.String for name in sides):
        said = [
            pl.col(name).map_batches(partial(_said, role=role), return_dtype=PROMPT) for name, role in sides.items()
        ]
        return frame.with_columns(pl.concat_list(said).alias(layout.messages[0]))
    if isinstance(schema["prompt"], pl.List) and schema["prompt"] == schema["completion"]:
        return frame.with_columns(pl.concat_list(*sides).alias(layout.messages[0]))
    return frame


def _said(texts: pl.Series, *, role: str) -> pl.Series:
    """Each text as one message of `role`, or as the messages whose JSON it is."""
    found = [listed_messages(text) or [{"role": role, "content": text}] for text in texts]
    return pl.Series(texts.name, found, dtype=PROMPT)


def _by_place(source: str | None, schema: Mapping[str, Any], where: str) -> pl.Expr:
    """The conversation's id, or where it has none its place in the source, with the date in the source's name if there."""
    date = re.search(r"\d{4}-\d{2}-\d{2}", where)
    place = pl.format(f"{date[0]}/conversation-{{}}" if date else "conversation-{}", "place")
    if source is None or schema[source] == pl.Null:
        return place
    return pl.coalesce(source, place) if schema[source] == pl.String else pl.col(source)


def _turns_on_paths(messages: pl.LazyFrame, role: pl.Expr) -> pl.LazyFrame:
    """`turn_index` counted from the root of each message's own path: siblings are of one turn."""

    def counted(rows: pl.Series) -> pl.Series:
        known = {row["message_id"]: row for row in rows}
        turns = []
        for row in rows:
            seen, users, at = set(), 0, row
            while at is not None and at["message_id"] not in seen:
                seen.add(at["message_id"])
                users += at["role"] == "user"
                at = known.get(at["parent_id"])
            turns.append(users - 1)
        return pl.Series(turns, dtype=pl.Int32)

    tree = pl.struct("message_id", "parent_id", role.alias("role"))
    along = tree.map_batches(counted, return_dtype=pl.Int32).over("conversation_id")
    in_tree = pl.col("parent_id").is_not_null().any().over("conversation_id")
    return messages.with_columns(turn_index=pl.when(in_tree).then(along).otherwise("turn_index"))


def _source_of(target: str, layout: MessagesLayout, found: Mapping[str, object]) -> str | None:
    names = (layout.columns[target],) if target in layout.columns else _ALIASES.get(target, (target,))
    return next((name for name in names if name in found), None)


def _role(fields: Mapping[str, Any], layout: MessagesLayout, where: str, message: pl.Expr | None = None) -> pl.Expr:
    """Who speaks, of the message struct with these fields."""
    role, content = (_name(fields, names, where, what) for names, what in
                     ((layout.role, "role"), (layout.content, "content")))  # fmt: skip
    return _speaker(fields, (pl.col("message") if message is None else message).struct.field, role, content, layout)


def _speaker(
    found: Mapping[str, Any], column: Callable[[str], pl.Expr], role: str, content: str, layout: MessagesLayout
) -> pl.Expr:
    said = column(role).cast(pl.String).replace(layout.roles)
    return as_speaker(
        said, (column(content), found[content]), [(column(name), found[name]) for name in CALLS if name in found]
    )


def _text_or_refusal(found: Mapping[str, Any], column: Callable[[str], pl.Expr], content: str) -> pl.Expr:
    refused = found.get(REFUSAL) == pl.String
    return or_refusal(column(content), found[content], column(REFUSAL)) if refused else column(content)


def _name(fields: Mapping[str, Any], names: Sequence[str], where: str, what: str) -> str:
    name = next((name for name in names if name in fields), None)
    if name is None:
        raise DataError(
            f"{where}: messages have no field {' or '.join(names)}; found {sorted(fields)}. Name it in layout.{what}."
        )
    return name
