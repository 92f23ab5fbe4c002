"""Calls that tracing tools log, put together: one reply per turn, each under its own question, scores on their own reply."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.errors import DataError
from rluf_assets.feedback.adapters import ADAPTERS
from rluf_assets.feedback.config import IngestConfig, MessagesLayout
from rluf_assets.feedback.ingest import read_table
from tests.feedback.logs import paths, validated

CASES = Path(__file__).parent / "fixtures" / "cases"
SIGNALS = ("thumbs_up", "thumbs_down")
EMMA = ["Who wrote Emma?", "Jane Austen.", "When?", "In 1815.", "Where did she live?", "In Hampshire.",
        "Did she marry?", "No."]  # fmt: skip
Record = dict[str, Any]


def read(name: str, table: str, source: str | Path, **layout: Any) -> pl.DataFrame:
    config = {"format": name, "table": table, "source": str(source), "layout": layout}
    return read_table(IngestConfig.model_validate(config)).collect()


def labels(messages: pl.DataFrame, reactions: pl.DataFrame) -> dict[str, tuple[int | None, int | None]]:
    log = validated(messages, reactions, signals=SIGNALS, exposure="all_shown")
    return {row["content"]: (row["label_thumbs_up"], row["label_thumbs_down"]) for row in log.replies.to_dicts()}


def _said(*texts: str) -> list[Record]:
    """Messages of a history, the user's first."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def _call(nth: int, history: list[Record], reply: str | None, **more: Any) -> Record:
    """A generation that starts in minute `nth` and takes five seconds."""
    return {
        "id": f"o{nth}", "traceId": f"t{nth}", "type": "GENERATION", "startTime": f"2026-05-03T10:{nth:02d}:00Z",
        "endTime": f"2026-05-03T10:{nth:02d}:05Z", "input": history, "userId": "u1", "sessionId": "s1",
        "output": None if reply is None else {"role": "assistant", "content": reply}, **more,
    }  # fmt: skip


