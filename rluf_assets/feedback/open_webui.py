"""Open WebUI exports as canonical tables: the feedback export (with chat snapshots) and the chats export.

A chat is a tree: edited questions and regenerated replies are siblings, and `parent_id` keeps the path of each message.
Ratings are feedback rows, or annotations on the messages of an exported chat: 1, -1, or none (revoked); both tell the last
state only. `sibling_pairs` reads preference pairs off them: a rated reply against siblings that were not rated alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import polars as pl

from rluf_assets.feedback.calls import SCORE, Row, rows_of
from rluf_assets.feedback.chat_json import instant, moment, parsed, text_of
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.schemas import MESSAGES, PROMPT, conform

Node = dict[str, Any]
Tree = dict[str, Node]
# `rated`: the row's own feedback is about this message; `seen_at`: when the snapshot or the export was made.
_MESSAGE = {**MESSAGES, "created_at": pl.String, "rated": pl.Boolean, "seen_at": pl.Float64, "depth": pl.Int32}
_PAIR = {"pair_id": pl.String, "prompt": PROMPT, "chosen": PROMPT, "rejected": PROMPT, "use_case": pl.String}
_RATED = {"chat": pl.String, "message": pl.String, "rating": pl.Int8, "text": pl.String, "at": pl.Float64}
# What the page folds away: reasoning, tool calls, code that was run. A block that never ends hides the rest.
_FOLDED = re.compile(
    r"<details\b[^>]*\btype=[\"']?(reasoning|tool_calls|code_interpreter)\b[^>]*>.*?(</details>|\Z)"
    r"|\A\s*<think(ing)?>.*?(</think(ing)?>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def open_webui_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Every message of the chats' trees, once per chat however many feedback rows hold it.

    A rated reply has the text that was rated, of its own row's snapshot; all others the latest.
    """
    rows = rows_of(lines, partial(_messages, folded=layout.folded == "kept"), _MESSAGE).with_row_index("number")
    best = pl.struct("rated", pl.col("seen_at").fill_null(-1.0), "number").rank("ordinal", descending=True)
    kept = rows.filter(best.over("conversation_id", "message_id") == 1)
    chat = pl.col("number").min().over("conversation_id")
    return conform(kept.sort(chat, "turn_index", "depth", "created_at", "number"), "messages", where)


