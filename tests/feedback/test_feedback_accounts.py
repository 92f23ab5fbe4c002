"""No record vanishes unsaid: what a file holds is counted where it is read, and held against what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.feedback import adapters
from rluf_assets.feedback.config import ContractConfig, IngestConfig
from rluf_assets.feedback.contract import validate
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.reading import DayRead, read_day, told
from tests.feedback.test_feedback_astray import CASES, _labels, _log, _made, _read


def _day(log_format: str, source: Path, table: str = "messages", **layout: Any) -> DayRead:
    config = {"format": log_format, "table": table, "source": str(source), "layout": layout}
    return read_day(IngestConfig.model_validate(config), source.parent / "out.parquet", f"{source.parent}/lake/raw/d/f")


def _told(found: DayRead) -> list[str]:
    return told(found.metrics(), found.table)


SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_conversations_are_counted_one_by_one_against_their_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _log(tmp_path / "m.jsonl", {"id": "a", "user": "u", "messages": SAID}, {"id": "b", "user": "u", "messages": []},
                {"id": "c", "user": "u", "messages": None}, {"id": "d", "user": "u", "title": "Notes"})  # fmt: skip
    found = _day("messages", file)
    assert (found.records, found.source_rows, found.rows) == (4, 2, 2)
    assert _told(found) == [
        "2 records without messages (conversation without messages)",
        "1 records without messages (record with id, user, title)",
    ]
    whole = adapters.ADAPTERS["messages"]

    def losing(*given: Any) -> pl.LazyFrame:
        return whole.messages(*given).head(1)

    monkeypatch.setitem(adapters.ADAPTERS, "messages", whole._replace(messages=losing))
    with pytest.raises(DataError, match="2 messages in the files, 1 accounted for"):
        _day("messages", file)


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "…"}}
PARTS = [{"type": "text", "text": "What is this?"}, IMAGE, AUDIO, IMAGE]


def _messages(content: Any) -> dict[str, Any]:
    return {"id": "c", "user": "u", "messages": [{"role": "user", "content": content}, SAID[1]]}


def _canonical(content: Any) -> dict[str, Any]:
    return {
        "conversation_id": "c",
        "message_id": "m",
        "turn_index": 0,
        "role": "user",
        "content": content,
        "user_id": "u",
    }


def _generation(content: Any) -> dict[str, Any]:
    return {"id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-05-03T10:00:00Z", "userId": "u",
            "input": [{"role": "user", "content": content}], "output": "A cat."}  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("log_format", "record"), [("messages", _messages), ("canonical", _canonical), ("langfuse", _generation)]
)
def test_parts_that_are_no_text_are_counted_and_told(
    log_format: str, record: Callable[[Any], dict[str, Any]], as_text: bool, tmp_path: Path
) -> None:
    file = _log(tmp_path / "m.jsonl", record(json.dumps(PARTS) if as_text else PARTS), record("plain"))
    found = _day(log_format, file)
    assert _told(found) == [
        "2 parts of messages that are no text, left out (image_url)",
        "1 parts of messages that are no text, left out (input_audio)",
    ]
    assert pl.read_parquet(tmp_path / "out.parquet")["content"].head(1).to_list() == ["What is this?"]


def test_a_message_of_an_image_alone_is_set_aside_with_its_reply(tmp_path: Path) -> None:
    log = _made(_read("messages", "messages", _log(tmp_path / "m.jsonl", _messages([IMAGE]))), time="none")
    assert log.quarantine["defect"].to_list() == ["empty_text", "reply_without_user_message"] and log.replies.is_empty()


# ------------------------------------------------------------------------------------------------- calls without ids


def _call(at: int, **more: Any) -> dict[str, Any]:
    times = {name: f"2026-05-03T10:{at:02}:0{second}Z" for name, second in (("startTime", 0), ("endTime", 5))}
    said = {"input": [{"role": "user", "content": f"q{at}"}], "output": f"a{at}"}
    return {"type": "GENERATION", "userId": "u", "sessionId": "s", **times, **said, **more}


def test_observations_without_an_id_are_known_by_their_trace_or_named(tmp_path: Path) -> None:
    by_trace = [_call(0, traceId="t"), _call(20, traceId="t"), _call(40, traceId="v")]
    for order in (by_trace, by_trace[::-1]):
        messages = _read("langfuse", "messages", _log(tmp_path / "o.jsonl", *order))
        replies = messages.filter(pl.col("role") == "assistant")
        assert dict(replies.select("message_id", "content").iter_rows()) == {"t#0": "a0", "t#1": "a20", "v": "a40"}
    found = _day("langfuse", _log(tmp_path / "n.jsonl", _call(0), _call(20, id="o", traceId="t")))
    assert _told(found) == ["1 records without messages (call without an id)"] and found.rows == 2
    with pytest.raises(DataError, match="none of 2 records has an id"):
        _day("langfuse", _log(tmp_path / "none.jsonl", _call(0), _call(20)))


def test_runs_and_spans_without_an_id_do_not_take_each_others_place(tmp_path: Path) -> None:
    run = {"run_type": "llm", "inputs": {"messages": SAID[:1]}, "outputs": {"messages": SAID[1:]},
           "start_time": "2026-05-03T10:00:00Z"}  # fmt: skip
    span = {"start_time": "2026-05-03T10:00:00Z", "attributes": {"gen_ai.prompt": "hi", "gen_ai.completion": "hello"}}
    for log_format, record in (("langsmith", run), ("otel", span)):
        named = [record | {"trace_id": name} for name in "ab"]
        messages = _read(log_format, "messages", _log(tmp_path / "r.jsonl", *named), users="per_conversation")
        assert messages["content"].to_list() == ["hi", "hello"] * 2
        assert messages.select("conversation_id", "message_id").is_unique().all()


# -------------------------------------------------------------------------------------------------------------- marks


@pytest.mark.parametrize(("mark", "label"), [(1, 1), ("1", 1), (True, 1), ("yes", 1), (0, 0), ("?", None), (7, None)])
def test_a_mark_that_cannot_be_read_is_no_silence(mark: Any, label: int | None, tmp_path: Path) -> None:
    record = {"id": "c", "user": "u", "messages": [SAID[0], SAID[1] | {"marks": {"love": mark, "thumbs_up": None}}]}
    file = _log(tmp_path / "m.jsonl", record)
    log = _made(_read("messages", "messages", file), _read("messages", "reactions", file), time="none")
    assert list(_labels(log, "love").values()) == [label] and list(_labels(log).values()) == [0]


@pytest.mark.parametrize(("value", "label"), [("5", 1), ("2", 0), ("great", None), (None, None)])
def test_a_label_of_a_conversation_that_cannot_be_read_is_no_silence(
    value: str | None, label: int | None, tmp_path: Path
) -> None:
    layout = {"labels": {"stars": {"up": "love", "up_from": 4}}, "users": "per_conversation"}
    record = {"id": "c", "messages": SAID}
    file = _log(tmp_path / "m.jsonl", record | {"stars": value}, record | {"id": "d", "stars": "5"})
    messages, reactions = (_read("messages", table, file, **layout) for table in ("messages", "reactions"))
    log = validate(messages.lazy(), reactions.lazy(), _logged())
    assert log.replies["label_love"].to_list() == [label, 1]


def _logged() -> ContractConfig:
    return ContractConfig(signals=("love",), time="none")


def test_the_case_files_are_read_whole() -> None:
    """Every fixture of messages gives rows of which each record's share is known."""
    for name in (
        "13/mixed.jsonl",
        "14/messages.jsonl",
        "20-sharegpt-and-kto/sharegpt.jsonl",
        "consecutive_messages.jsonl",
    ):
        config = IngestConfig.model_validate(
            {
                "format": "messages",
                "table": "messages",
                "source": str(CASES / name),
                "layout": {"users": "per_conversation"},
            }
        )
        lines = [json.loads(line) for line in (CASES / name).read_text().splitlines()]
        told_of = sum(len(one.get("messages") or one["conversations"]) for one in lines)
        assert read_table(config).collect().height == told_of


