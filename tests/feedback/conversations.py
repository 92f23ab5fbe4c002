"""Seeded conversations with all that real ones have, to change in known ways and compare what is made of them.

Greetings, several messages in a row, replies in parts or given again, edited questions (trees of parents), bots with ids of
their own, reactions set, taken back, changed in place, sent twice, at the edges of their window, and of a script.
"""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import polars as pl

from rluf_assets.feedback.schemas import MESSAGES, REACTIONS
from tests.feedback.logs import SIGNALS, START

Row = dict[str, Any]
WINDOW_H = 24


def conversations(seed: int, count: int = 5, days: int = 2) -> tuple[list[Row], list[Row]]:
    """Messages and reactions without a defect, in the order in which they came."""
    rng = Random(seed)
    messages: list[Row] = []
    for nth in range(count):
        messages += _conversation(rng, f"c{nth}", f"u{nth % 3}", days)
    asked = {(row["conversation_id"], row["turn_index"]) for row in messages if row["role"] == "user"}
    replies = [row for row in messages if row["role"] == "assistant"
               and (row["parent_id"] is not None or (row["conversation_id"], row["turn_index"]) in asked)]  # fmt: skip
    replies = [row for row in replies if not row["message_id"].endswith("-hello")]
    reactions = [event for row in replies for event in _reactions(rng, row)]
    if rng.random() < 0.3:
        reactions += _script(replies[0])
    messages.sort(key=lambda row: row["created_at"])
    reactions.sort(key=lambda row: row["reacted_at"])
    return messages, reactions


def cloned(messages: list[Row], rng: Random) -> list[Row]:
    """One of the conversations as a copy under ids of its own."""
    name = rng.choice(sorted({row["conversation_id"] for row in messages}))
    return [row | {one: row[one] and f"z{row[one]}" for one in ("conversation_id", "message_id", "parent_id")}
            for row in messages if row["conversation_id"] == name]  # fmt: skip


def single_marks(messages: list[Row], reactions: list[Row]) -> tuple[list[Row], list[Row]]:
    """One mark at most per reply and signal, set or taken back, given with its reply: dated, and without a time."""
    at = {row["message_id"]: row["created_at"] for row in messages}
    named = {(row["message_id"], row["signal"]): row for row in reactions if row["user_id"] != "script"}
    dated = [row | {"reaction_id": f"mark-{n}", "reacted_at": at[row["message_id"]], "updated_at": None}
             for n, row in enumerate(named.values())]  # fmt: skip
    return dated, [row | {"reacted_at": None} for row in dated]


def frames(messages: list[Row], reactions: list[Row]) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.DataFrame(messages, schema=dict(MESSAGES)), pl.DataFrame(reactions, schema=dict(REACTIONS))


def _conversation(rng: Random, name: str, user: str, days: int) -> list[Row]:
    rows: list[Row] = []
    tree, bot = rng.random() < 0.5, rng.choice([user, "bot", None])
    clock = START + timedelta(minutes=rng.randrange(days * 24 * 60 - 120))
    if rng.random() < 0.3:  # across midnight
        clock = START + timedelta(hours=24, minutes=-rng.randrange(1, 10))

    def say(role: str, turn: int, parent: str | None, tag: str) -> str:
        nonlocal clock
        clock += timedelta(seconds=rng.randrange(5, 400))
        row = {"conversation_id": name, "message_id": f"{name}-{len(rows)}{tag}", "role": role, "turn_index": turn,
               "parent_id": parent if tree else None, "content": f"{role} {name} {len(rows)}", "created_at": clock,
               "user_id": user if role == "user" else bot, "reactions_shown": rng.random() < 0.9}  # fmt: skip
        rows.append(row)
        return str(row["message_id"])

    tip = None
    if rng.random() < 0.3:
        tip = say("system", 0, None, "")
    if rng.random() < 0.4:
        tip = say("assistant", rng.choice([-1, 0]), tip, "-hello")
    turn = 0
    for _ in range(rng.randrange(1, 5)):
        root = tip
        tip = say("user", turn, tip, "")
        if rng.random() < 0.3:  # two messages in a row
            turn += 0 if tree else rng.choice([0, 1])
            tip = say("user", turn, tip, "")
        first = say("assistant", turn, tip, "")
        if rng.random() < 0.3:  # given again where there are parents, else the second part
            again = say("assistant", turn, tip, "")
            first = rng.choice([first, again]) if tree else again
        if tree and rng.random() < 0.3:  # the question edited, and the conversation goes on from there
            first = say("assistant", turn, say("user", turn, root, ""), "")
        tip = first
        turn += 1
    return rows


def _reactions(rng: Random, reply: Row) -> list[Row]:
    """Events, or one record in its states, about a reply."""
    found: list[Row] = []
    for signal in SIGNALS:
        if rng.random() < 0.5:
            continue
        base = {"conversation_id": rng.choice([reply["conversation_id"], None]), "message_id": reply["message_id"],
                "user_id": rng.choice([reply["user_id"], None, "guest"]), "signal": signal, "source": "app"}  # fmt: skip
        values = rng.choice([[1], [1, 0], [1, 0, 1], [0], [0, 1]])
        start = rng.choice([1, 60, WINDOW_H * 3600 - 9])
        at = [reply["created_at"] + timedelta(seconds=start + 3 * nth) for nth in range(len(values))]
        name, kind = f"{reply['message_id']}+{signal}", rng.random()
        if kind < 0.4:
            found += [base | {"reaction_id": name, "value": value, "reacted_at": at[0], "updated_at": when}
                      for value, when in zip(values, at, strict=True)]  # fmt: skip
            if rng.random() < 0.3:  # a thumb that was turned: one record, another signal
                found.append(base | {"reaction_id": name, "value": 1, "reacted_at": at[0], "signal": rng.choice(SIGNALS),
                                     "updated_at": at[-1] + timedelta(seconds=5)})  # fmt: skip
        else:
            found += [base | {"reaction_id": f"{name}/{nth}", "value": value, "reacted_at": when}
                      for nth, (value, when) in enumerate(zip(values, at, strict=True))]  # fmt: skip
        if rng.random() < 0.2:
            found.append(dict(found[-1]))  # sent again
        if rng.random() < 0.2:
            late = reply["created_at"] + timedelta(hours=WINDOW_H, seconds=1)
            found.append(base | {"reaction_id": f"{name}/late", "value": rng.randrange(2), "reacted_at": late})
    return found


def _script(reply: Row) -> list[Row]:
    """More loves within seconds than a hand gives."""
    about = {"conversation_id": reply["conversation_id"], "message_id": reply["message_id"], "user_id": "script"}
    return [about | {"reaction_id": f"script-{nth}", "signal": "love", "value": 1, "source": "api",
                     "reacted_at": reply["created_at"] + timedelta(seconds=2, milliseconds=nth)}
            for nth in range(40)]  # fmt: skip
