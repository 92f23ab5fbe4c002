"""The chance of an arm and of a reply come through every format; a value that is none counts as missing, and is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ingest import read_table
from tests.feedback.logs import clean_logs, validated

Record = dict[str, Any]
COLUMNS = ("assignment_probability", "reply_logprob")


def _read(name: str, path: Path, *records: Record) -> pl.DataFrame:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_table(IngestConfig(table="messages", format=name, source=str(path))).collect()


def _chances(messages: pl.DataFrame) -> list[tuple[float | None, float | None]]:
    return messages.filter(pl.col("role") == "assistant").select(COLUMNS).rows()


def test_values_outside_their_range_count_as_missing_and_are_counted() -> None:
    messages, reactions = clean_logs(seed=3)
    replies = messages.with_row_index("n").filter(pl.col("role") == "assistant")["n"].to_list()
    spoilt: list[tuple[float | None, float | None]] = [
        (0.5, -3.0), (1.0, 0.0), (0.0, -3.0), (1.5, 2.0), (-0.1, None), (0.5, float("-inf")), (float("nan"), -1.0),
        (0.5, 1e-9),
    ]  # fmt: skip
    chance: list[float | None] = [0.5] * messages.height
    logprob: list[float | None] = [None] * messages.height
    for place, (one, two) in zip(replies, spoilt, strict=False):
        chance[place], logprob[place] = one, two
    given = messages.with_columns(pl.Series(COLUMNS[0], chance), pl.Series(COLUMNS[1], logprob))
    result = validated(given, reactions)
    assert result.accounting.replies == len(replies), "no row is lost by it"
    of = {row["message_id"]: (row[COLUMNS[0]], row[COLUMNS[1]]) for row in result.replies.to_dicts()}
    found = [of[messages["message_id"][place]] for place in replies[: len(spoilt)]]
    assert found == [
        (0.5, -3.0), (1.0, 0.0), (None, -3.0), (None, None), (None, None), (0.5, None), (None, -1.0), (0.5, 0.0),
    ]  # fmt: skip
    assert result.unusable == {"unusable_assignment_probability": 4, "unusable_reply_logprob": 2}


def test_a_text_that_redaction_changed_is_not_the_one_that_was_drawn() -> None:
    messages, reactions = clean_logs(seed=4)
    first = messages.with_row_index("n").filter(pl.col("role") == "assistant")["n"][0]
    hit = pl.int_range(pl.len()) == first
    given = messages.with_columns(
        reply_logprob=pl.lit(-2.0),
        content=pl.when(hit).then(pl.lit("Write to ann.lee@example.org please.")).otherwise("content"),
    )
    result = validated(given, reactions)
    known = dict(result.replies.select("message_id", "reply_logprob").iter_rows())
    assert known.pop(messages["message_id"][first]) is None and set(known.values()) == {-2.0}
    assert result.unusable == {"unusable_reply_logprob": 1, "unusable_reply_logprob_redacted": 1}


def test_chats_say_it_of_a_message_or_of_the_conversation(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "reply_logprob": -1.5},
            {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No"}]  # fmt: skip
    own = {"conversation_id": "a", "user_id": "u", "assignment_probability": 0.25, "messages": said}
    only = {"conversation_id": "b", "user_id": "u", "reply_logprob": -4, "messages": said[2:]}
    both = {"conversation_id": "c", "user_id": "u", "reply_logprob": "-4", "messages": [*said[2:], *said[2:]]}
    assert _chances(_read("messages", tmp_path / "a.jsonl", own)) == [(0.25, -1.5), (0.25, None)]
    assert _chances(_read("messages", tmp_path / "b.jsonl", only)) == [(None, -4.0)]
    assert _chances(_read("messages", tmp_path / "c.jsonl", both)) == [(None, None)] * 2, (
        "of two replies it is neither's"
    )


def _told(name: str, nth: int, history: list[Record], reply: str, **told: Any) -> Record:
    start, end = f"2026-05-03T10:{nth:02d}:00Z", f"2026-05-03T10:{nth:02d}:05Z"
    if name == "langfuse":
        return {"id": f"o{nth}", "traceId": f"t{nth}", "type": "GENERATION", "startTime": start, "endTime": end,
                "input": history, "output": {"role": "assistant", "content": reply}, "userId": "u1", "sessionId": "s1",
                "metadata": told}  # fmt: skip
    if name == "langsmith":
        about = {"user_id": "u1", "session_id": "s1", **told}
        return {"id": f"o{nth}", "trace_id": f"o{nth}", "run_type": "llm", "start_time": start, "end_time": end,
                "inputs": {"messages": history}, "outputs": {"messages": [{"role": "assistant", "content": reply}]},
                "extra": {"metadata": about}}  # fmt: skip
    about = {"user.id": "u1", "gen_ai.conversation.id": "s1", "gen_ai.input.messages": history, **told,
             "gen_ai.output.messages": [{"role": "assistant", "content": reply}]}  # fmt: skip
    return {
        "trace_id": f"t{nth}",
        "span_id": f"o{nth}",
        "start_time": start,
        "end_time": end,
        "name": "chat",
        "attributes": about,
    }


@pytest.mark.parametrize("name", ["langfuse", "langsmith", "otel"])
def test_traces_say_it_of_their_own_reply_alone(name: str, tmp_path: Path) -> None:
    """The reply in a call's history is another call's, which was not logged here: its chance is not known."""
    history = [{"role": "user", "content": "What is a comet?"}, {"role": "assistant", "content": "A ball of ice."},
               {"role": "user", "content": "And a meteor?"}]  # fmt: skip
    told = {"experiment_arm": "b", "assignment_probability": 0.5, "reply_logprob": 0.0}
    messages = _read(name, tmp_path / "log.jsonl", _told(name, 1, history, "A streak of light.", **told))
    of = dict(zip(messages["content"], messages.select("experiment_arm", *COLUMNS).rows(), strict=True))
    assert of["A streak of light."] == ("b", 0.5, 0.0)
    assert of["A ball of ice."][2] is None
