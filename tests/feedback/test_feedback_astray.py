"""What tools say is no part of a conversation, and a reaction that has lost its message leaves no "no" behind."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.feedback.config import ContractConfig, IngestConfig
from rluf_assets.feedback.contract import Validated, validate
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.schemas import MESSAGES, REACTIONS, empty
from rluf_assets.feedback.windows import ConversationPool
from tests.feedback.logs import START

CASES = Path(__file__).parent / "fixtures" / "cases"
SIGNALS = ("love", "thumbs_up", "thumbs_down")


def _read(log_format: str, table: str, source: Path, **layout: Any) -> pl.DataFrame:
    config = {"format": log_format, "table": table, "source": str(source), "layout": layout}
    return read_table(IngestConfig.model_validate(config)).collect()


def _log(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def _made(messages: pl.DataFrame, reactions: pl.DataFrame | None = None, **more: Any) -> Validated:
    config = ContractConfig(signals=SIGNALS, exposure="all_shown", **more)
    return validate(messages.lazy(), (empty("reactions") if reactions is None else reactions).lazy(), config)


def _labels(log: Validated, signal: str = "thumbs_up") -> dict[str, int | None]:
    return dict(log.replies.select("message_id", f"label_{signal}").iter_rows())


def _contexts(log: Validated) -> dict[str, list[str]]:
    found = ConversationPool(log.replies["conversation_id"], log.messages.lazy()).contexts(log.replies, 10)
    return {row["message_id"]: [one["content"] for one in row["prompt"]] for row in found.iter_rows(named=True)}


# ------------------------------------------------------------------------------------------------------------- tools


def test_tool_calls_are_named_and_cost_no_reply() -> None:
    file = CASES / "14" / "messages.jsonl"
    log = _made(_read("messages", "messages", file), _read("messages", "reactions", file))
    assert _labels(log, "love") == {"m4": 1, "m6": 0}
    assert log.quarantine.select("defect", "source_row").rows() == [("tool_message", 2), ("tool_message", 3)]
    assert log.accounting.messages_faultless == 2
    question, reply = "Weather in Oslo?", "3 degrees and rain."
    assert _contexts(log) == {"m4": ["Use tools.", question], "m6": ["Use tools.", question, reply, "Thanks"]}


CALL = {"id": "k", "type": "function", "function": {"name": "w", "arguments": "{}"}}
AGENTS: dict[str, list[dict[str, Any]]] = {
    "tool_calls": [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3C"}],
    "function_call": [{"role": "assistant", "content": None, "function_call": {"name": "w", "arguments": "{}"}},
                      {"role": "function", "content": "3C"}],
    "parts": [{"role": "assistant", "content": [{"type": "tool_use", "id": "k", "name": "w", "input": {"c": "Oslo"}}]},
              {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "k", "content": "3C"}]}],
    "parents": [{"role": "assistant", "content": None, "tool_calls": [CALL], "parent_id": "0"},
                {"role": "tool", "content": "3C", "parent_id": "1"}],
}  # fmt: skip


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_agents_steps_in_any_spelling(kind: str, ending: str, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Oslo?"}, *AGENTS[kind],
            {"role": "assistant", "content": "3 degrees.", "parent_id": "2"},
            {"role": "user", "content": "Thanks", "parent_id": "3"},
            {"role": "assistant", "content": "Welcome.", "parent_id": "4"}]  # fmt: skip
    fields = {"parent_id": None} if kind == "parents" else {}
    messages = [{**fields, **one, "id": str(nth)} for nth, one in enumerate(said)]
    messages = [
        {key: value for key, value in one.items() if key != "parent_id" or kind == "parents"} for one in messages
    ]
    if ending == "parquet" and kind == "parts":  # one shape: every message in parts
        messages = [one | {"content": one["content"] if isinstance(one["content"], list)
                           else [{"type": "text", "text": one["content"]}]} for one in messages]  # fmt: skip
    file = _log(tmp_path / "m.jsonl", {"id": "c", "user": "u", "messages": messages})
    if ending == "parquet":
        pl.read_ndjson(file, infer_schema_length=None).write_parquet(tmp_path / "m.parquet")
    log = _made(_read("messages", "messages", tmp_path / f"m.{ending}"), time="none")
    assert _contexts(log) == {"3": ["Oslo?"], "5": ["Oslo?", "3 degrees.", "Thanks"]}
    assert log.quarantine["defect"].to_list() == ["tool_message"] * 2
    assert log.replies["turn_index"].to_list() == [0, 1] and set(_labels(log).values()) == {0}


def test_a_reaction_to_a_call_of_a_tool_is_of_the_same_turn_and_of_no_known_reply() -> None:
    messages = _read("messages", "messages", CASES / "14" / "messages.jsonl")
    love = {"reaction_id": "e", "message_id": "m2", "user_id": "u1", "signal": "love", "value": 1,
            "reacted_at": messages["created_at"].max()}  # fmt: skip
    log = _made(messages, pl.DataFrame([love], schema=dict(REACTIONS)))
    assert _labels(log, "love") == {"m4": None, "m6": 0} and _labels(log) == {"m4": 0, "m6": 0}


# ------------------------------------------------------------------------------------------------------------ traces


def _score(**more: Any) -> dict[str, Any]:
    return {"id": "s", "name": "thumbs_up", "value": 1, "dataType": "BOOLEAN", "source": "API",
            "timestamp": "2026-05-03T10:30:00Z", **more}  # fmt: skip


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ({"traceId": "t-whole", "observationId": "lost"}, [None, None, None]),
        ({"traceId": "t-whole", "observationId": "o1"}, [0, 1, 0]),
        ({"traceId": "t-whole", "observationId": "lost", "name": "thumbs_down"}, [0, 0, 0]),
        ({"traceId": "t-whole", "observationId": "lost", "timestamp": "2026-05-03T10:03:00Z"}, [None, None, 0]),
        ({"traceId": "elsewhere", "observationId": "lost"}, [0, 0, 0]),
        ({"traceId": "t-whole", "observationId": "lost", "source": "EVAL"}, [0, 0, 0]),
    ],
)
def test_a_score_of_an_observation_that_is_not_there_leaves_its_trace_in_doubt(
    score: dict[str, Any], expected: list[int | None], tmp_path: Path
) -> None:
    messages = _read("langfuse", "messages", CASES / "04-one-trace-many-turns" / "observations.jsonl")
    reactions = _read("langfuse", "reactions", _log(tmp_path / "s.jsonl", _score(**score)))
    assert list(_labels(_made(messages, reactions)).values()) == expected


def test_feedback_of_a_run_and_evaluations_of_a_span_that_are_not_there(tmp_path: Path) -> None:
    runs = _log(tmp_path / "r.jsonl", *(
        {"id": f"r{n}", "trace_id": f"r{n}", "run_type": "llm", "start_time": f"2026-05-03T10:0{n}:00Z",
         "end_time": f"2026-05-03T10:0{n}:05Z", "inputs": {"messages": [{"role": "user", "content": f"q{n}"}]},
         "outputs": {"messages": [{"role": "assistant", "content": f"a{n}"}]},
         "extra": {"metadata": {"thread_id": "th", "user_id": "u"}}} for n in range(2)))  # fmt: skip
    given = _log(tmp_path / "f.jsonl", {"id": "f", "key": "thumbs_up", "score": 1, "run_id": "lost", "trace_id": "r0",
                                        "created_at": "2026-05-03T10:30:00Z"})  # fmt: skip
    log = _made(_read("langsmith", "messages", runs), _read("langsmith", "reactions", given))
    assert _labels(log) == {"r0": None, "r1": 0}
    messages = _read("otel", "messages", CASES / "23-otel-openllmetry" / "spans.jsonl")
    (trace,) = messages["trace_id"].drop_nulls()
    event = {"event_name": "gen_ai.evaluation.result", "trace_id": trace, "span_id": "lost",
             "timestamp": "2026-05-03T10:30:00Z",
             "attributes": {"gen_ai.evaluation.name": "thumbs_up", "gen_ai.evaluation.score.value": 1}}  # fmt: skip
    log = _made(messages, _read("otel", "reactions", _log(tmp_path / "e.jsonl", event)))
    assert list(_labels(log).values()) == [None]


# ----------------------------------------------------------------------------------------------------- conversations


def _rows(*rows: tuple[str, str, float]) -> pl.DataFrame:
    """A question and its reply per row: conversation, name, hours after the start."""
    said = [{"conversation_id": where, "message_id": f"{role[0]}{name}", "turn_index": nth, "role": role, "content": name,
             "user_id": "u", "created_at": START + timedelta(hours=at, seconds=role == "assistant")}
            for nth, (where, name, at) in enumerate(rows) for role in ("user", "assistant")]  # fmt: skip
    return pl.DataFrame(said, schema=dict(MESSAGES))


def _event(**more: Any) -> pl.DataFrame:
    plain = {"reaction_id": "e", "conversation_id": "c", "message_id": "lost", "user_id": "u", "signal": "thumbs_up",
             "value": 1, "reacted_at": START + timedelta(hours=5)}  # fmt: skip
    return pl.DataFrame([plain | more], schema=dict(REACTIONS))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"a0": None, "a1": None, "a6": 0, "a2": 0}),  # what was said later, or elsewhere, it cannot be about
        ({"message_id": None}, {"a0": None, "a1": None, "a6": 0, "a2": 0}),
        ({"reacted_at": START + timedelta(hours=24, minutes=30)}, {"a0": 0, "a1": None, "a6": None, "a2": 0}),
        ({"reacted_at": None}, {"a0": None, "a1": None, "a6": None, "a2": 0}),
        ({"value": 0}, {"a0": None, "a1": None, "a6": 0, "a2": 0}),  # it may have taken one back
        ({"conversation_id": None}, {"a0": 0, "a1": 0, "a6": 0, "a2": 0}),
        ({"signal": "share"}, {"a0": 0, "a1": 0, "a6": 0, "a2": 0}),
        ({"signal": None}, {"a0": None, "a1": None, "a6": 0, "a2": 0}),
    ],
)
def test_a_reaction_that_has_lost_its_message_leaves_its_conversation_in_doubt(
    more: dict[str, Any], expected: dict[str, int | None]
) -> None:
    messages = _rows(("c", "0", 0), ("c", "1", 1), ("c", "6", 6), ("d", "2", 2))
    assert _labels(_made(messages, _event(**more))) == expected


def test_a_reaction_to_a_message_of_the_next_day_leaves_no_doubt_today() -> None:
    messages = _rows(("c", "0", 23), ("c", "1", 25)).lazy()
    day = ContractConfig(signals=SIGNALS, exposure="all_shown", day=START.date())
    today, tomorrow = (
        messages.filter((pl.col("created_at").dt.date() == START.date()) == this) for this in (True, False)
    )
    events = {name: _event(message_id=name, reacted_at=START + timedelta(hours=26)).lazy() for name in ("a1", "lost")}
    for name, label in (("a1", 0), ("lost", None)):
        log = validate(today, empty("reactions").lazy(), day, next_messages=tomorrow, next_reactions=events[name])
        assert _labels(log) == {"a0": label}


def test_a_rating_without_its_message_is_no_silence() -> None:
    folder = CASES / "40-openwebui-feedback-no-snapshot"
    log = _made(
        _read("open_webui", "messages", folder / "chats.json"),
        _read("open_webui", "reactions", folder / "feedback_holes.json"),
    )
    assert _labels(log) == {"b": None}