def _log(path: Path, *records: Record) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "file"), [("langfuse", "observations.jsonl"), ("langsmith", "langsmith_runs.jsonl")])
def test_windows_of_a_history_are_one_conversation(name: str, file: str) -> None:
    messages = read(name, "messages", CASES / "03-history-window" / file)
    assert messages.select("turn_index", "content").rows() == [(n // 2, text) for n, text in enumerate(EMMA)]
    ids = messages["message_id"].to_list()
    assert messages["parent_id"].to_list() == [None, *ids[:-1]]
    assert list(paths(messages).values()) == [EMMA[: 2 * n] for n in range(1, 5)]


@pytest.mark.parametrize("window", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("texts", [
    EMMA, ["go on", "One.", "go on", "Two.", "go on", "Three.", "stop", "Done.", "go on", "No."],
    ["ok", "Sure.", "what now?", "Sure.", "ok", "Well.", "ok", "Sure."],
])  # fmt: skip
def test_any_window_gives_the_same_conversation(window: int, texts: list[str], tmp_path: Path) -> None:
    """Repeated questions, however many messages before the question are logged, and in whatever order calls come."""
    said = _said(*texts)
    calls = [_call(n, said[max(0, 2 * n + 1 - window) : 2 * n + 1], texts[2 * n + 1]) for n in range(len(texts) // 2)]
    random.Random(window).shuffle(calls)
    messages = read("langfuse", "messages", _log(tmp_path / "log.jsonl", *calls)).sort("created_at")
    assert messages.select("turn_index", "content").rows() == [(n // 2, text) for n, text in enumerate(texts)]
    made = paths(messages)
    assert [made[f"t{n}"] for n in range(len(texts) // 2)] == [texts[: 2 * n + 2] for n in range(len(texts) // 2)]


def test_a_history_with_system_message_summary_or_users_alone(tmp_path: Path) -> None:
    said, system = _said(*EMMA), {"role": "system", "content": "Be brief."}
    windows = {
        "system": [[system, *said[max(0, 2 * n - 1) : 2 * n + 1]] for n in range(4)],
        "first and last": [[*said[: min(1, n)], *said[max(0, 2 * n - 2) : 2 * n + 1]] if n != 1 else said[:3]
                           for n in range(4)],
        "users alone": [[one for one in said[: 2 * n + 1] if one["role"] == "user"] for n in range(4)],
    }  # fmt: skip
    for name, histories in windows.items():
        calls = [_call(n, history, EMMA[2 * n + 1]) for n, history in enumerate(histories)]
        made = paths(read("langfuse", "messages", _log(tmp_path / f"{name}.jsonl", *calls)))
        head = ["Be brief."] if name == "system" else []
        assert made["t3"] == [*head, *EMMA], name
        assert len(made) == 4, name


def test_retried_and_edited_questions_are_branches(tmp_path: Path) -> None:
    """The same history again is a retry; another last question is an edit; each reply keeps its own path."""
    calls = [
        _call(0, _said("Plan a day in Rome"), "Colosseum."),
        _call(1, _said("Plan a day in Rome"), "Vatican."),
        _call(2, _said("Plan a day in Rome", "Colosseum.", "Make it cheap"), "Walk."),
        _call(3, _said("Plan a day in Rome", "Colosseum.", "Make it fancy"), "Dinner."),
        _call(4, _said("Plan a day in Oslo"), "Fjord."),
        _call(5, _said("Plan a day in Oslo", "Fjord.", "And then?"), "Opera."),
    ]
    messages = read("langfuse", "messages", _log(tmp_path / "log.jsonl", *calls))
    rome, oslo = "Plan a day in Rome", "Plan a day in Oslo"
    assert paths(messages) == {
        "t0": [rome, "Colosseum."], "t1": [rome, "Vatican."], "t2": [rome, "Colosseum.", "Make it cheap", "Walk."],
        "t3": [rome, "Colosseum.", "Make it fancy", "Dinner."], "t4": [oslo, "Fjord."],
        "t5": [oslo, "Fjord.", "And then?", "Opera."],
    }  # fmt: skip
    assert messages.filter(pl.col("content") == rome).height == 1


def test_a_call_that_is_missing_leaves_its_place_in_the_history(tmp_path: Path) -> None:
    """The third turn was not logged: its messages come from the fourth's history, and were not offered there."""
    calls = [_call(n, _said(*EMMA[max(0, 2 * n - 4) : 2 * n + 1]), EMMA[2 * n + 1]) for n in (0, 1, 3)]
    messages = read("langfuse", "messages", _log(tmp_path / "log.jsonl", *calls))
    assert paths(messages)["t3"] == EMMA
    lost = messages.filter(pl.col("content") == "In Hampshire.")
    assert lost["reactions_shown"].to_list() == [False] and lost["turn_index"].to_list() == [2]


def test_a_call_that_failed_leaves_its_question(tmp_path: Path) -> None:
    calls = [_call(0, _said("hi"), "Hello."), _call(1, _said("hi", "Hello.", "tell me"), None),
             _call(2, [*_said("hi", "Hello.", "tell me"), {"role": "user", "content": "please"}], "Well.")]  # fmt: skip
    messages = read("langfuse", "messages", _log(tmp_path / "log.jsonl", *calls))
    failed = messages.filter(pl.col("message_id") == "t1")
    assert failed["content"].to_list() == [None]
    parents = dict(messages.select("content", "parent_id").rows())
    assert parents["please"] == "t1/user" and parents["tell me"] == "t0"


@pytest.mark.parametrize(("file", "expected"), [
    ("scores.jsonl", [(1, 0), (0, 1), (0, 0)]), ("scores_after.jsonl", [(0, 1), (0, 0), (0, 0)]),
])  # fmt: skip
def test_scores_belong_to_the_observation_they_name(file: str, expected: list[tuple[int, int]]) -> None:
    folder = CASES / "04-one-trace-many-turns"
    messages = read("langfuse", "messages", folder / "observations.jsonl")
    found = labels(messages, read("langfuse", "reactions", folder / file))
    assert found == dict(zip(("Jane Austen.", "In 1815.", "In Hampshire."), expected, strict=True))


def test_a_score_of_the_trace_is_of_its_last_reply_and_one_of_a_session_of_none(tmp_path: Path) -> None:
    messages = read("langfuse", "messages", CASES / "04-one-trace-many-turns" / "observations.jsonl")
    about = {"name": "thumbs_up", "value": 1, "dataType": "BOOLEAN", "source": "API"}
    scores = [
        {"id": "a", "traceId": "t-whole", "timestamp": "2026-05-03T10:30:00Z", **about},
        {"id": "b", "sessionId": "s1", "timestamp": "2026-05-03T10:30:00Z", **about},
    ]
    reactions = read("langfuse", "reactions", _log(tmp_path / "s.jsonl", *scores))
    assert reactions.select("message_id", "conversation_id", "signal").rows() == [
        ("t-whole", None, "thumbs_up"), ("s1", "s1", "session:thumbs_up"),
    ]  # fmt: skip
    assert labels(messages, reactions) == {"Jane Austen.": (0, 0), "In 1815.": (0, 0), "In Hampshire.": (1, 0)}
    # A score of the span around all three turns does not say which of them it is about: any of the three may be.
    around = read("langfuse", "reactions", _log(tmp_path / "r.jsonl", {**scores[0], "observationId": "root"}))
    assert set(labels(messages, around).values()) == {(None, 0)}


def test_turns_below_spans_of_their_own_take_scores_of_span_and_call(tmp_path: Path) -> None:
    """A trace of turn spans, each over a rewritten query, a retrieval and the call that answers."""
    records: list[Record] = [_call(9, [], None, id="root", traceId="t", type="SPAN", startTime="2026-05-03T09:59:00Z")]
    for n, (question, answer) in enumerate(zip(EMMA[:4:2], EMMA[1:4:2], strict=True)):
        turn = _call(n, [], None, id=f"turn{n}", traceId="t", type="SPAN", parentObservationId="root")
        rewrite = _call(n, _said(f"Rewrite: {question}"), "query", id=f"rw{n}", traceId="t", parentObservationId=f"turn{n}",
                        endTime=f"2026-05-03T10:0{n}:01Z")  # fmt: skip
        fetch = _call(n, [], None, id=f"f{n}", traceId="t", type="RETRIEVER", parentObservationId=f"turn{n}")
        answered = _call(n, _said(*EMMA[: 2 * n + 1]), answer, id=f"a{n}", traceId="t", parentObservationId=f"turn{n}",
                         startTime=f"2026-05-03T10:0{n}:02Z")  # fmt: skip
        records += [answered, fetch, rewrite, turn]
    messages = read("langfuse", "messages", _log(tmp_path / "log.jsonl", *records))
    assert list(paths(messages).values()) == [EMMA[:2], EMMA[:4]]
    for observation in ("turn0", "a0", "f0", "rw0"):
        score = {"id": "s", "trace_id": "t", "observation_id": observation, "name": "thumbs_down", "value": 1,
                 "timestamp": "2026-05-03 10:30:00"}  # fmt: skip
        reactions = read("langfuse", "reactions", _log(tmp_path / "s.jsonl", score))
        assert labels(messages, reactions) == {"Jane Austen.": (0, 1), "In 1815.": (0, 0)}, observation


def test_langsmith_feedback_of_a_run_in_a_trace_of_many(tmp_path: Path) -> None:
    runs = [{"id": "root", "trace_id": "root", "run_type": "chain", "inputs": {}, "outputs": None,
             "start_time": "2026-05-03T10:00:00", "extra": {"metadata": {"user_id": "u1", "thread_id": "th"}}}]  # fmt: skip
    runs += [
        {"id": f"run-{n}", "trace_id": "root", "run_type": "llm", "parent_run_id": "root", "name": "chat",
         "inputs": {"messages": _said(*EMMA[: 2 * n + 1])}, "outputs": {"choices": [{"message": {"role": "assistant",
         "content": EMMA[2 * n + 1]}}]}, "start_time": f"2026-05-03T10:0{n}:00", "end_time": f"2026-05-03T10:0{n}:05"}
        for n in range(3)
    ]  # fmt: skip
    messages = read("langsmith", "messages", _log(tmp_path / "runs.jsonl", *runs))
    assert messages["user_id"].unique().to_list() == ["u1"] and messages["conversation_id"].unique().to_list() == ["th"]
    about = {"key": "thumbs_down", "score": 1, "created_at": "2026-05-03T10:30:00", "feedback_source": {"type": "api"}}
    feedback = [{"id": "a", "run_id": "run-1", "trace_id": "root", **about},
                {"id": "b", "session_id": "project", "run_id": None, **about}]  # fmt: skip
    reactions = read("langsmith", "reactions", _log(tmp_path / "f.jsonl", *feedback))
    assert labels(messages, reactions) == {"Jane Austen.": (0, 0), "In 1815.": (0, 1), "In Hampshire.": (0, 0)}
    assert reactions["signal"].to_list() == ["thumbs_down", "session:thumbs_down"]


def test_calls_of_one_trace_without_histories(tmp_path: Path) -> None:
    """Minutes apart and of one name they are turns; a step that another prompt follows at once is none."""
    about = {"traceId": "t", "parentObservationId": "root", "name": "chat"}
    calls = [_call(n, _said(EMMA[2 * n]), EMMA[2 * n + 1], **about) for n in range(2)]
    assert list(paths(read("langfuse", "messages", _log(tmp_path / "a.jsonl", *calls))).values()) == [
        EMMA[:2],
        EMMA[:4],
    ]
    title = _call(1, _said("Give this chat a title: When?"), "Emma", **{**about, "name": "title"})
    made = paths(read("langfuse", "messages", _log(tmp_path / "b.jsonl", calls[1], {**title, "id": "x"})))
    assert len(made) == 1
    later = {**_call(1, [*_said(*EMMA[2:4]), {"role": "user", "content": "Suggest questions"}], "Who?", **about), "id": "y",
             "startTime": "2026-05-03T10:01:05.100Z"}  # fmt: skip
    made = paths(read("langfuse", "messages", _log(tmp_path / "c.jsonl", calls[1], later)))
    assert list(made.values()) == [EMMA[2:4]]  # nobody reads a reply and asks again in a tenth of a second


def test_an_agents_turn_is_one_reply_whatever_order_its_spans_come_in(tmp_path: Path) -> None:
    spans = json.loads((CASES / "30-otel-agent-loop" / "spans.jsonl").read_text())
    inner = spans["resourceSpans"][0]["scopeSpans"][0]["spans"]
    evaluation = {"event_name": "gen_ai.evaluation.result", "timestamp": "2026-05-03T10:00:00Z",
                  "attributes": {"gen_ai.evaluation.name": "thumbs_up", "gen_ai.evaluation.score.value": 1.0}}  # fmt: skip
    for order in (inner, inner[::-1]):
        spans["resourceSpans"][0]["scopeSpans"][0]["spans"] = order
        messages = read("otel", "messages", _log(tmp_path / "spans.jsonl", spans))
        assert messages.select("turn_index", "role", "content").rows() == [
            (0, "user", "Weather in Oslo?"), (0, "assistant", "3 degrees."),
        ]  # fmt: skip
        for place in ({"span_id": "02"}, {"span_id": "01"}, {"span_id": "00"}, {"trace_id": "aa", "span_id": "02"}):
            reactions = read("otel", "reactions", _log(tmp_path / "e.jsonl", {**evaluation, **place}))
            assert labels(messages, reactions) == {"3 degrees.": (1, 0)}
        evaluation["attributes"] |= {"gen_ai.response.id": "r1"}
        reactions = read("otel", "reactions", _log(tmp_path / "e.jsonl", evaluation))
        assert labels(messages, reactions) == {"3 degrees.": (1, 0)}
        del evaluation["attributes"]["gen_ai.response.id"]
    # Without the agent's own text the last call of the loop answers.
    spans["resourceSpans"][0]["scopeSpans"][0]["spans"] = [one for one in inner if one["spanId"] != "00"]
    messages = read("otel", "messages", _log(tmp_path / "spans.jsonl", spans))
    assert messages["message_id"].to_list() == ["r2/user", "r2"]


def test_openllmetry_association_properties() -> None:
    messages = read("otel", "messages", CASES / "23-otel-openllmetry" / "spans.jsonl")
    assert messages.select("conversation_id", "user_id", "content").rows() == [
        ("s1", "u1", "Capital of Peru?"), ("s1", "u1", "Lima."),
    ]  # fmt: skip


def test_what_stands_on_the_trace_is_found_there(tmp_path: Path) -> None:
    folder = CASES / "02-langfuse-trace-level-fields"
    with pytest.raises(DataError, match=r"none of 2 records says who the user is.*export of traces.*per_conversation"):
        read("langfuse", "messages", folder / "observations.jsonl")
    anonymous = read("langfuse", "messages", folder / "observations.jsonl", users="per_conversation")
    assert anonymous["user_id"].unique().to_list() == ["t1"]
    for source in ("*s.jsonl", "traces.jsonl"):
        messages = read("langfuse", "messages", folder / source)
        assert messages.select("conversation_id", "user_id").unique().rows() == [("s1", "u1")]
        assert next(iter(paths(messages).values()))[-2:] == ["What is a fjord?", "A drowned valley."]
    nested = json.loads((folder / "api_trace.json").read_text())
    inside = {**nested["trace"], "observations": nested["observations"], "scores": [
        {"id": "x", "observationId": "g1", "name": "thumbs_up", "value": 1, "timestamp": "2026-05-03T10:01:00Z"}]}  # fmt: skip
    for record in (nested, inside):
        messages = read("langfuse", "messages", _log(tmp_path / "api.jsonl", record))
        assert messages.select("role", "content", "user_id", "policy_version").rows() == [
            ("system", "Be short.", "u1", "m1"), ("user", "What is a fjord?", "u1", "m1"),
            ("assistant", "A drowned valley.", "u1", "m1"),
        ]  # fmt: skip
    assert labels(messages, read("langfuse", "reactions", tmp_path / "api.jsonl")) == {"A drowned valley.": (1, 0)}


def test_records_that_are_changed_in_place_say_when() -> None:
    scores = read("langfuse", "reactions", CASES / "01-langfuse-score-upserted" / "scores.jsonl",
                  scores={"user-feedback": {"up": "thumbs_up", "down": "thumbs_down"}})  # fmt: skip
    up = scores.filter(pl.col("signal") == "thumbs_up").sort("updated_at")
    assert up["value"].to_list() == [1, 0] and up["reaction_id"].n_unique() == 1
    assert up["reacted_at"].n_unique() == 1 and up["updated_at"].dt.minute().to_list() == [2, 9]


def test_spans_whose_parents_lead_in_a_circle_are_read(tmp_path: Path) -> None:
    a = _call(0, _said("hi"), "Hello.", traceId="t", parentObservationId="o1")
    b = _call(1, [], None, traceId="t", parentObservationId="o0", type="SPAN")
    made = paths(read("langfuse", "messages", _log(tmp_path / "log.jsonl", a, b)))
    assert list(made.values()) == [["hi", "Hello."]]


_NAMES = ["id", "trace_id", "traceId", "type", "parent_observation_id", "input", "output", "messages", "role", "content",
          "extra", "metadata", "observations", "scores", "value", "name", "data", "meta", "snapshot", "chat", "history",
          "attributes", "resourceSpans",
          "scopeSpans", "spans", "events", "key", "feedback_source", "inputs", "outputs", "annotation",
          "parentId", "run_type"]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(st.recursive(
    st.sampled_from([None, True, 0, 2.5, "", "x", "1777800000", "user", "GENERATION", '{"role": "user", "content": "q"}',
                     "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=30,
), min_size=3, max_size=6))  # fmt: skip
def test_no_record_breaks_a_reader(records: list[Any]) -> None:
    lines = pl.LazyFrame({"line": [json.dumps(one) for one in records]})
    for name in ("langfuse", "langsmith", "otel", "open_webui"):
        for table in ("messages", "reactions"):
            read_lines = getattr(ADAPTERS[name], table)
            assert read_lines(lines, MessagesLayout(users="per_conversation"), "log").collect().width


def _score(nth: int, name: str, **more: Any) -> Record:
    at = "2026-05-03T10:30:00Z"
    return {"id": f"s{nth}", "traceId": "t0", "name": name, "source": "API", "timestamp": at, **more}


RULE = {"scores": {"vote": {"up": "thumbs_up", "down": "thumbs_down"}}}


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        # A category that was changed is over: it is one record, whatever signal it names.
        ([_score(1, "vote", dataType="CATEGORICAL", stringValue="thumbs_up"),
          _score(1, "vote", dataType="CATEGORICAL", stringValue="thumbs_down", updatedAt="2026-05-03T10:31:00Z")], None),
        ([_score(1, "vote", dataType="CATEGORICAL", stringValue=text, updatedAt=f"2026-05-03T10:3{n}:00Z")
          for n, text in enumerate(("thumbs_up", "thumbs_down"))], (0, 1)),
        # Of a name that the layout explains, a text that it does not says nothing; it is no silence.
        ([_score(1, "vote", dataType="CATEGORICAL", stringValue="positive")], (None, None)),
        ([_score(1, "thumbs_up", dataType="BOOLEAN", stringValue="True")], (1, 0)),
        # A trace that lists scores which are not there.
        ([{"id": "t0", "timestamp": "2026-05-03T10:00:00Z", "userId": "u1", "input": "q", "scores": ["s1", "s2"]},
          _score(1, "thumbs_up", value=1)], (None, None)),
        ([{"id": "t0", "timestamp": "2026-05-03T10:00:00Z", "userId": "u1", "input": "q", "scores": ["s1"]},
          _score(1, "thumbs_up", value=1)], (1, 0)),
    ],
)  # fmt: skip
def test_what_a_score_says_and_what_is_only_told_of_it(
    tmp_path: Path, scores: list[Record], label: tuple[int | None, int | None] | None
) -> None:
    said = read("langfuse", "messages", _log(tmp_path / "o.jsonl", _call(0, _said("q"), "a")))
    given_ = read("langfuse", "reactions", _log(tmp_path / "s.jsonl", *scores), **RULE)
    assert labels(said, given_) == {"a": label or (None, None)}


@pytest.mark.parametrize(("rows", "label"), [([], None), ([{"id": "f", "run_id": "r", "key": "thumbs_up", "score": 1,
                                                            "created_at": "2026-05-03T10:30:00Z"}], 1)])  # fmt: skip
def test_a_run_that_tells_of_feedback_leaves_no_no(tmp_path: Path, rows: list[Record], label: int | None) -> None:
    run = {"id": "r", "trace_id": "r", "run_type": "llm", "inputs": {"messages": _said("q")}, "outputs": {"output": "a"},
           "start_time": "2026-05-03T10:00:00Z", "end_time": "2026-05-03T10:00:05Z",
           "extra": {"metadata": {"user_id": "u1"}}, "feedback_stats": {"thumbs_up": {"n": 1, "avg": 1.0}}}  # fmt: skip
    log = _log(tmp_path / "runs.jsonl", run, *rows)
    found = labels(read("langsmith", "messages", log), read("langsmith", "reactions", log))
    assert found == {"a": (label, 0)}


def test_inputs_and_outputs_that_were_encoded_twice_are_read(tmp_path: Path) -> None:
    call = _call(0, _said("q"), "a")
    twice = {name: json.dumps(json.dumps(call[name])) for name in ("input", "output")}
    quoted = _call(1, [], '"A fool" is by Berlin.', input='"Who wrote it?"', sessionId="s2")
    rows = read("langfuse", "messages", _log(tmp_path / "o.jsonl", {**call, **twice}, quoted))
    assert rows["content"].to_list() == ["q", "a", '"Who wrote it?"', '"A fool" is by Berlin.']


def test_a_question_that_a_call_of_a_tool_or_a_failure_left_open_is_asked_once(tmp_path: Path) -> None:
    tool = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}
    calls = [
        _call(0, _said("q"), None, output=tool),
        _call(1, [*_said("q"), tool, {"role": "tool", "content": "3"}], "a"),
    ]
    rows = read("langfuse", "messages", _log(tmp_path / "o.jsonl", *calls))
    assert [(row["role"], row["content"]) for row in rows.to_dicts() if row["content"]] == [
        ("user", "q"),
        ("assistant", "a"),
    ]


def test_input_in_typed_parts_is_a_question(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": [{"type": "input_text", "text": "q"}]}]
    answered = [{"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}]  # fmt: skip
    rows = read("langfuse", "messages", _log(tmp_path / "o.jsonl", _call(0, asked, None, output=answered)))
    assert rows.select("role", "content").rows() == [("user", "q"), ("assistant", "a")]