REACTIONS: dict[str, tuple[dict[str, Any], list[int | None]]] = {
    "names": ({"reactions": ["love"]}, [1, 0]),
    "names and objects": ({"reactions": ["love", {"name": "thumbs_up", "value": 0}]}, [1, 0]),
    "objects": ({"reactions": [{"emoji": "love"}, {"emoji": "thumbs_up"}]}, [1, 1]),
    "marks": ({"reactions": {"love": True, "thumbs_up": None}}, [1, 0]),
    "counts": ({"reactions": {"love": 3}}, [None, 0]),
    "none": ({"reactions": []}, [0, 0]),
}


@pytest.mark.parametrize("kind", REACTIONS)
def test_reactions_on_messages_in_any_shape(kind: str, tmp_path: Path) -> None:
    given, expected = REACTIONS[kind]
    record = {"id": "c", "user": "u", "messages": [SAID[0], SAID[1] | given]}
    file = _log(tmp_path / "m.jsonl", record)
    log = _made(_read("messages", "messages", file), _read("messages", "reactions", file), time="none")
    assert [*_labels(log, "love").values(), *_labels(log).values()] == expected


def test_ratings_in_words_that_the_layout_does_not_name_are_told(tmp_path: Path) -> None:
    words = ["Good", " good ", "Fair", ""]
    file = _log(tmp_path / "m.jsonl", *({"id": str(n), "user": "u", "messages": [SAID[0], SAID[1] | {"mark": word, "vote": 1}]}
                                        for n, word in enumerate(words)))  # fmt: skip
    layout = {"ratings": {"mark": {"good": "love"}}}
    found = _day("messages", file, "reactions", **layout)
    assert found.rows == 2 and sorted(found.unread.items()) == [("mark: Fair", 1), ("vote", 4)]
    assert len(_told(found)) == 2 and "vote" in _told(found)[0]


