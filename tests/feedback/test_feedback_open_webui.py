"""Open WebUI's exports: trees with their paths, ratings in both exports, what the page shows of a reply, pairs of siblings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.feedback.config import IngestConfig, PairsConfig
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.pairs import build_pairs
from tests.feedback.logs import paths, validated

CASES = Path(__file__).parent / "fixtures" / "cases"
Record = dict[str, Any]


def read(table: str, source: str | Path, **layout: Any) -> pl.DataFrame:
    config = {"format": "open_webui", "table": table, "source": str(source), "layout": layout}
    return read_table(IngestConfig.model_validate(config)).collect()


def labels(messages: str | Path, reactions: str | Path) -> dict[tuple[str, str], tuple[int | None, int | None]]:
    log = validated(read("messages", messages), read("reactions", reactions), signals=("thumbs_up", "thumbs_down"),
                    exposure="all_shown")  # fmt: skip
    return {(row["conversation_id"], row["message_id"]): (row["label_thumbs_up"], row["label_thumbs_down"])
            for row in log.replies.to_dicts()}  # fmt: skip


def _node(name: str, parent: str | None, content: str, at: int = 0, **more: Any) -> Record:
    role = "user" if name.startswith("u") else "assistant"
    return {"id": name, "parentId": parent, "role": role, "content": content, "timestamp": 1777800000 + at, **more}


def _chat(name: str, *nodes: Record, updated_at: int = 1777800900, **more: Any) -> Record:
    tree = {node["id"]: node for node in nodes}
    return {"id": name, "user_id": "p1", "chat": {"history": {"messages": tree}}, "updated_at": updated_at, **more}


def _feedback(name: str, chat: Record | None, message: str, rating: int | None, at: int = 600) -> Record:
    meta = {"message_id": message, "chat_id": chat["id"] if chat else "c1"}
    return {
        "id": name, "user_id": "p1", "type": "rating", "data": {"rating": rating}, "meta": meta,
        "snapshot": {"chat": chat} if chat else None, "created_at": 1777800000 + at, "updated_at": 1777800000 + at,
    }  # fmt: skip


def _file(path: Path, *records: Record) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def _pairs(source: Path) -> list[tuple[str, str, str]]:
    made = build_pairs(PairsConfig(format="open_webui", source=str(source)), seed=0)
    rows = pl.concat([made.train, made.eval]).to_dicts()
    return sorted((" / ".join(one["content"] for one in row["prompt"]), row["chosen"][0]["content"],
                   row["rejected"][0]["content"]) for row in rows)  # fmt: skip


@pytest.mark.parametrize(("file", "expected"), [
    ("feedback.json", {
        "a1": ["Plan a day in Rome", "Colosseum, Forum."], "a1b": ["Plan a day in Rome", "Vatican, Trastevere."],
        "a2": ["Plan a day in Rome", "Colosseum, Forum.", "Make it cheap", "Walk and picnic."],
        "a2e": ["Plan a day in Rome", "Colosseum, Forum.", "Make it fancy", "Rooftop dinner."],
        "a3": ["Plan a day in Rome", "Vatican, Trastevere.", "And with children?", "Gelato and the zoo."],
    }),
    ("feedback_back_to_first.json", {
        "a1": ["Plan a day in Rome", "Colosseum, Forum."], "a1b": ["Plan a day in Rome", "Vatican, Trastevere."],
        "a2": ["Plan a day in Rome", "Colosseum, Forum.", "What does the first one cost?", "The Colosseum is 18 euros."],
    }),
    ("feedback_first_edited.json", {"a1": ["Capital of Peru?", "Lima."], "a1e": ["Capital of Chile?", "Santiago."]}),
])  # fmt: skip
def test_every_reply_of_a_tree_has_the_path_from_its_own_root(file: str, expected: dict[str, list[str]]) -> None:
    messages = read("messages", CASES / "09-branches-edited-question" / file)
    assert paths(messages) == expected
    turns = dict(messages.select("message_id", "turn_index").rows())
    assert all(turns[one] == len(path) // 2 - 1 for one, path in expected.items())


def test_copied_chats_share_message_ids_and_keep_their_own_ratings(tmp_path: Path) -> None:
    copied = [_node("u1", None, "Name a tree"), _node("a1", "u1", "An elm.", 5)]
    on = [_node("u2", "a1", "Another", 50), _node("a2", "u2", "An oak.", 55)]
    chats = _file(tmp_path / "chats.json", _chat("c1", *copied), _chat("c2", *copied, *on, originalChatId="c1"))
    messages = read("messages", chats)
    assert messages.group_by("conversation_id").len().sort("conversation_id").rows() == [("c1", 2), ("c2", 4)]
    rated = _file(tmp_path / "f.json", _feedback("f1", _chat("c1", *copied), "a1", 1))
    reactions = read("reactions", rated)
    assert reactions.select("conversation_id", "message_id").unique().rows() == [("c1", "a1")]


def test_a_parent_that_was_deleted_ends_the_path_and_a_circle_breaks_nothing(tmp_path: Path) -> None:
    chat = _chat(
        "c1", _node("u2", "gone", "And two?"), _node("a2", "u2", "Four.", 5), _node("a2b", "u2", "Five.", 6),
        _node("a2c", "u2", "Six.", 7), _node("u8", "a9", "x", 8), _node("a9", "u8", "y", 9),
    )  # fmt: skip
    messages = read("messages", _file(tmp_path / "chats.json", chat))
    assert messages.height == 6
    parents = dict(messages.select("message_id", "parent_id").rows())
    assert parents["u2"] == "gone" and [parents[one] for one in ("a2", "a2b", "a2c")] == ["u2"] * 3
    assert {turn for one, turn in messages.select("message_id", "turn_index").rows() if "2" in one} == {0}


def test_annotations_of_the_chats_export_are_ratings(tmp_path: Path) -> None:
    source = CASES / "10-openwebui-chats-annotation" / "chats.json"
    assert labels(source, source) == {("c1", "b"): (1, 0), ("c2", "y"): (0, 1)}
    nodes = [
        _node("u1", None, "Hi"), _node("a1", "u1", "Hello.", 5, annotation={"rating": None}),
        _node("a2", "u1", "Hey.", 6, annotation={"rating": "1", "comment": "x"}), _node("a3", "u1", "Yo.", 7),
        _node("a4", "u1", "Hm.", 8, annotation={"comment": "no rating"}), _node("a5", "u1", "Oh.", 9, rating=-1),
    ]  # fmt: skip
    reactions = read("reactions", _file(tmp_path / "chats.json", _chat("c9", *nodes)))
    assert reactions.select("message_id", "signal", "value").rows() == [
        ("a1", "thumbs_up", 0), ("a1", "thumbs_down", 0), ("a2", "thumbs_up", 1), ("a2", "thumbs_down", 0),
        ("a4", "thumbs_up", None), ("a4", "thumbs_down", None), ("a5", "thumbs_up", 0), ("a5", "thumbs_down", 1),
    ]  # fmt: skip
    assert reactions["reacted_at"].dt.second().to_list() == [5, 5, 6, 6, 8, 8, 9, 9]
    assert reactions["updated_at"].dt.minute().unique().to_list() == [35]


@pytest.mark.parametrize(("content", "shown"), [
    ('<details type="reasoning" done="true" duration="2">\n<summary>Thought</summary>\n> six\n</details>\n42', "42"),
    ("<details type='tool_calls' done=\"true\">\n{}\n</details>\nFirst.\n<details type=\"reasoning\">x</details>Then.",
     "First.\nThen."),
    ("<think>\nsix sevens\n</think>\n\n42", "42"),
    ("<details><summary>Spoiler</summary>He dies.</details>", "<details><summary>Spoiler</summary>He dies.</details>"),
    ("Use <think> as a tag.", "Use <think> as a tag."),
    ('<details type="reasoning" done="false">\nit never ended', ""),
])  # fmt: skip
def test_a_reply_is_what_its_page_shows(content: str, shown: str, tmp_path: Path) -> None:
    nodes = [_node("u1", None, content), _node("a1", "u1", content, 5)]
    source = _file(tmp_path / "chats.json", _chat("c1", *nodes))
    assert read("messages", source)["content"].to_list() == [content, shown]  # what a user typed stays
    assert read("messages", source, folded="kept")["content"].to_list() == [content, content]


def test_the_reasoning_case_and_replies_in_output_items(tmp_path: Path) -> None:
    assert read("messages", CASES / "11-openwebui-reasoning-blocks" / "chats.json")["content"].to_list() == [
        "6*7?",
        "42",
    ]
    folder = CASES / "39-openwebui-output-only"
    for messages in ("chats.json", "feedback.json"):
        assert labels(folder / messages, folder / "feedback.json") == {("c1", "b"): (1, 0)}
        assert read("messages", folder / messages)["content"].to_list() == ["Name a tree", "An elm."]
    output = [{"type": "reasoning", "content": [{"type": "output_text", "text": "hm"}]},
              {"type": "message", "content": [{"type": "output_text", "text": "One."}]},
              {"type": "function_call", "name": "f", "arguments": "{}"},
              {"type": "message", "content": [{"type": "output_text", "text": "Two."}, {"type": "refusal"}]}]  # fmt: skip
    folded = '<details type="reasoning">hm</details>\n'
    nodes = [_node("u1", None, "Count"), *(_node(f"a{n}", "u1", text, 5 + n, output=items) for n, (text, items) in
             enumerate([("", output), (folded, json.dumps(output)), ("Three.", output), ("", None)]))]  # fmt: skip
    made = read("messages", _file(tmp_path / "chats.json", _chat("c1", *nodes)))
    assert made["content"].to_list()[1:] == ["One.\nTwo.", "One.\nTwo.", "Three.", ""]


def test_feedback_without_a_chat_still_rates(tmp_path: Path) -> None:
    folder = CASES / "40-openwebui-feedback-no-snapshot"
    assert labels(folder / "chats.json", folder / "feedback.json") == {("c1", "b"): (1, 0)}
    assert labels(folder / "chats.json", folder / "feedback_null_chat.json") == {("c1", "b"): (0, 1)}
    for name in ("feedback.json", "feedback_null_chat.json"):
        assert read("messages", folder / name).is_empty()


def test_the_text_of_a_rated_reply_is_that_of_its_own_row(tmp_path: Path) -> None:
    """The reply was edited after it was rated: later snapshots, whatever their place, hold another text."""

    def chat(text: str, *more: Record) -> Record:
        return _chat("c1", _node("u1", None, "Name a tree"), _node("a1", "u1", text, 5), *more)

    later = [_node("u2", "a1", "Another", 700), _node("a2", "u2", "An oak.", 705)]
    rows = [_feedback("f1", chat("An elm."), "a1", 1), _feedback("f2", chat("EDITED", *later), "a2", -1, at=800)]
    for order in (rows, rows[::-1]):
        messages = read("messages", _file(tmp_path / "f.json", *order))
        assert messages.select("message_id", "content").rows() == [
            ("u1", "Name a tree"), ("a1", "An elm."), ("u2", "Another"), ("a2", "An oak."),
        ]  # fmt: skip


def test_no_pair_of_siblings_rated_alike_and_one_of_those_rated_apart(tmp_path: Path) -> None:
    def chat(edited: str = "") -> Record:
        return _chat("c1", _node("u1", None, "Name a tree"), _node("a1", "u1", f"An elm.{edited}", 5),
                     _node("a2", "u1", "An oak.", 6), _node("a3", "u1", "A whale.", 7))  # fmt: skip

    both = [_feedback("f1", chat(), "a1", 1), _feedback("f2", chat(" EDITED"), "a2", 1, at=700)]
    ask = "Name a tree"
    assert _pairs(_file(tmp_path / "a.json", *both)) == [(ask, "An elm.", "A whale."), (ask, "An oak.", "A whale.")]
    apart = [*both, _feedback("f3", chat(" EDITED"), "a3", -1, at=800)]
    assert _pairs(_file(tmp_path / "b.json", *apart[::-1])) == [
        (ask, "An elm.", "A whale."),
        (ask, "An oak.", "A whale."),
    ]
    # A rating that was changed in place: only its last state makes pairs.
    changed = [*both, _feedback("f1", chat(), "a1", -1, at=900)]
    assert _pairs(_file(tmp_path / "c.json", *changed)) == [
        (ask, "A whale.", "An elm."), (ask, "An oak.", "A whale."), (ask, "An oak.", "An elm."),
    ]  # fmt: skip
    revoked = [both[0], _feedback("f1", chat(), "a1", None, at=900)]
    assert _pairs(_file(tmp_path / "d.json", *revoked)) == []


def test_pairs_from_annotations_of_the_chats_export(tmp_path: Path) -> None:
    nodes = [
        _node("u1", None, "Name a tree"), _node("a1", "u1", "An elm.", 5, annotation={"rating": 1}),
        _node("a2", "u1", "An oak.", 6, annotation={"rating": 1}), _node("a3", "u1", "A whale.", 7, annotation={"rating": -1}),
    ]  # fmt: skip
    ask = "Name a tree"
    assert _pairs(_file(tmp_path / "chats.json", _chat("c1", *nodes))) == [
        (ask, "An elm.", "A whale."), (ask, "An oak.", "A whale."),
    ]  # fmt: skip
