"""Labels never lie: whatever is done to a record, only the label of the reply it names changes, and only to unknown.

And what says the same thing in another way gives the same labels and contexts: shuffled rows, rows sent again, records in
their last state alone, a chat that was cloned, a log cut into days, marks without a time.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from random import Random
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.contract import Validated, validate
from rluf_assets.feedback.schemas import label_column
from rluf_assets.feedback.windows import ConversationPool
from tests.feedback.conversations import WINDOW_H, Row, cloned, conversations, frames, single_marks
from tests.feedback.logs import SIGNALS, START, day_of

Labels = dict[tuple[str, str, str], int | None]
CONFIG = ContractConfig(signals=SIGNALS, attribution_window_h=WINDOW_H, as_of=START + timedelta(days=9))
seeds = st.integers(0, 10**9)


def _made(messages: list[Row], reactions: list[Row], config: ContractConfig = CONFIG) -> Validated:
    """Validated as one partition; every row of the source is accounted for."""
    tables = frames(messages, reactions)
    log = validate(tables[0].lazy(), tables[1].lazy(), config)
    for table, given_rows, accepted in zip(
        ("messages", "reactions"), tables, (log.messages, log.reactions), strict=True
    ):
        aside = log.quarantine.filter(pl.col("table") == table)
        assert given_rows.height == accepted.height + aside.height
        assert aside["source_row"].is_unique().all()
    return log


def _labels(replies: pl.DataFrame) -> Labels:
    return {
        (row["conversation_id"], row["message_id"], signal): row[label_column(signal)]
        for row in replies.iter_rows(named=True)
        for signal in SIGNALS
    }


def _contexts(log: Validated, ctx_turns: int = 3) -> dict[tuple[str, str], list[str]]:
    found = ConversationPool(log.replies["conversation_id"], log.messages.lazy()).contexts(log.replies, ctx_turns)
    rows = found.select("conversation_id", "message_id", "prompt").iter_rows()
    return {(where, name): [said["content"] for said in prompt] for where, name, prompt in rows}


def _spoiled(rng: Random, record: Row, replies: dict[str, Row]) -> list[Row]:
    """A record with a defect of its own; or beside it another state of it that nothing puts in order."""
    before = replies[record["message_id"]]["created_at"] - timedelta(seconds=1)
    odd: dict[str, list[Any]] = {
        "reacted_at": [None, before, CONFIG.as_of + timedelta(hours=1)] if CONFIG.as_of else [None],
        "value": [None, 5, -1], "signal": [None, "", record["signal"].upper() + " "], "user_id": ["", " "],
        "reaction_id": [None, ""], "conversation_id": ["elsewhere"],
    }  # fmt: skip
    column = rng.choice([*odd, "conflict"])
    if column == "conflict":
        return [record, record | {"value": 1 - record["value"]}]
    return [record | {column: rng.choice(odd[column])}]


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_defective_reaction_makes_its_own_label_unknown_and_changes_no_other(seed: int) -> None:
    messages, reactions = conversations(seed)
    rng, whole = Random(seed), _labels(_made(messages, reactions).replies)
    replies = {row["message_id"]: row for row in messages}
    for place in rng.sample(range(len(reactions)), min(4, len(reactions))):
        record = reactions[place]
        worse = [*reactions[:place], *_spoiled(rng, record, replies), *reactions[place + 1 :]]
        found = _labels(_made(messages, worse).replies)
        # What the record says in any of its states; all, where what it says or whose state it is is lost.
        of_it = [row for row in reactions if row["reaction_id"] == record["reaction_id"]]
        told = worse[place]["signal"] and worse[place]["reaction_id"]
        meant = {row["signal"] for row in of_it} if told else set(SIGNALS)
        named = {(record["message_id"], signal) for signal in meant}
        allowed = {key: {label, None} if key[1:] in named else {label} for key, label in whole.items()}
        wrong = {key: (whole[key], found[key]) for key in whole if found[key] not in allowed[key]}
        assert not wrong, (record, worse[place], wrong)


SPOILS: list[tuple[str, Any]] = [
    ("content", ""), ("content", None), ("content", "so <span class="), ("content", "caf\ufffd"), ("role", None),
    ("role", "tool"), ("turn_index", None), ("created_at", None), ("message_id", None), ("conversation_id", ""),
    ("parent_id", "nowhere"),
]  # fmt: skip


@settings(max_examples=14, deadline=None)
@given(seeds)
def test_a_defective_message_takes_labels_away_and_changes_none(seed: int) -> None:
    messages, reactions = conversations(seed)
    log, rng = _made(messages, reactions), Random(seed)
    whole, contexts = _labels(log.replies), _contexts(log, 99)
    for place in rng.sample(range(len(messages)), 4):
        column, value = rng.choice(SPOILS)
        if column == "parent_id" and messages[place]["parent_id"] is None:
            continue  # no tree: a parent that is named is no defect of this row alone
        if column == "conversation_id" and messages[place]["role"] == "assistant":
            continue  # torn out of its conversation, nothing tells that it was the part of a reply
        spoiled = messages[place] | {column: value}
        log = _made([*messages[:place], spoiled, *messages[place + 1 :]], reactions)
        found = _labels(log.replies)
        for name, prompt in _contexts(log, 99).items() if column not in ("message_id", "conversation_id") else ():
            assert _tells(prompt, contexts[name], messages[place], spoiled), (name, spoiled, prompt, contexts[name])
        for key, label in whole.items():
            kept = {label} if key[0] != messages[place]["conversation_id"] else {label, None}
            assert found.get(key) in kept, (messages[place], column, key, label, found.get(key))
        assert set(found) <= set(whole)


def _tells(prompt: list[str], whole: list[str], row: Row, spoiled: Row) -> bool:
    """Whether a prompt is the end of the one that the user saw; only what is blank or a tool's, or an earlier part of the
    reply itself, may be missing within it.
    """
    said = [text for text in prompt if not text.startswith("system")]
    seen = [text for text in whole if not text.startswith("system")]
    silent = not (spoiled["content"] or "").strip() or spoiled["role"] == "tool"
    part = row["role"] == "assistant" and all(text.startswith("assistant") for text in seen[len(said) :])
    without = [text for text in seen if text != row["content"] or not (silent or part)]
    return said in (seen[len(seen) - len(said) :], without[len(without) - len(said) :])


@settings(max_examples=14, deadline=None)
@given(seeds)
def test_what_says_the_same_gives_the_same_labels_and_contexts(seed: int) -> None:
    messages, reactions = conversations(seed)
    log, rng = _made(messages, reactions), Random(seed)
    labels, contexts = _labels(log.replies), _contexts(log)
    shuffled = [rng.sample(rows, len(rows)) for rows in (messages, reactions)]
    again = [rng.sample([*rows, *rng.sample(rows, len(rows) // 2)], len(rows) + len(rows) // 2) for rows in shuffled]
    states = {row["reaction_id"]: row for row in reactions if row.get("updated_at") is not None}
    for row in reactions:
        if row.get("updated_at") is not None and row["updated_at"] > states[row["reaction_id"]]["updated_at"]:
            states[row["reaction_id"]] = row
    only_last = [row for row in reactions if row.get("updated_at") is None] + list(states.values())
    for one in (shuffled, again, [messages, only_last], [[*cloned(messages, rng), *messages], reactions]):
        other = _made(*one)
        assert _labels(other.replies) == labels
        assert _contexts(other) == contexts


@settings(max_examples=14, deadline=None)
@given(seeds)
def test_a_log_cut_into_days_gives_the_same_labels(seed: int) -> None:
    messages, reactions = conversations(seed)
    assert _by_days(messages, reactions, CONFIG) == _labels(_made(messages, reactions).replies)


@settings(max_examples=6, deadline=None)
@given(seeds)
def test_marks_without_a_time_count_as_given_with_their_reply_or_leave_it_unknown(seed: int) -> None:
    messages, reactions = conversations(seed)
    dated, undated = single_marks(messages, reactions)
    whole = _labels(_made(messages, dated).replies)
    at_message = CONFIG.model_copy(update={"undated_reactions": "at_message"})
    assert _labels(_made(messages, undated, at_message).replies) == whole
    assert _by_days(messages, undated, at_message) == whole
    named = {(row["message_id"], row["signal"]) for row in undated}
    unknown = {key: None if key[1:] in named else label for key, label in whole.items()}
    dropped = CONFIG.model_copy(update={"undated_reactions": "drop_as_unknown"})
    assert _labels(_made(messages, undated, dropped).replies) == unknown == _by_days(messages, undated, dropped)


def _by_days(messages: list[Row], reactions: list[Row], config: ContractConfig) -> Labels:
    """Labels of the log as days; marks without a time stand with the first and are seen by all (as the graph does it)."""
    tables = frames(messages, reactions)
    undated = tables[1].filter(pl.col("reacted_at").is_null()).lazy()
    found: Labels = {}
    one, came_in = timedelta(days=1), 0
    for nth in range(4):
        day: date = START.date() + nth * one
        of_day, after = (day_of(tables[1], "reacted_at", day + ahead * one) for ahead in (0, 1))
        log = validate(
            day_of(tables[0], "created_at", day), of_day if nth else pl.concat([of_day, undated]),
            config.model_copy(update={"day": day}),
            previous_messages=day_of(tables[0], "created_at", day - one),
            next_messages=day_of(tables[0], "created_at", day + one),
            next_reactions=pl.concat([after, undated]) if nth else after,
        )  # fmt: skip
        came_in += log.accounting.messages_in + log.accounting.reactions_in
        found |= _labels(log.replies)
    assert came_in == len(messages) + len(reactions)
    return found


@settings(max_examples=14, deadline=None)
@given(seeds)
def test_a_reaction_that_has_lost_its_message_leaves_no_no_behind(seed: int) -> None:
    """Its id garbled, the reply that it named is unknown where its conversation is known; no label is turned over."""
    messages, reactions = conversations(seed)
    rng, whole = Random(seed), _labels(_made(messages, reactions).replies)
    single = [n for n, row in enumerate(reactions) if row["conversation_id"] is not None
              and sum(one["reaction_id"] == row["reaction_id"] for one in reactions) == 1]  # fmt: skip
    for place in rng.sample(single, min(2, len(single))):
        record = reactions[place]
        worse = [*reactions[:place], record | {"message_id": rng.choice([None, "", "gone"])}, *reactions[place + 1 :]]
        found = _labels(_made(messages, worse).replies)
        for key, label in whole.items():
            near = key[0] == record["conversation_id"] and key[2] == record["signal"]
            assert found[key] in ({label, None} if near else {label}), (record, key)
        named = (record["conversation_id"], record["message_id"], record["signal"])
        inside = record["reacted_at"] <= _said(messages, named) + timedelta(hours=WINDOW_H)
        if inside and named in whole:
            assert found[named] is None, record


def _said(messages: list[Row], named: tuple[str, str, str]) -> datetime:
    return next(row["created_at"] for row in messages if (row["conversation_id"], row["message_id"]) == named[:2])
