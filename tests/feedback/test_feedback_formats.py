"""Every log format's fixture (written after the format's own documentation) through its adapter to labelled replies."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.errors import DataError
from rluf_assets.feedback.adapters import ADAPTERS
from rluf_assets.feedback.chat_json import instant, messages_of, reply_of
from rluf_assets.feedback.config import FORMATS, IngestConfig, PairsConfig
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.pairs import build_pairs
from rluf_assets.feedback.schemas import MESSAGES, REACTIONS
from tests.feedback.logs import clean_logs, validated

FIXTURES = Path(__file__).parent / "fixtures"
THUMBS = {"up": "thumbs_up", "down": "thumbs_down"}
LAYOUT = {"scores": dict.fromkeys(("user-feedback", "user_score", "user_rating"), THUMBS)}
SIGNALS = ("love", "thumbs_up", "thumbs_down")


def _read(name: str, table: str, source: str | Path, **settings: Any) -> pl.DataFrame:
    config = {"format": name, "table": table, "source": str(source), "layout": LAYOUT, **settings}
    return read_table(IngestConfig.model_validate(config)).collect(engine="streaming")


def _labelled(name: str, messages: str, reactions: str) -> tuple[dict[str, dict[str, int | None]], list[str]]:
    """Labels that are set per reply, and the names of what was set aside."""
    read = {table: _read(name, table, FIXTURES / file) for table, file in
            (("messages", messages), ("reactions", reactions))}  # fmt: skip
    assert read["messages"].schema == pl.Schema(MESSAGES) and read["reactions"].schema == pl.Schema(REACTIONS)
    log = validated(read["messages"], read["reactions"], signals=SIGNALS, exposure="all_shown")
    replies = {row["message_id"]: {s: row[f"label_{s}"] for s in SIGNALS} for row in log.replies.to_dicts()}
    return replies, sorted(log.quarantine["defect"].to_list())


def _labels(love: int | None, up: int | None, down: int | None) -> dict[str, int | None]:
    return {"love": love, "thumbs_up": up, "thumbs_down": down}


def test_langfuse() -> None:
    replies, aside = _labelled("langfuse", "langfuse_observations.jsonl", "langfuse_scores.jsonl")
    assert replies == {
        "trace-1": _labels(0, 1, 0), "trace-2": _labels(1, 0, 1), "trace-3": _labels(0, 0, 1),
        "trace-3/past/1": _labels(None, None, None),  # a reply of the logged history: not offered here
    }  # fmt: skip
    assert aside == ["unknown_signal"]  # the judge's score, which is no user's
    messages = _read("langfuse", "messages", FIXTURES / "langfuse_observations.jsonl")
    turns = messages.filter(pl.col("conversation_id") == "session-1").select("turn_index", "role", "content")
    assert turns.rows() == [
        (0, "system", "Be brief."), (0, "user", "What is a comet?"), (0, "assistant", "A ball of ice and dust ☄️"),
        (1, "user", "And a meteor?"), (1, "assistant", "A streak of light."),
    ]  # fmt: skip
    assert messages["locale"].to_list()[:3] == ["en"] * 3 and messages["use_case"].to_list()[-1] is None


def test_langsmith() -> None:
    replies, aside = _labelled("langsmith", "langsmith_runs.jsonl", "langsmith_feedback.jsonl")
    # The half score of run-3 came later than its full one, and revoked it.
    assert replies == {"run-1": _labels(1, 1, 0), "run-2": _labels(0, 0, 1), "run-3": _labels(0, 0, 0)}
    assert aside == ["unknown_signal"]
    messages = _read("langsmith", "messages", FIXTURES / "langsmith_runs.jsonl")
    assert messages.filter(pl.col("message_id") == "run-3")["created_at"].item() == datetime(
        2026, 6, 1, 8, 0, 1, tzinfo=UTC
    )


def test_otel_current_and_older_names() -> None:
    replies, aside = _labelled("otel", "otel_current.jsonl", "otel_current.jsonl")
    assert replies == {"chatcmpl-1": _labels(0, 1, 0), "chatcmpl-2": _labels(1, 0, 0)} and not aside
    replies, aside = _labelled("otel", "otel_older.jsonl", "otel_older.jsonl")
    nothing = _labels(0, 0, 0)
    assert replies == {"b1": nothing, "resp-2": _labels(0, 0, 1), "b3": nothing} and not aside
    messages = _read("otel", "messages", FIXTURES / "otel_older.jsonl")
    assert messages["content"].to_list() == [
        "2+2?",
        "4",
        "Capital of France?",
        "Paris",
        "Be kind.",
        "I failed",
        "Try again",
    ]


def test_open_webui_and_its_sibling_pairs() -> None:
    replies, aside = _labelled("open_webui", "open_webui_feedback.json", "open_webui_feedback.json")
    assert replies == {"m2": _labels(0, 0, 0), "m3": _labels(0, 1, 0), "m5": _labels(0, 0, 1)} and not aside
    config = PairsConfig(format="open_webui", source=str(FIXTURES / "open_webui_feedback.json"))
    made = build_pairs(config, seed=0)
    pair = pl.concat([made.train, made.eval]).row(0, named=True)
    assert made.rows_in == 1 and pair["pair_id"] == "fb-1/m2"
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("Red, because…", "Blue")
    assert pair["prompt"] == [{"role": "user", "content": "Name a colour"}]


def test_sharegpt() -> None:
    messages = _read("sharegpt", "messages", FIXTURES / "sharegpt.jsonl", layout={"users": "per_conversation"})
    assert messages["role"].to_list() == ["user", "assistant"] * 2 + ["system", "user", "assistant"]
    assert messages["created_at"].null_count() == 7


def test_every_format_is_an_adapter() -> None:
    assert set(ADAPTERS) == set(FORMATS)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet", "csv"])
def test_the_same_records_in_every_kind_of_file_and_by_url(ending: str, tmp_path: Path) -> None:
    wanted = _read("langfuse", "messages", FIXTURES / "langfuse_observations.jsonl")
    lines = (FIXTURES / "langfuse_observations.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path / f"log.{ending}"
    if ending.startswith("jsonl"):
        text = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    elif ending == "json":
        path.write_text(json.dumps([json.loads(line) for line in lines], indent=2), encoding="utf-8")
    else:
        flat = [{key: value if value is None or isinstance(value, str) else json.dumps(value)
                 for key, value in json.loads(line).items()} for line in lines]  # fmt: skip
        frame = pl.DataFrame(flat, infer_schema_length=None)
        frame.write_parquet(path) if ending == "parquet" else frame.write_csv(path)
    assert _read("langfuse", "messages", path).equals(wanted)
    fsspec.filesystem("memory").pipe_file(f"/logs/{tmp_path.name}/log.{ending}", path.read_bytes())
    assert _read("langfuse", "messages", f"memory://logs/{tmp_path.name}/log.{ending}").equals(wanted)


def test_zstd_is_read(tmp_path: Path) -> None:
    messages, _ = clean_logs(seed=4)
    messages.lazy().with_columns(pl.col(pl.Datetime).dt.strftime("%+")).sink_ndjson(
        tmp_path / "m.jsonl.zst", compression="zstd"
    )
    assert _read("canonical", "messages", tmp_path / "m.jsonl.zst").equals(messages)


@pytest.mark.parametrize("name", ["canonical", "langfuse"])
def test_bytes_that_are_no_utf8_cost_their_row_only(name: str, tmp_path: Path) -> None:
    source = FIXTURES / "langfuse_observations.jsonl"
    if name == "canonical":
        messages, _ = clean_logs(seed=5)
        source = tmp_path / "clean.jsonl"
        messages.with_columns(pl.col(pl.Datetime).dt.strftime("%+")).write_ndjson(source)
    broken = tmp_path / "broken.jsonl"
    target = b"No." if name == "langfuse" else b"answer c00-0003-0 0"
    broken.write_bytes(source.read_bytes().replace(target, b"caf\xe9", 1))
    clean, read = _read(name, "messages", source), _read(name, "messages", broken)
    assert read.height == clean.height
    log = validated(read, clean_logs()[1].clear(), exposure="all_shown")
    assert log.quarantine["defect"].to_list() == ["invalid_text"]


def test_a_line_that_is_no_json_and_a_cut_gzip_are_structural(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"id": "1"}\nnot json\n')
    with pytest.raises(DataError, match=r"log\.jsonl, line 2: cannot be read as JSON .*: 'not json'"):
        _job_like(tmp_path / "log.jsonl")
    whole = gzip.compress((FIXTURES / "langfuse_observations.jsonl").read_bytes() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: cannot be read"):
        _job_like(tmp_path / "cut.jsonl.gz")


def _job_like(path: Path) -> None:
    from rluf_assets.feedback.sources import structural_errors

    with structural_errors(str(path)):
        _read("langfuse", "messages", path)


@settings(max_examples=60, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "parts", "messages", "type", "text", "data", "kwargs", "output"]), inner,
        max_size=3),
    max_leaves=12,
))  # fmt: skip
def test_no_json_breaks_the_readers(value: Any) -> None:
    for message in messages_of(value, "user"):
        assert message["role"] in ("system", "user", "assistant") and isinstance(message["content"], str)
    assert reply_of(value) is None or isinstance(reply_of(value), str)


def test_epochs_of_every_unit_are_one_instant() -> None:
    seconds = 1767225600
    assert {instant(seconds * 10**n) for n in (0, 3, 6, 9)} == {"2026-01-01T00:00:00+00:00"}
    assert instant(str(seconds)) == instant(seconds) and instant("soon") == "soon" and instant(None) is None


def test_a_message_that_names_no_user_of_its_own_has_its_conversations(tmp_path: Path) -> None:
    log = tmp_path / "chats.jsonl"
    turns = [
        {"role": "assistant", "content": "Hello!", "user": "bot", "model": "m2"},
        {"role": "user", "content": "Hi", "created_at": "2026-03-01T09:00:00Z"},
        {"role": "assistant", "content": "Yes?"},
    ]
    log.write_text(json.dumps({"id": "c", "user": 7, "model": "m1", "created_at": "2026-03-01", "messages": turns}))
    rows = read_table(IngestConfig(format="messages", table="messages", source=str(log))).collect()
    assert rows["user_id"].to_list() == ["bot", "7", "7"]
    assert rows["policy_version"].to_list() == ["m2", "m1", "m1"]
    assert rows["created_at"].null_count() == 2, "a time is never lent"


@pytest.mark.parametrize("said", [{"content": None, "refusal": "I can't."}, {"content": "", "refusal": "I can't."},
                                  {"content": [{"type": "refusal", "refusal": "I can't."}]}])  # fmt: skip
def test_a_refusal_is_the_text_of_its_reply(tmp_path: Path, said: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", **said}]
    logs: dict[Any, list[dict[str, Any]]] = {
        "messages": [{"id": "c", "user": "u", "messages": turns}, {"id": "d", "user": "u", "messages": turns[:1]}],
        "canonical": [{"conversation_id": "c", "message_id": str(n), "turn_index": 0, "user_id": "u", **turn}
                      for n, turn in enumerate([*turns, turns[0]])],
        "langfuse": [{"id": "o", "traceId": "t", "type": "GENERATION", "userId": "u", "startTime": "2026-05-03T10:00:00Z",
                      "input": turns[:1], "output": turns[1]}],
    }  # fmt: skip
    for name, records in logs.items():
        log = tmp_path / f"{name}.jsonl"
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
        rows = read_table(IngestConfig(format=name, table="messages", source=str(log))).collect()
        assert rows.filter(role="assistant")["content"].to_list() == ["I can't."], name


def test_parts_of_a_kind_that_nobody_knows_are_no_text_beside_those_that_are(tmp_path: Path) -> None:
    said = [
        ("user", [{"type": "text", "text": "q"}]),
        ("assistant", [{"type": "step-start"}, {"type": "text", "text": "a"}]),
    ]
    log = tmp_path / "m.json"
    log.write_text(
        json.dumps([{"id": "c", "user": "u", "messages": [{"role": who, "parts": what} for who, what in said]}])
    )
    rows = read_table(IngestConfig(format="messages", table="messages", source=str(log))).collect()
    assert rows["content"].to_list() == ["q", "a"]
