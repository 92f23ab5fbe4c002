"""Small logs of the kinds that tools really write, each with the labels, owners and contexts that are right for it."""

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
U, A = "user", "assistant"


def _read(name: str, log_format: str, table: str = "messages") -> pl.DataFrame:
    config = IngestConfig.model_validate({"format": log_format, "table": table, "source": str(CASES / name)})
    return read_table(config).collect()


def _rows(*rows: tuple[Any, ...], who: str | None = "u") -> pl.DataFrame:
    """Messages: conversation, id, parent, turn, role, seconds after the start[, user]."""
    return pl.DataFrame(
        [{"conversation_id": row[0], "message_id": row[1], "parent_id": row[2], "turn_index": row[3], "role": row[4],
          "content": f"says {row[1]}", "created_at": START + timedelta(seconds=row[5]),
          "user_id": row[6] if len(row) > 6 else who} for row in rows],
        schema=dict(MESSAGES),
    )  # fmt: skip


def _events(*rows: dict[str, Any]) -> pl.DataFrame:
    plain = {"reaction_id": "e", "message_id": "a", "user_id": "u", "signal": "love", "value": 1,
             "reacted_at": START + timedelta(minutes=5)}  # fmt: skip
    return pl.DataFrame([plain | row for row in rows], schema=dict(REACTIONS))


def _made(messages: pl.DataFrame, reactions: pl.DataFrame | None = None, **settings: Any) -> Validated:
    config = ContractConfig.model_validate({"signals": ("love", "thumbs_down"), "exposure": "all_shown", **settings})
    return validate(messages.lazy(), (empty("reactions") if reactions is None else reactions).lazy(), config)


def _labels(log: Validated) -> dict[str, tuple[int | None, int | None]]:
    return {row[0]: (row[1], row[2])
            for row in log.replies.select("message_id", "label_love", "label_thumbs_down").iter_rows()}  # fmt: skip


def _aside(log: Validated) -> list[tuple[str, str]]:
    return [(row["defect"], json.loads(row["row"])["message_id"]) for row in log.quarantine.iter_rows(named=True)]


def _contexts(log: Validated, ctx_turns: int = 10) -> dict[str, list[str]]:
    found = ConversationPool(log.replies["conversation_id"], log.messages.lazy()).contexts(log.replies, ctx_turns)
    return {row["message_id"]: [said["content"].removeprefix("says ") for said in row["prompt"]]
            for row in found.iter_rows(named=True)}  # fmt: skip


def test_a_reaction_that_is_set_aside_leaves_no_no() -> None:
    log = _made(
        _read("set_aside_messages.jsonl", "messages"), _read("set_aside_reactions.jsonl", "messages", "reactions")
    )
    assert _labels(log) == {"r0": (1, 0), "r1": (None, 0), "r2": (None, 0), "r3": (None, 0)}
    assert _aside(log) == [("missing_time", "r1"), ("bad_value", "r2"), ("before_reply", "r3")]


def test_all_messages_since_the_last_reply_are_in_the_prompt_and_parts_stand_in_order() -> None:
    log = _made(
        _read("consecutive_messages.jsonl", "messages"), _read("consecutive_messages.jsonl", "messages", "reactions")
    )
    essay, shorter, cats, french, first = (
        "Here is my essay: Cats are kind.", "Please shorten it.", "Cats: kind.", "Now in French", "Let me translate.",
    )  # fmt: skip
    assert _contexts(log) == {
        "m3": [essay, shorter],
        "m5": [essay, shorter, cats, french],
        "m6": [essay, shorter, cats, french, first],
    }
    # The first part of a reply in two parts, unmarked: who marks a reply marks its end.
    assert _labels(log) == {"m3": (1, 0), "m5": (None, None), "m6": (1, 0)}
    assert _contexts(log, 1) == {"m3": [essay, shorter], "m5": [french], "m6": [french, first]}


