"""The row contract: every planted defect is found, named and counted exactly; nothing else is; the sums always hold."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.errors import DataError
from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.contract import Accounting, validate
from rluf_assets.feedback.defects import MESSAGE_DEFECTS, REACTION_DEFECTS
from rluf_assets.feedback.schemas import MESSAGES, REACTIONS
from tests.feedback.logs import SIGNALS, START, clean_logs, day_of, validated

AS_OF = START + timedelta(days=2)
DAY = date(2026, 1, 1)
WITH_DAY = {"day": DAY, "as_of": AS_OF, "max_chars": 500}


def _edit(frame: pl.DataFrame, row: int, **values: Any) -> pl.DataFrame:
    rows = frame.to_dicts()
    rows[row] |= values
    return pl.DataFrame(rows, schema=frame.schema)


def _append(frame: pl.DataFrame, *rows: dict[str, Any]) -> pl.DataFrame:
    return pl.concat([frame, pl.DataFrame(list(rows), schema=frame.schema)])


def _last_replies(messages: pl.DataFrame, reactions: pl.DataFrame) -> list[int]:
    """Rows of replies that end their conversation and have no reaction: spoiling one spoils nothing else."""
    rows = messages.with_row_index("row")
    ends = rows.group_by("conversation_id", maintain_order=True).last().filter(pl.col("turn_index") > 0)
    return ends.filter(~pl.col("message_id").is_in(reactions["message_id"].implode()))["row"].to_list()


def _defects(result: Any, table: str) -> dict[str, int]:
    return dict(Counter(result.quarantine.filter(pl.col("table") == table)["defect"].to_list()))


def test_clean_log_has_no_defect() -> None:
    messages, reactions = clean_logs(seed=1)
    result = validated(messages, reactions, **WITH_DAY)
    assert result.quarantine.is_empty()
    assert result.accounting.messages_accepted == messages.height
    assert result.accounting.mature == messages.filter(pl.col("role") == "assistant").height
    set_ones = {(row["message_id"], row["signal"]) for row in reactions.to_dicts()}
    for signal in SIGNALS:
        for reply, label in result.replies.select("message_id", f"label_{signal}").iter_rows():
            assert label == ((reply, signal) in set_ones)


SPOILED_MESSAGES: dict[str, dict[str, Any]] = {
    "missing_id": {"message_id": " "},
    "invalid_text": {"content": "caf\ufffd"},
    "cut_markup": {"content": "He isn'<span class="},
    "unknown_role": {"role": "moderator"},
    "tool_message": {"role": "tool"},
    "bad_turn_index": {"turn_index": None},
    "missing_time": {"created_at": None},
    "future_time": {"created_at": AS_OF + timedelta(hours=1)},
    "other_day": {"created_at": START + timedelta(days=1, hours=3)},
    "empty_text": {"content": " \n"},
    "overlong_text": {"content": "x" * 501},
    "before_conversation": {"created_at": START - timedelta(0)},
}


def test_planted_message_defects_are_found_at_exactly_their_count() -> None:
    messages, reactions = clean_logs(users_per_day=120, seed=2, max_turns=5)
    free = iter(_last_replies(messages, reactions))
    planted: Counter[str] = Counter()
    rows = messages.to_dicts()
    for nth, (name, values) in enumerate(SPOILED_MESSAGES.items()):
        for _ in range(nth % 3 + 2):
            rows[next(free)] |= values
            planted[name] += 1
    again = [dict(rows[next(free)]) for _ in range(4)]  # re-delivered rows
    planted["duplicate_id"] = 4
    changed = dict(rows[next(free)])  # which of the two texts was shown is not known
    again.append(changed | {"content": "other"})
    planted["conflicting_id"] = 2
    for nth in range(2):  # a reply after the last one, its question lost
        row = rows[next(free)]
        late = {"turn_index": row["turn_index"] + 2, "created_at": row["created_at"] + timedelta(minutes=1)}
        again.append(row | late | {"message_id": f"orphan-{nth}"})
        again.append(row | late | {"message_id": f"stranger-{nth}", "role": "user", "user_id": "someone-else",
                                   "created_at": row["created_at"] + timedelta(minutes=2)})  # fmt: skip
    planted["reply_without_user_message"] = planted["other_user"] = 2
    row = rows[next(free)]
    late = {"created_at": row["created_at"] + timedelta(minutes=1)}
    again.append(row | late | {"message_id": "lost-child", "parent_id": "nowhere"})
    again.append(row | late | {"message_id": "own-child", "parent_id": "own-child"})
    planted["missing_parent"] = planted["parent_cycle"] = 1
    for _ in range(3):  # earlier than the turn before, later than the start
        row = next(free)
        while rows[row]["turn_index"] < 2:
            row = next(free)
        rows[row]["created_at"] = rows[row - 2]["created_at"] - timedelta(seconds=1)
        planted["turn_order"] += 1
    whole = messages.filter(pl.col("conversation_id") == rows[next(free)]["conversation_id"]).to_dicts()
    copy = [row | {"conversation_id": "copy", "message_id": f"copy-{i}"} for i, row in enumerate(whole)]
    planted["duplicate_conversation"] = len(copy)
    dirty = pl.DataFrame([*rows, *again, *copy], schema=dict(MESSAGES))
    result = validated(dirty, reactions, **WITH_DAY)
    assert _defects(result, "messages") == dict(planted)
    assert set(planted) == set(MESSAGE_DEFECTS)
    assert _defects(result, "reactions") == {}
    assert result.accounting.messages_in == dirty.height
    assert result.accounting.messages_accepted == dirty.height - sum(planted.values())


def test_quarantine_keeps_place_and_content() -> None:
    messages, reactions = clean_logs(seed=3)
    row = _last_replies(messages, reactions)[0]
    result = validated(_edit(messages, row, role="tool", content='odd "quotes" \x00 and 🎉 NaN'), reactions)
    (found,) = result.quarantine.to_dicts()
    assert (found["table"], found["defect"], found["source_row"]) == ("messages", "tool_message", row)
    assert json.loads(found["row"])["content"] == 'odd "quotes" \x00 and 🎉 NaN'


def test_planted_reaction_defects_are_found_at_exactly_their_count() -> None:
    messages, reactions = clean_logs(users_per_day=60, seed=4)
    messages = messages.with_columns(
        created_at=pl.col("created_at").dt.truncate("1d")
        + pl.duration(hours=1)
        + (pl.col("created_at") - pl.col("created_at").first().over("conversation_id"))
    )
    replies = messages.filter(pl.col("role") == "assistant").to_dicts()
    hidden = replies[0]["message_id"]
    messages = messages.with_columns(
        reactions_shown=pl.when(pl.col("message_id") == hidden).then(pl.lit(False)).otherwise("reactions_shown")
    )
    reactions = reactions.filter(pl.col("message_id") != hidden).with_columns(
        reacted_at=pl.lit(START + timedelta(hours=2)).cast(pl.Datetime("us", "UTC"))
    )
    target, at = replies[5], START + timedelta(hours=2)
    spoiled: dict[str, dict[str, Any]] = {
        "missing_id": {"user_id": ""},
        "missing_signal": {"signal": " "},
        "unknown_signal": {"signal": "poke"},
        "bad_value": {"value": 7},
        "missing_time": {"reacted_at": None},
        "future_time": {"reacted_at": AS_OF + timedelta(minutes=1)},
        "other_day": {"reacted_at": START + timedelta(days=1, minutes=30)},
        "other_conversation": {"conversation_id": "another"},
        "unknown_message": {"message_id": "nowhere"},
        "quarantined_message": {"message_id": "spoiled"},
        "on_tool_message": {"message_id": "called"},
        "not_a_reply": {"message_id": target["message_id"].removesuffix("-a") + "-u"},
        "before_reply": {"reacted_at": START + timedelta(minutes=1)},
        "not_offered": {"message_id": hidden},
    }
    extra = dict(target) | {"message_id": "spoiled", "content": ""}
    called = extra | {"message_id": "called", "role": "tool"}
    plain = {"message_id": target["message_id"], "user_id": "x", "signal": "love", "value": 1, "source": "app"}
    rows = [
        plain | {"reaction_id": f"bad-{name}-{n}", "reacted_at": at} | values
        for nth, (name, values) in enumerate(spoiled.items())
        for n in range(nth % 3 + 1)
    ]
    expected = {name: nth % 3 + 1 for nth, name in enumerate(spoiled)}
    rows += [reactions.row(0, named=True)] * 2  # the same record, sent again
    changed = plain | {"reaction_id": "changed", "reacted_at": at, "user_id": "y"}
    later = [{"updated_at": at + timedelta(minutes=n), "value": n % 2} for n in range(3)]
    rows += [changed | state for state in later]
    rows += [changed | {"reaction_id": "odd", "value": n} for n in range(2)]
    named_twice = [extra | {"message_id": "twice", "conversation_id": f"room-{n}", "role": "user", "content": "hi"}
                   for n in range(2)]  # fmt: skip
    greeting = extra | {"message_id": "hello", "conversation_id": "greeted", "content": "hello!", "turn_index": 0}
    rows += [changed | {"reaction_id": one, "message_id": one} for one in ("twice", "hello")]
    expected |= {"duplicate_id": 2, "superseded": 2, "conflicting_id": 2, "ambiguous_message": 1, "on_greeting": 1}
    dirty = _append(reactions, *rows)
    result = validated(_append(messages, extra, called, *named_twice, greeting), dirty, **WITH_DAY)
    assert _defects(result, "reactions") == expected
    assert _defects(result, "messages") == {"empty_text": 1, "tool_message": 1}
    assert (
        result.accounting.messages_faultless,
        result.accounting.reactions_faultless,
        result.accounting.greetings,
    ) == (1, 3, 1)
    # The one defect that needs a second day: given after the attribution window.
    late = plain | {"reaction_id": "late", "reacted_at": at + timedelta(days=1)}
    found = validated(messages, _append(reactions, late), as_of=AS_OF + timedelta(days=9), attribution_window_h=24)
    assert _defects(found, "reactions") == {"after_window": 1}
    assert set(expected) | {"after_window", "scripted_burst", "message_of_another_day"} == set(REACTION_DEFECTS)


def _one_reply(**reply: Any) -> pl.DataFrame:
    shared = {"conversation_id": "c", "turn_index": 0, "user_id": "u"}
    return pl.DataFrame(
        [
            shared | {"message_id": "q", "role": "user", "content": "hi", "created_at": START},
            shared
            | {"message_id": "a", "role": "assistant", "content": "hello", "created_at": START, "reactions_shown": True}
            | reply,
        ],
        schema=dict(MESSAGES),
    )


def _events(*values: tuple[str, int, float]) -> pl.DataFrame:
    rows = [
        {"reaction_id": f"r{i}", "message_id": "a", "user_id": who, "signal": "love", "value": value,
         "reacted_at": START + timedelta(hours=hours)}
        for i, (who, value, hours) in enumerate(values)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=dict(REACTIONS))


@pytest.mark.parametrize(
    ("events", "label"),
    [
        ([], 0),
        ([("u", 1, 1)], 1),
        ([("u", 1, 1), ("u", 0, 2)], 0),
        ([("u", 0, 2), ("u", 1, 1)], 0),  # in the file first, in time last
        ([("u", 1, 1), ("u", 0, 1)], None),  # same time: nothing tells which was the last
        ([("u", 0, 1), ("u", 1, 1)], None),
        ([("u", 1, 1), ("u", 0, 2), ("u", 1, 3)], 1),
        ([("u", 0, 2), ("other", 1, 1)], 1),  # one user's revoking is not another's
        ([("u", 1, 30)], 0),  # after the window
    ],
)
def test_last_write_wins(events: list[tuple[str, int, float]], label: int | None) -> None:
    result = validated(_one_reply(), _events(*events))
    assert result.replies["label_love"].to_list() == [label]
    assert result.replies["label_thumbs_down"].to_list() == [0]


def test_pending_until_the_window_has_closed() -> None:
    just_open = validated(_one_reply(), _events(("u", 1, 1)), as_of=START + timedelta(hours=23, minutes=59))
    assert just_open.replies.select("status", "label_love").row(0) == ("pending", None)
    assert (just_open.accounting.mature, just_open.accounting.pending) == (0, 1)
    closed = validated(_one_reply(), _events(("u", 1, 1)), as_of=START + timedelta(hours=24))
    assert closed.replies.select("status", "label_love").row(0) == ("mature", 1)


@pytest.mark.parametrize(
    ("shown", "exposure", "label"),
    [(True, "logged", 0), (False, "logged", None), (None, "logged", None), (None, "all_shown", 0)],
)
def test_silence_is_a_no_only_where_reactions_were_offered(
    shown: bool | None, exposure: str, label: int | None
) -> None:
    result = validated(_one_reply(reactions_shown=shown), _events(), exposure=exposure)
    assert result.replies.select("status", "label_love").row(0) == ("mature", label)


def test_days_are_stitched_at_midnight() -> None:
    messages, reactions = clean_logs(days=2, seed=5)
    shared = {"conversation_id": "night", "user_id": "owl"}
    late, early = START + timedelta(hours=23, minutes=59), START + timedelta(days=1, minutes=1)
    night = [
        {"message_id": "n0", "turn_index": 0, "role": "user", "content": "awake?", "created_at": late},
        {"message_id": "n1", "turn_index": 0, "role": "assistant", "content": "yes", "created_at": early,
         "reactions_shown": True},
    ]  # fmt: skip
    messages = _append(messages, *(shared | row for row in night))
    love = {"reaction_id": "l", "message_id": "n1", "user_id": "owl", "signal": "love", "value": 1}
    reactions = _append(reactions, love | {"reacted_at": START + timedelta(days=2, minutes=1)})
    second = START.date() + timedelta(days=1)
    config = ContractConfig(signals=SIGNALS, day=second, as_of=START + timedelta(days=3))
    day = {"messages": day_of(messages, "created_at", second), "reactions": day_of(reactions, "reacted_at", second)}
    alone = validate(**day, config=config)
    assert alone.accounting.greetings == 1  # a day's first words, with nothing before them, answer nobody
    assert "n1" not in alone.replies["message_id"].to_list()
    stitched = validate(
        **day, config=config,
        previous_messages=day_of(messages, "created_at", START.date()),
        next_reactions=day_of(reactions, "reacted_at", second + timedelta(days=1)),
    )  # fmt: skip
    assert stitched.quarantine.is_empty()
    assert stitched.replies.filter(pl.col("message_id") == "n1")["label_love"].item() == 1
    assert set(stitched.messages["created_at"].dt.date()) == {second}


def test_message_of_the_day_before_delivered_again_is_a_duplicate() -> None:
    messages, reactions = clean_logs(days=2, seed=6)
    first = messages.filter(pl.col("created_at").dt.date() == START.date())
    second = START.date() + timedelta(days=1)
    today = messages.filter(pl.col("created_at").dt.date() == second)
    again = first.head(2).with_columns(pl.col("created_at") + pl.duration(days=1))
    config = ContractConfig(signals=SIGNALS, day=second)
    found = validate(
        pl.concat([today, again]).lazy(),
        day_of(reactions, "reacted_at", second),
        config,
        previous_messages=first.lazy(),
    )
    assert _defects(found, "messages") == {"duplicate_id": 2}


def test_empty_day_is_a_day() -> None:
    messages, reactions = clean_logs()
    result = validated(messages.clear(), reactions.clear(), **WITH_DAY)
    assert result.accounting == Accounting(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert "label_love" in result.replies.columns


def test_source_without_times_is_never_pending() -> None:
    messages, reactions = clean_logs(seed=7)
    messages = messages.with_columns(created_at=pl.lit(None, pl.Datetime("us", "UTC")))
    reactions = reactions.with_columns(reacted_at=pl.lit(None, pl.Datetime("us", "UTC")))
    result = validated(messages, reactions, time="none", as_of=datetime(2020, 1, 1, tzinfo=UTC))
    assert result.quarantine.is_empty()
    assert result.accounting.pending == 0
    assert int(result.replies["label_love"].sum()) == reactions.filter(pl.col("signal") == "love").height


def test_sums_that_do_not_hold_are_an_error() -> None:
    with pytest.raises(DataError, match=r"day 7: messages do not add up: 10 in, 9 accounted for"):
        Accounting(10, 8, 1, 0, 0, 0, 0, 0, 4, 0, 4, 0).check("day 7")


_VALUES = st.sampled_from(
    [
        ("message_id", None), ("message_id", "same"), ("conversation_id", ""), ("role", "assistant"), ("role", "user"),
        ("role", "x"), ("content", ""), ("content", None), ("turn_index", -1), ("turn_index", 3), ("user_id", "other"),
        ("created_at", START), ("created_at", None), ("created_at", START + timedelta(days=9)), ("reactions_shown", False),
    ]
)  # fmt: skip
_EVENT_VALUES = st.sampled_from(
    [
        ("reaction_id", "same"), ("message_id", "nowhere"), ("signal", "x"), ("value", 0), ("value", 5), ("user_id", ""),
        ("reacted_at", START), ("reacted_at", None), ("reacted_at", START + timedelta(days=1)),
    ]
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), _VALUES), max_size=25),
    st.lists(st.tuples(st.integers(0, 10**6), _EVENT_VALUES), max_size=12),
    st.integers(0, 60),
)
def test_accounting_holds_whatever_is_broken(
    spoils: list[tuple[int, tuple[str, Any]]], event_spoils: list[tuple[int, tuple[str, Any]]], as_of_h: int
) -> None:
    messages, reactions = clean_logs(users_per_day=6, seed=8, love_rate=0.4)
    rows, events = messages.to_dicts(), reactions.to_dicts()
    for where, (column, value) in spoils:
        rows[where % len(rows)][column] = value
    for where, (column, value) in event_spoils:
        events[where % len(events)][column] = value
    dirty, dirty_events = pl.DataFrame(rows, schema=dict(MESSAGES)), pl.DataFrame(events, schema=dict(REACTIONS))
    result = validated(dirty, dirty_events, as_of=START + timedelta(hours=as_of_h))
    counts = result.accounting
    assert counts.messages_in == dirty.height == result.messages.height + counts.messages_quarantined
    assert counts.reactions_in == dirty_events.height == result.reactions.height + counts.reactions_quarantined
    assert counts.replies == result.replies.height == counts.mature + counts.pending
    assert result.replies.select("conversation_id", "message_id").is_unique().all()  # an id is its conversation's
    # Accepted messages are sound: times follow turns, every reply has a user message before it, all have one user.
    ordered = result.messages.sort("conversation_id", "turn_index", "created_at", maintain_order=True)
    assert ordered.select(
        (pl.col("created_at").diff().over("conversation_id") >= pl.duration()).fill_null(True).all()
    ).item()
    # (Where nobody asked there are greetings alone: they are no replies, whoever's id they stand under.)
    asked = pl.col("conversation_id").is_in(
        result.messages.filter(pl.col("role") == "user")["conversation_id"].implode()
    )
    said = result.messages.filter(pl.col("user_id").is_not_null(), asked)
    assert said.group_by("conversation_id").agg(pl.col("user_id").n_unique())["user_id"].max() in (1, None)
    first = result.messages.filter(pl.col("role") == "user").group_by("conversation_id").agg(
        asked=pl.col("created_at").min()
    )  # fmt: skip
    assert result.replies.join(first, on="conversation_id").filter(pl.col("asked") <= pl.col("created_at")).height == (
        result.replies.height
    )


def test_scripted_bursts_are_set_aside_by_name_and_leave_their_replies_unlabelled() -> None:
    """25 reactions in two seconds are one burst; 19, or 25 spread over minutes, are none."""
    messages, reactions = clean_logs(users_per_day=60, seed=9, max_turns=4, love_rate=0.02)
    replies = messages.filter(pl.col("role") == "assistant").sort("created_at")
    users = replies["user_id"].unique(maintain_order=True)
    script, quick, slow = users[0], users[1], users[2]
    rows = []
    last = replies["created_at"].max() + timedelta(seconds=30)
    for user, n, gap in ((script, 25, 0.08), (quick, 19, 0.08), (slow, 25, 20.0)):
        own = replies.filter(pl.col("user_id") == user)["message_id"].to_list()
        for nth in range(n):
            at = last + timedelta(seconds=gap * nth)
            rows.append({"reaction_id": f"{user}-{nth}", "message_id": own[nth % len(own)], "user_id": user,
                         "signal": "love", "value": 1, "reacted_at": at, "source": None})  # fmt: skip
    log = validated(messages, _append(reactions, *rows), day=DAY, as_of=AS_OF + timedelta(days=9))
    assert _defects(log, "reactions") == {"scripted_burst": 25}
    set_aside = {json.loads(row)["user_id"] for row in log.quarantine["row"]}
    assert set_aside == {script}
    theirs = log.replies.filter(pl.col("user_id") == script)
    assert theirs["label_love"].null_count() == theirs.height > 0
    assert log.replies.filter(pl.col("user_id").is_in([quick, slow]))["label_love"].min() == 1
    assert log.messages.filter(pl.col("user_id") == script).height > 0  # their messages stay as context