def open_webui_feedback(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Ratings as `thumbs_up` and `thumbs_down`, each set or revoked; a reply's id is the rated message's."""
    return conform(rows_of(lines, _ratings, SCORE), "reactions", where)


def sibling_pairs(lines: pl.LazyFrame) -> pl.LazyFrame:
    """TRL preference rows: a reply rated 1 is chosen over each sibling that was not, one rated -1 rejected for each."""
    rated: dict[tuple[str, str], Row] = {}
    for row in rows_of(lines, _rated, _RATED).collect().sort("at", nulls_last=False).iter_rows(named=True):
        rated[row["chat"], row["message"]] = row
    return rows_of(lines, partial(_pairs, rated=rated), _PAIR)


def _chat(record: dict[str, Any]) -> tuple[str | None, str | None, dict[str, Any]]:
    """Chat id, user id and the chat's content, of a feedback row's snapshot or of an exported chat."""
    outer = _dict(_dict(record.get("snapshot")).get("chat"))
    if not outer and not _is_feedback(record):
        outer = record
    meta, chat = _dict(record.get("meta")), _dict(outer.get("chat"))
    if not chat and ("history" in outer or "messages" in outer):  # the page's own download of one chat
        chat = outer
    chat_id: Any = (meta.get("chat_id") if _is_feedback(record) else None) or outer.get("id") or chat.get("id")
    return chat_id, outer.get("user_id") or record.get("user_id"), chat


def _is_feedback(record: dict[str, Any]) -> bool:
    return "snapshot" in record or (record.get("type") == "rating" and "data" in record)


def _tree(record: dict[str, Any]) -> Tree:
    """Messages by id; a chat without a history has its messages in a row."""
    chat = _chat(record)[2]
    found = _dict(_dict(chat.get("history")).get("messages"))
    tree: Tree = {
        str(name): {**node, "id": str(name), "parentId": _name(node.get("parentId"))}
        for name, node in found.items() if isinstance(node, dict)
    }  # fmt: skip
    if not tree:
        before, listed = None, chat.get("messages")
        said = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        for place, message in enumerate(said):
            name = str(message.get("id") or f"{_chat(record)[0]}/{place}")
            tree[name] = {**message, "id": name, "parentId": _name(message.get("parentId", before))}
            before = name
    return tree


def _path(tree: Tree, node_id: str | None) -> list[Node]:
    """Messages from the root to this one; a parent that is not there, or a cycle, ends it."""
    path: list[Node] = []
    seen: set[str] = set()
    while node_id in tree and node_id not in seen:
        seen.add(str(node_id))
        path.append(tree[str(node_id)])
        node_id = tree[str(node_id)].get("parentId")
    return path[::-1]


def _messages(record: Any, *, folded: bool) -> list[Row]:
    """The tree's messages, each with its turn on its own path."""
    if not isinstance(record, dict):
        return []
    tree, (chat_id, user_id, _) = _tree(record), _chat(record)
    rated, seen_at = _rated_id(record), moment(instant(record.get("updated_at") or record.get("created_at")))
    paths = {name: _path(tree, name) for name in tree}
    turns = {name: sum(node.get("role") == "user" for node in path) - 1 for name, path in paths.items()}
    return [
        {"conversation_id": chat_id, "message_id": name, "parent_id": tree[name].get("parentId"),
         "turn_index": turns[name], "role": tree[name].get("role"), "content": _text(tree[name], folded=folded),
         "user_id": user_id, "created_at": instant(tree[name].get("timestamp")),
         "policy_version": tree[name].get("model"), "rated": name == rated, "seen_at": seen_at,
         "depth": len(paths[name])}
        for name in tree
    ]  # fmt: skip


def _text(node: Node, *, folded: bool = False) -> str | None:
    """What the user saw of a message: without what the page folds away; newer versions keep a reply in `output`."""
    text = text_of(node.get("content"))
    if node.get("role") != "assistant":
        return text
    if text and not folded:
        text = _FOLDED.sub("", text).lstrip("\n")
    if text and text.strip():
        return text
    output = parsed(node.get("output"))
    items = [one for one in output if isinstance(one, dict)] if isinstance(output, list) else []
    said = [text_of(one.get("content")) for one in items if one.get("type") == "message"]
    return "\n".join(one for one in said if one) or text


def _rated_id(record: dict[str, Any]) -> str | None:
    return _name(_dict(record.get("meta")).get("message_id")) if _is_feedback(record) else None


def _ratings(record: Any) -> list[Row]:
    """A feedback row's rating, or those on the messages of an exported chat, which do not say when they were given.

    An annotation counts as given with the reply; the chat's last change says which state of it is newer.
    """
    if not isinstance(record, dict):
        return []
    chat_id, user_id, _ = _chat(record)
    updated = instant(record.get("updated_at"))
    if _is_feedback(record):
        data = parsed(record.get("data"))
        if not isinstance(data, dict) or "rating" not in data:
            return []
        at = instant(record.get("created_at")) or updated
        about = {"id": record.get("id"), "message_id": _rated_id(record), "user_id": record.get("user_id"), "at": at}
        return _thumbs(data.get("rating"), conversation_id=chat_id, updated_at=updated, **about)
    return [
        row
        for name, node in _tree(record).items() if (rating := _annotation(node)) is not None
        for row in _thumbs(rating, id=f"{chat_id}/{name}", message_id=name, conversation_id=chat_id, user_id=user_id,
                           at=instant(node.get("timestamp")), updated_at=updated)
    ]  # fmt: skip


def _thumbs(rating: Any, *, id: Any, at: str | None, **facts: Any) -> list[Row]:
    """None takes a rating back; one that cannot be read has no value."""
    value = _whole(rating)
    unread = rating is not None and value is None
    return [
        {**facts, "reaction_id": f"{id}#{signal}" if id else None, "signal": signal,
         "value": None if unread else int(value == wanted), "reacted_at": at, "source": "open_webui"}
        for signal, wanted in (("thumbs_up", 1), ("thumbs_down", -1))
    ]  # fmt: skip


def _annotation(node: Node) -> Any:
    """The rating on a message, or None; what was given and taken back is 0. One that only has a reason cannot be read."""
    if node.get("role") != "assistant":
        return None
    found = parsed(node.get("annotation"))
    if not isinstance(found, dict) or not found:
        return node.get("rating")  # where first versions kept it
    rating = found.get("rating", "")
    return rating if rating is not None else 0


def _rated(record: Any) -> list[Row]:
    """The ratings of a record, each with the text that was rated."""
    if not isinstance(record, dict):
        return []
    chat_id, _, _ = _chat(record)
    tree, at = _tree(record), moment(instant(record.get("updated_at") or record.get("created_at")))
    if _is_feedback(record):
        ratings = {str(_rated_id(record)): _dict(record.get("data")).get("rating")}
    else:
        ratings = {name: _annotation(node) for name, node in tree.items() if _annotation(node) is not None}
    return [
        {"chat": chat_id, "message": name, "rating": _whole(rating), "at": at,
         "text": _text(tree[name]) if name in tree else None}
        for name, rating in ratings.items()
    ]  # fmt: skip


def _pairs(record: Any, *, rated: dict[tuple[str, str], Row]) -> list[Row]:
    """Pairs of the record's rated replies; where both sides are rated, those of the chosen one's record."""
    if not isinstance(record, dict):
        return []
    chat_id, tree = str(_chat(record)[0]), _tree(record)
    mine = [_rated_id(record)] if _is_feedback(record) else [n for n in tree if _annotation(tree[n]) is not None]
    rows = []
    for name in mine:
        rating = rated.get((chat_id, str(name)), {}).get("rating")
        if name not in tree or rating not in (1, -1):
            continue
        for other in _siblings(tree, str(name)):
            its = rated.get((chat_id, other), {}).get("rating")
            if its == rating or (its in (1, -1) and rating == -1):
                continue
            sides = [_side(tree[one], rated.get((chat_id, one))) for one in (str(name), other)]
            chosen, rejected = sides if rating == 1 else sides[::-1]
            prompt = [{"role": one.get("role"), "content": _text(one)} for one in _path(tree, str(name))[:-1]]
            pair_id = f"{record.get('id') if _is_feedback(record) else f'{chat_id}/{name}'}/{other}"
            rows.append(
                {"pair_id": pair_id, "prompt": prompt, "chosen": chosen, "rejected": rejected, "use_case": None}
            )
    return rows


def _siblings(tree: Tree, name: str) -> Iterator[str]:
    """Other replies to the message that this one replies to."""
    parent = tree[name].get("parentId")
    for other, node in tree.items():
        if other != name and node.get("parentId") == parent and node.get("role") == "assistant":
            yield other


def _side(node: Node, rated: Row | None) -> list[dict[str, Any]]:
    text = (rated["text"] if rated else None) or _text(node)
    return [{"role": "assistant", "content": text}]


def _dict(value: Any) -> dict[str, Any]:
    found = parsed(value)
    return found if isinstance(found, dict) else {}


def _name(value: Any) -> str | None:
    """An id: text, or a number as text."""
    return str(value) if isinstance(value, str | int) else None


def _whole(rating: Any) -> int | None:
    try:
        value = float(rating)
    except (TypeError, ValueError):
        return None
    return int(value) if value in (-1, 0, 1) else None