def test_a_reply_belongs_to_its_conversations_user() -> None:
    log = _made(_read("bot_ids.csv", "canonical"))
    assert log.quarantine.is_empty()
    assert dict(log.replies.select("message_id", "user_id").iter_rows()) == {"m2": "u1", "m4": "u2"}
    odd = _made(
        _rows(("c", "s", None, 0, "system", 0, None), ("c", "q", None, 0, U, 1), ("c", "a", None, 0, A, 2, " "))
    )
    assert odd.quarantine.is_empty() and odd.messages["user_id"].to_list() == ["u", "u", "u"]


def test_the_last_state_of_a_record_counts() -> None:
    """An upserted score: the thumb was turned, and the row was exported twice; and one record of two signals."""
    messages = _rows(("c", "q", None, 0, U, 0), ("c", "a", None, 0, A, 1))
    later = START + timedelta(minutes=9)
    states = [{"updated_at": START + timedelta(minutes=5)}, {"value": 0, "updated_at": later}]
    for order in (states, states[::-1]):
        log = _made(messages, _events(*order, order[0]))
        assert _labels(log) == {"a": (0, 0)}
        assert sorted(name for name, _ in _aside(log)) == ["duplicate_id", "superseded"]
    turned = _made(messages, _events(states[0], {"signal": "thumbs_down", "updated_at": later}))
    assert _labels(turned) == {"a": (0, 1)} and _aside(turned) == [("superseded", "a")]


@pytest.mark.parametrize(
    "events",
    [
        [{}, {"value": 0}],  # nothing tells which came later
        [{}, {"value": 0, "updated_at": START + timedelta(minutes=9)}],  # of one it is not known when it was changed
        [{}, {"value": 0, "message_id": None}],  # a state that has lost its message
        [{"signal": "Love "}],
        [{"signal": None}],
        [{"conversation_id": "elsewhere"}],
        [{}, {"reaction_id": "f", "value": 0}],  # two events of one time
    ],
)
def test_what_cannot_be_put_in_order_or_place_is_unknown(events: list[dict[str, Any]]) -> None:
    messages = _rows(("c", "q", None, 0, U, 0), ("c", "a", None, 0, A, 1))
    assert _labels(_made(messages, _events(*events)))["a"][0] is None


def test_a_signal_of_other_name_and_a_message_that_is_nowhere_mark_nothing() -> None:
    messages = _rows(("c", "q", None, 0, U, 0), ("c", "a", None, 0, A, 1))
    log = _made(messages, _events({"signal": "share"}, {"reaction_id": "f", "message_id": "nowhere"}))
    assert _labels(log) == {"a": (0, 0)}
    assert _aside(log) == [("unknown_signal", "a"), ("unknown_message", "nowhere")]


def test_a_message_is_known_by_conversation_and_id() -> None:
    rows = [(name, one, None, 0, role, at) for name in "cd" for one, role, at in (("q", U, 0), ("a", A, 1 + ord(name)))]
    messages = _rows(*rows)
    named = _made(messages, _events({"conversation_id": "d"}))
    assert named.replies.select("conversation_id", "label_love").rows() == [("c", 0), ("d", 1)]
    unnamed = _made(messages, _events({"reacted_at": START + timedelta(hours=1)}))
    assert unnamed.replies.select("label_love", "label_thumbs_down").rows() == [(None, 0), (None, 0)]
    assert _aside(unnamed) == [("ambiguous_message", "a")]


def test_an_id_that_stands_in_tomorrows_conversation_too_is_ambiguous_today() -> None:
    today = _rows(("c", "q", None, 0, U, 0), ("c", "a", None, 0, A, 1))
    tomorrow = _rows(("d", "q", None, 0, U, 86_400), ("d", "a", None, 0, A, 86_401)).lazy()
    config = ContractConfig(signals=("love",), exposure="all_shown", day=START.date())
    love = _events({"reacted_at": START + timedelta(days=1, minutes=1)}).lazy()
    alone = validate(today.lazy(), empty("reactions").lazy(), config, next_reactions=love)
    assert alone.replies["label_love"].to_list() == [0]  # it lies after the window of today's, were it about it
    early = _events({"reacted_at": START + timedelta(minutes=1)}).lazy()
    log = validate(today.lazy(), early, config, next_messages=tomorrow)
    assert log.replies["label_love"].to_list() == [None] and _aside(log) == [("ambiguous_message", "a")]