@pytest.mark.parametrize(
    "record",
    [
        {"id": "c", "user": "u", "messages": [SAID[0], SAID[1] | {"rating": 5}]},
        {"prompt": "hi", "completion": "hello", "label": 1},
        {"prompt": "hi", "completion": "hello", "label": "True"},
    ],
)
def test_reactions_that_nothing_reads_are_an_error_that_names_them(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no reaction is read, but there are .*(rating|label: label) \(1\)"):
        _day("messages", _log(tmp_path / "m.jsonl", record), "reactions", users="per_conversation")


def test_a_label_of_a_conversation_without_a_reply_is_told_and_a_side_file_without_signals_named(
    tmp_path: Path,
) -> None:
    labelled = [{"messages": SAID, "label": True}, {"messages": SAID[:1], "label": False}]
    found = _day("messages", _log(tmp_path / "kto.jsonl", *labelled), "reactions", users="per_conversation")
    assert (found.records, found.rows, dict(found.unread)) == (2, 2, {"label: conversation without a reply": 1})
    side = _log(tmp_path / "side.jsonl", {"message_id": "a", "rating": "up"})
    with pytest.raises(DataError, match=r"no column says which signal .*; found \['message_id', 'rating'\]"):
        _day("messages", side, "reactions")


def test_a_side_that_is_the_json_of_messages_is_no_text(tmp_path: Path) -> None:
    file = _log(tmp_path / "m.jsonl", {"prompt": SAID[:1], "completion": SAID[1:], "label": True},
                {"prompt": "hi", "completion": "go", "label": False})  # fmt: skip
    rows = _read("messages", "messages", file, users="per_conversation")
    assert rows["content"].to_list() == ["hi", "hello", "hi", "go"]


def test_a_score_or_rating_that_cannot_be_read_is_no_silence(tmp_path: Path) -> None:
    folder = CASES / "04-one-trace-many-turns"
    messages = _read("langfuse", "messages", folder / "observations.jsonl")
    for value in ({"value": float("nan")}, {"value": None}, {"comment": "nice"}):
        score = {"id": "s", "name": "thumbs_up", "source": "API", "timestamp": "2026-05-03T10:30:00Z", "traceId": "t-whole",
                 "observationId": "o0", **value}  # fmt: skip
        log = _made(messages, _read("langfuse", "reactions", _log(tmp_path / "s.jsonl", score)))
        assert list(_labels(log).values()) == [None, 0, 0]
    chats = CASES / "40-openwebui-feedback-no-snapshot"
    (row,) = json.loads((chats / "feedback.json").read_text())
    for rating, label in (("up", None), (10, None), (None, 0), ("1", 1)):
        given = _log(tmp_path / "f.jsonl", row | {"data": row["data"] | {"rating": rating}})
        log = _made(_read("open_webui", "messages", chats / "chats.json"), _read("open_webui", "reactions", given))
        assert list(_labels(log).values()) == [label]
