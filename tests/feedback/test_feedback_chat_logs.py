"""Conversations per line: ids by place, labels of whole conversations, parents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ingest import read_table
from tests.feedback.logs import paths, validated

CASE = Path(__file__).parent / "fixtures" / "cases" / "20-sharegpt-and-kto"
SIGNALS = ("thumbs_up", "thumbs_down")


def read(table: str, source: str | Path, **layout: Any) -> pl.DataFrame:
    config = {"format": "messages", "table": table, "source": str(source), "layout": layout}
    return read_table(IngestConfig.model_validate(config)).collect()


def labels(source: str | Path, exposure: str = "logged", **layout: Any) -> dict[str, tuple[int | None, int | None]]:
    messages, reactions = (read(table, source, **layout) for table in ("messages", "reactions"))
    log = validated(messages, reactions, signals=SIGNALS, exposure=exposure, time="none")
    return {row["message_id"]: (row["label_thumbs_up"], row["label_thumbs_down"]) for row in log.replies.to_dicts()}


def _log(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _said(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)], **more}


def test_conversations_without_ids_are_known_by_their_place(tmp_path: Path) -> None:
    messages = read("messages", CASE / "sharegpt.jsonl", users="per_conversation")
    assert messages["conversation_id"].unique().to_list() == ["conversation-0"]
    assert messages["user_id"].to_list() == messages["conversation_id"].to_list()
    lines = [_said("a", "b"), _said("c", "d", id=None), _said("e", "f", id="mine")]
    messages = read("messages", _log(tmp_path / "log.jsonl", *lines), users="per_conversation")
    assert messages["message_id"].to_list() == [
        "conversation-0/0", "conversation-0/1", "conversation-1/0", "conversation-1/1", "mine/0", "mine/1",
    ]  # fmt: skip
    # Files of days keep their conversations apart.
    dated = read("messages", _log(tmp_path / "2026-05-03.jsonl", *lines), users="per_conversation")
    assert dated["conversation_id"].to_list()[0] == "2026-05-03/conversation-0"


@pytest.mark.parametrize("exposure", ["logged", "all_shown"])
def test_a_label_per_conversation_is_a_signal_of_its_last_reply(exposure: str, tmp_path: Path) -> None:
    assert labels(CASE / "kto.jsonl", exposure, users="per_conversation") == {"k1/1": (1, 0), "k2/1": (0, 1)}
    lines = [
        _said("a", "b", "c", "d", id="k1", user="u", kto_tag=True),
        _said("a", "b", "c", "d", "e", id="k2", user="u", kto_tag=False),
        _said("a", "b", id="k3", user="u", kto_tag=None),
    ]
    # What the label does not speak of is not known: earlier replies, and the conversation without one.
    assert labels(_log(tmp_path / "log.jsonl", *lines), exposure) == {
        "k1/1": (None, None), "k1/3": (1, 0), "k2/1": (None, None), "k2/3": (0, 1), "k3/1": (None, None),
    }  # fmt: skip


def test_numbers_are_labels_only_where_the_layout_says_so(tmp_path: Path) -> None:
    log = _log(tmp_path / "log.jsonl", *(_said("a", "b", id=f"s{n}", user="u", label=n) for n in range(1, 6)))
    assert read("reactions", log).is_empty()
    rule = {"up": "thumbs_up", "up_from": 4, "down": "thumbs_down", "down_to": 2}
    found = labels(log, labels={"label": rule})
    assert list(found.values()) == [(0, 1), (0, 1), (0, 0), (1, 0), (1, 0)]


def test_prompt_and_completion_with_a_label(tmp_path: Path) -> None:
    plain = _log(tmp_path / "plain.jsonl", {"prompt": "Name a tree", "completion": "An elm.", "label": True})
    said = _said("Name a fish", "A whale.")["messages"]
    listed = _log(tmp_path / "said.jsonl", {"prompt": said[:1], "completion": said[1:], "label": False})
    assert labels(plain, users="per_conversation") == {"conversation-0/1": (1, 0)}
    assert labels(listed, users="per_conversation") == {"conversation-0/1": (0, 1)}


def test_messages_that_name_their_parents_are_a_tree(tmp_path: Path) -> None:
    nodes = [("q1", None, "user"), ("a1", "q1", "assistant"), ("a1b", "q1", "assistant"), ("q2", "a1", "user"),
             ("q2e", "a1", "user"), ("a2e", "q2e", "assistant"), ("a2", "q2", "assistant")]  # fmt: skip
    messages = [{"id": one, "parent_id": parent, "role": role, "content": one} for one, parent, role in nodes]
    log = _log(
        tmp_path / "log.jsonl", {"id": "c", "user": "u", "messages": messages}, _said("x", "y", id="d", user="u")
    )
    read_back = read("messages", log)
    assert paths(read_back.filter(pl.col("conversation_id") == "c")) == {
        "a1": ["q1", "a1"], "a1b": ["q1", "a1b"], "a2": ["q1", "a1", "q2", "a2"], "a2e": ["q1", "a1", "q2e", "a2e"],
    }  # fmt: skip
    assert read_back.filter(pl.col("conversation_id") == "d")["message_id"].to_list() == ["d/0", "d/1"]
    turns = dict(read_back.filter(pl.col("conversation_id") == "c").select("message_id", "turn_index").rows())
    assert turns == {"q1": 0, "a1": 0, "a1b": 0, "q2": 1, "q2e": 1, "a2e": 1, "a2": 1}


def test_reactions_name_their_conversation(tmp_path: Path) -> None:
    """Two conversations share message ids: each reaction stays with its own."""

    def one(name: str, value: int) -> dict[str, Any]:
        reactions = [{"name": "thumbs_up", "value": value}]
        return {"id": name, "user": "u", "messages": [
            {"id": "m1", "role": "user", "content": "hi"},
            {"id": "m2", "role": "assistant", "content": "yo", "reactions": reactions,
             "marks": {"thumbs_down": 1 - value}}]}  # fmt: skip

    reactions = read("reactions", _log(tmp_path / "log.jsonl", one("c1", 1), one("c2", 0)))
    assert sorted(reactions.select("conversation_id", "message_id", "signal", "value").rows()) == [
        ("c1", "m2", "thumbs_down", 0), ("c1", "m2", "thumbs_up", 1),
        ("c2", "m2", "thumbs_down", 1), ("c2", "m2", "thumbs_up", 0),
    ]  # fmt: skip