TREE = [
    ("c", "u1", None, 0, U, 0), ("c", "a1", "u1", 0, A, 10), ("c", "a1b", "u1", 0, A, 20), ("c", "u2", "a1", 1, U, 40),
    ("c", "a2", "u2", 1, A, 50), ("c", "u2e", "a1", 1, U, 60), ("c", "a2e", "u2e", 1, A, 70), ("c", "u3", "a2", 2, U, 90),
    ("c", "a3", "u3", 2, A, 95), ("c", "r2", None, 0, U, 100), ("c", "b1", "r2", 0, A, 105),
]  # fmt: skip


def test_branches_have_the_path_from_their_own_root() -> None:
    """A reply given again, an edited question, one that goes on from the first of two replies, and an edited first one."""
    log = _made(_rows(*TREE))
    assert log.quarantine.is_empty()
    assert _contexts(log) == {
        "a1": ["u1"], "a1b": ["u1"], "a2": ["u1", "a1", "u2"], "a2e": ["u1", "a1", "u2e"],
        "a3": ["u1", "a1", "u2", "a2", "u3"], "b1": ["r2"],
    }  # fmt: skip
    assert _contexts(log, 2)["a3"] == ["u2", "a2", "u3"]
    assert set(_labels(log).values()) == {(0, 0)}  # siblings are replies of their own: none is a part of another


def test_a_reply_that_has_lost_its_parent_is_named_and_what_comes_after_starts_anew() -> None:
    rows = _rows(*(row for row in TREE if row[1] != "u2"))
    log = _made(rows)
    assert _aside(log) == [("missing_parent", "a2")]
    assert _contexts(log)["a3"] == ["u3"]
    blank = _rows(*TREE).with_columns(
        content=pl.when(pl.col("message_id") != "u2").then("content").otherwise(pl.lit(" "))
    )
    assert _aside(_made(blank)) == [("empty_text", "u2"), ("missing_parent", "a2")]


def _dialogue(**changed: dict[str, Any]) -> Validated:
    """Two questions, each with a reply, and a third in two messages, with what is changed of single messages."""
    ids = {"q0": (0, U), "a0": (0, A), "q1": (1, U), "a1": (1, A), "q2": (2, U), "more": (2, U), "a2": (2, A)}
    said = _rows(*(("c", name, None, *place, 5 * nth) for nth, (name, place) in enumerate(ids.items())))
    rows = [row | changed.get(row["message_id"], {}) for row in said.to_dicts()]
    return _made(pl.DataFrame(rows, schema=dict(MESSAGES)))


@pytest.mark.parametrize(
    ("changed", "contexts"),
    [
        ({"a1": {"content": "x" * 40_000}}, {"a0": ["q0"], "a2": ["q2", "more"]}),
        ({"a1": {"content": "so <span class="}}, {"a0": ["q0"], "a2": ["q2", "more"]}),
        ({"a0": {"created_at": None}}, {"a1": ["q1"], "a2": ["q1", "a1", "q2", "more"]}),
        ({"q1": {"content": "caf\ufffd"}}, {"a0": ["q0"], "a2": ["q2", "more"]}),
        ({"q0": {"created_at": None}}, {"a1": ["q1"], "a2": ["q1", "a1", "q2", "more"]}),
        ({"q2": {"content": "caf\ufffd"}}, {"a0": ["q0"], "a1": ["q0", "a0", "q1"]}),
        ({"a1": {"content": " "}}, {"a0": ["q0"], "a2": ["q0", "a0", "q1", "q2", "more"]}),
        ({"q2": {"content": None}}, {"a0": ["q0"], "a1": ["q0", "a0", "q1"], "a2": ["q0", "a0", "q1", "a1", "more"]}),
    ],
)  # fmt: skip
def test_no_context_runs_across_what_was_set_aside(changed: dict[str, Any], contexts: dict[str, list[str]]) -> None:
    log = _dialogue(**changed)
    assert _contexts(log) == contexts
    assert "on_greeting" not in dict(_aside(log)) and log.accounting.greetings == 0


