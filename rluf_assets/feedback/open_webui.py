"""Open WebUI exports as canonical tables: the feedback export (with chat snapshots) and the chats export.

A chat is a tree: regenerated replies are siblings in one turn. The feedback export tells only its last state: rating
1, -1, or none (revoked). `sibling_pairs` reads preference pairs off it: the rated reply against its siblings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from rluf_assets.feedback.calls import SCORE, Row, rows_of
from rluf_assets.feedback.chat_json import instant, parsed, text_of
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.schemas import MESSAGES, PROMPT, conform

_MESSAGE = {**MESSAGES, "created_at": pl.String}
_PAIR = {"pair_id": pl.String, "prompt": PROMPT, "chosen": PROMPT, "rejected": PROMPT, "use_case": pl.String}


def open_webui_messages(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Every message of the chats' trees, once however many feedback rows hold its chat."""
    rows = rows_of(lines, lambda record: [_row(record, node) for node in _nodes(record)], _MESSAGE)
    return conform(rows.unique("message_id", keep="last", maintain_order=True), "messages", where)


def open_webui_feedback(lines: pl.LazyFrame, layout: MessagesLayout, where: str) -> pl.LazyFrame:
    """Ratings as `thumbs_up` and `thumbs_down`, each set or revoked; a reply's id is the rated message's."""
    return conform(rows_of(lines, _ratings, SCORE), "reactions", where)


def sibling_pairs(lines: pl.LazyFrame) -> pl.LazyFrame:
    """TRL preference rows: a reply rated 1 is chosen over each sibling, one rated -1 is rejected for each."""
    return rows_of(lines, _pairs, _PAIR)


def _chat(record: dict[str, Any]) -> tuple[str | None, str | None, dict[str, Any]]:
    """Chat id, user id and the chat's content, of a feedback row's snapshot or of an exported chat."""
    outer = (parsed(record.get("snapshot")) or {}).get("chat") or record
    meta = parsed(record.get("meta")) or {}
    return meta.get("chat_id") or outer.get("id"), outer.get("user_id") or record.get("user_id"), outer.get("chat", {})


def _tree(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Messages by id; a chat without a history has its messages in a row."""
    chat = parsed(_chat(record)[2]) or {}
    tree = (chat.get("history") or {}).get("messages") or {}
    if not tree:
        tree, before = {}, None
        for message in chat.get("messages") or []:
            tree[message["id"]] = {"parentId": before, **message}
            before = message["id"]
    return dict(tree)


def _nodes(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tree's messages, parents first, each with its `turn` and the reply it regenerates left aside."""
    tree = _tree(record)
    turns: dict[str, int] = {}
    for node_id in tree:
        path = _path(tree, node_id)
        turns[node_id] = sum(node.get("role") == "user" for node in path) - 1
    for node_id in sorted(tree, key=lambda one: (turns[one], len(_path(tree, one)))):
        yield {**tree[node_id], "id": node_id, "turn": turns[node_id]}


def _path(tree: dict[str, dict[str, Any]], node_id: str | None) -> list[dict[str, Any]]:
    """Messages from the root to this one; a parent that is not there, or a cycle, ends it."""
    path: list[dict[str, Any]] = []
    seen: set[str] = set()
    while node_id in tree and node_id not in seen:
        seen.add(str(node_id))
        path.append(tree[str(node_id)])
        node_id = tree[str(node_id)].get("parentId")
    return path[::-1]


def _row(record: dict[str, Any], node: dict[str, Any]) -> Row:
    chat_id, user_id, _ = _chat(record)
    return {
        "conversation_id": chat_id, "message_id": node["id"], "turn_index": node["turn"], "role": node.get("role"),
        "content": text_of(node.get("content")), "user_id": user_id, "created_at": instant(node.get("timestamp")),
        "policy_version": node.get("model"),
    }  # fmt: skip


def _ratings(record: dict[str, Any]) -> list[Row]:
    data, meta = parsed(record.get("data")), parsed(record.get("meta")) or {}
    if not isinstance(data, dict) or "rating" not in data:
        return []
    rating = _rating(data)
    at = instant(record.get("updated_at") or record.get("created_at"))
    return [
        {"reaction_id": f"{record.get('id')}#{signal}", "message_id": meta.get("message_id"),
         "user_id": record.get("user_id"), "signal": signal, "value": int(rating == wanted), "reacted_at": at,
         "source": "open_webui"}
        for signal, wanted in (("thumbs_up", 1), ("thumbs_down", -1))
    ]  # fmt: skip


def _pairs(record: dict[str, Any]) -> list[Row]:
    data, meta = parsed(record.get("data")) or {}, parsed(record.get("meta")) or {}
    tree, rated = _tree(record), str(meta.get("message_id"))
    rating = _rating(data)
    if rating not in (1, -1) or rated not in tree:
        return []
    path = _path(tree, rated)
    prompt = [{"role": one.get("role"), "content": text_of(one.get("content"))} for one in path[:-1]]
    siblings = [
        (other_id, other) for other_id, other in tree.items()
        if other_id != rated and other.get("parentId") == path[-1].get("parentId") and other.get("role") == "assistant"
    ]  # fmt: skip
    mine = [{"role": "assistant", "content": text_of(path[-1].get("content"))}]
    rows = []
    for other_id, other in siblings:
        its = [{"role": "assistant", "content": text_of(other.get("content"))}]
        chosen, rejected = (mine, its) if rating == 1 else (its, mine)
        rows.append({"pair_id": f"{record.get('id')}/{other_id}", "prompt": prompt, "chosen": chosen,
                     "rejected": rejected, "use_case": None})  # fmt: skip
    return rows


def _rating(data: dict[str, Any]) -> int | None:
    try:
        return int(data["rating"])
    except (KeyError, TypeError, ValueError):
        return None