def test_parents_in_a_circle_are_named() -> None:
    log = _made(
        _rows(("c", "q", "a", 0, U, 0), ("c", "a", "q", 0, A, 5), ("c", "p", "a", 1, U, 8), ("c", "b", "p", 1, A, 9))
    )
    assert _aside(log) == [("parent_cycle", "q"), ("parent_cycle", "a")]
    assert _contexts(log) == {"b": ["p"]}


@pytest.mark.parametrize("turn", [-1, 0, 1])
def test_a_greeting_is_context_and_no_reply(turn: int) -> None:
    first = max(turn, 0)
    rows = _rows(
        ("c", "g", None, turn, A, 0, "bot"), ("c", "q", None, first, U, 10), ("c", "a", None, first, A, 15, "bot")
    )
    log = _made(rows, _events({"message_id": "g"}, {"reaction_id": "f"}))
    assert _labels(log) == {"a": (1, 0)} and _contexts(log) == {"a": ["g", "q"]} == _contexts(log, 1)
    assert _aside(log) == [("on_greeting", "g")]
    assert (log.accounting.greetings, log.accounting.reactions_faultless, log.messages.height) == (1, 1, 3)
    assert log.replies["user_id"].to_list() == ["u"]


def test_cloned_chats_are_found_whatever_their_ids_and_order() -> None:
    rows = [(name, one, None, 0, role, at) for name in "cd" for one, role, at in (("q", U, 0), ("a", A, 1))]
    for order in (rows, rows[::-1]):
        log = _made(_rows(*order), _events({"conversation_id": "c"}))
        assert log.replies.select("conversation_id", "label_love").rows() == [("c", 1)]
        assert {name for name, _ in _aside(log)} == {"duplicate_conversation"}


def test_where_every_row_counts_as_a_turn_parts_are_next_to_each_other() -> None:
    rows = [("c", "0", None, 0, U, 0), ("c", "1", None, 1, A, 1), ("c", "2", None, 2, U, 2), ("c", "3", None, 3, A, 3),
            ("c", "4", None, 4, A, 4), ("c", "6", None, 6, A, 6)]  # fmt: skip
    log = _made(_rows(*rows))
    assert _contexts(log) == {"1": ["0"], "3": ["0", "1", "2"], "4": ["0", "1", "2", "3"]}
    assert _aside(log) == [("reply_without_user_message", "6")]


@pytest.mark.parametrize(
    ("policy", "events", "label"),
    [
        ("at_message", [{}], 1),
        ("drop_as_unknown", [{}], None),
        (None, [{}], None),
        ("at_message", [{}, {"reaction_id": "f", "value": 0}], None),  # set and taken back: nothing tells which is last
        ("at_message", [{}, {"reaction_id": "f", "value": 0, "reacted_at": START + timedelta(minutes=2)}], None),
        ("at_message", [{}, {"reaction_id": "f", "reacted_at": START + timedelta(minutes=2)}], 1),
    ],
)
def test_undated_reactions_follow_the_declared_policy(
    policy: str | None, events: list[dict[str, Any]], label: int | None
) -> None:
    messages = _rows(
        ("c", "q", None, 0, U, 0), ("c", "a", None, 0, A, 1), ("d", "p", None, 0, U, 0), ("d", "b", None, 0, A, 1)
    )
    log = _made(messages, _events(*({"reacted_at": None} | one for one in events)), undated_reactions=policy)
    assert _labels(log) == {"a": (label, 0), "b": (0, 0)}


def test_a_record_sent_twenty_times_is_no_burst() -> None:
    messages = _rows(("c", "q", None, 0, U, 0), ("c", "a", None, 0, A, 1))
    assert _labels(_made(messages, _events(*[{}] * 25))) == {"a": (1, 0)}
