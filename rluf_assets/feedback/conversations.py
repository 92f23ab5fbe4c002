"""Conversations as their users saw them: who owns them, what stands before what, and which rows cannot stand in them.

What comes before a message is its parent where the source names one, else the message before it in the order of turns;
messages of tools are passed over. A reply has a user's message before it. What an assistant says before any user message is
a greeting: context, no reply. Consecutive replies of one turn are the parts of one reply.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.screens import ROLES

USER, ASSISTANT = ROLES["user"], ROLES["assistant"]
TOOL = "tool"
_FIRST_TURN = 1  # some count from 0, some from 1
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]


def in_order(conversation: str) -> list[pl.Expr]:
    """What messages are sorted by: conversation, turn, time, system before user before tool before assistant, id (c/9
    before c/10).
    """
    return [
        pl.col(conversation), pl.col("turn_index"), pl.col("created_at"),
        pl.when(pl.col("role") == TOOL).then(2 * ROLES["assistant"] - 1).otherwise(2 * rank()),
        pl.col("message_id").str.len_bytes(), pl.col("message_id"),
    ]  # fmt: skip


def rank() -> pl.Expr:
    """Expression: the role's place within a turn."""
    return pl.col("role").replace_strict(ROLES, default=3, return_dtype=pl.Int8)


def judge_conversations(rows: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
    """`position`, `defect`, `user_id` (the conversation's), `parent_id`, `greeting` and `continued` of each row.

    `rows` are whole conversations with `position` and `defect`; `old` marks those of a day before. A user's message after
    one that was set aside gets a `parent_id` that is nowhere: its context starts with it (`_after_what_is_lost`).
    """
    content = pl.struct("turn_index", "role", "content", "created_at").hash()
    narrow = rows.select(
        "position", "old", "conversation_id", "message_id", "parent_id", "turn_index", "role", "user_id", "created_at",
        "defect", rank=rank(), same=content,
    )  # fmt: skip
    if narrow["turn_index"].null_count():  # such a row is set aside, but it still stands somewhere
        timed = narrow.sort("conversation_id", "created_at", "turn_index", nulls_last=True)
        turn = pl.col("turn_index").forward_fill().over("conversation_id")
        narrow = timed.with_columns(pl.coalesce("turn_index", turn)).sort("position")
    # So does one without a time: a question first in its turn, a reply last.
    of_turn = pl.col("created_at").min(), pl.col("created_at").max()
    first, last = (one.over("conversation_id", "turn_index") for one in of_turn)
    placed = pl.coalesce("created_at", pl.when(pl.col("role") == "assistant").then(last).otherwise(first))
    ordered = (
        narrow.with_columns(logged="created_at", created_at=placed)
        .sort(*in_order("conversation_id"), "position", nulls_last=True)
        .with_columns(created_at="logged", number=pl.col("conversation_id").rle_id())
        .drop("logged")
    )
    sound = pl.col("defect").is_null()
    ordered = ordered.with_columns(
        owner=pl.col("user_id").filter(sound & (pl.col("role") == "user")).first().over("number")
    )
    if config.time == "logged":  # without times, equal texts of one user may be two honest visits
        ordered = name_where(ordered, _cloned(ordered), "duplicate_conversation")
    ordered = name_where(
        ordered, (pl.col("role") == "user") & (pl.col("user_id") != pl.col("owner")), "other_user"
    ).with_columns(user_id=pl.when(pl.col("role") == "user").then("user_id").otherwise(pl.coalesce("owner", "user_id")))
    ordered = with_parents(ordered)
    named = ordered["parent"].fill_null(-1).to_numpy().astype(np.int64)
    on_cycle, _ = cycles_and_users(named, named < 0)
    ordered = name_where(ordered, pl.lit(pl.Series(on_cycle)), "parent_cycle")
    if config.time == "logged":
        ordered = _judge_times(ordered)
    judged = _after_what_is_lost(_judge_replies(ordered))
    return judged.select("position", "defect", "user_id", "parent_id", "greeting", "continued")


def name_where(rows: pl.DataFrame, condition: pl.Expr, name: str) -> pl.DataFrame:
    """Name the still sound rows for which `condition` holds."""
    named = pl.when(pl.col("defect").is_null() & condition).then(pl.lit(name)).otherwise("defect")
    return rows.with_columns(defect=named)


def _cloned(ordered: pl.DataFrame) -> pl.Expr:
    """Whether a row's conversation repeats another one of its user: same texts, same times."""
    conversations = (
        ordered.filter(pl.col("defect").is_null(), pl.col("owner").is_not_null())
        .group_by("conversation_id")
        .agg(pl.col("owner").first(), pl.col("same").sum(), pl.len(), old=pl.col("old").any())
        .filter(pl.col("len") > 1)
        .sort("old", "conversation_id", descending=[True, False])
    )
    again = conversations.filter(~pl.struct("owner", "same", "len").is_first_distinct())["conversation_id"]
    return pl.col("conversation_id").is_in(again.implode())


def with_parents(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in order with `place`, `tree` (whether their conversation names parents) and `parent`.

    `parent` is the place of the message that `parent_id` names, -1 where it is not there, null where none is named.
    `rows` have `number`, of their conversation.
    """
    rows = rows.with_row_index("place").with_columns(pl.col("place").cast(pl.Int64))
    if rows["parent_id"].null_count() == rows.height:
        return rows.with_columns(tree=pl.lit(False), parent=pl.lit(None, pl.Int64))
    rows = rows.with_columns(tree=pl.col("parent_id").is_not_null().any().over("number"))
    again = pl.col("defect").eq_missing("duplicate_id") if "defect" in rows.columns else pl.lit(False)
    known = (
        rows.filter("tree", ~again)
        .select("number", parent_id="message_id", parent="place")
        .unique(["number", "parent_id"], keep="first", maintain_order=True)
    )
    joined = rows.join(known, on=["number", "parent_id"], how="left", maintain_order="left")
    return joined.with_columns(pl.when(pl.col("parent_id").is_not_null()).then(pl.col("parent").fill_null(-1)))


def past_tools(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, with a parent that is a tool's message replaced by what that followed: nobody reads tools' messages."""
    tools = rows.filter(pl.col("role") == TOOL, pl.col("message_id").is_not_null())
    if tools["parent_id"].null_count() == tools.height:
        return rows
    above = {(one[0], one[1]): one[2] for one in tools.select("conversation_id", "message_id", "parent_id").iter_rows()}

    def past(where: str | None, name: str | None) -> str | None:
        seen = set()
        while (where, name) in above and name not in seen:
            seen.add(name)
            name = above[where, name]
        return name

    on_tools = rows["parent_id"].hash().is_in(tools["message_id"].hash().implode()) & rows["role"].ne_missing(TOOL)
    on_tools = (on_tools & rows["parent_id"].is_not_null()).arg_true()
    found = [past(*one) for one in rows[on_tools].select("conversation_id", "parent_id").iter_rows()]
    return rows.with_columns(parent_id=rows["parent_id"].scatter(on_tools, pl.Series(found, dtype=pl.String)))


def places_before(rows: pl.DataFrame) -> Places:
    """[rows] the place of what stands before each row: its parent, or the row before it in the order of turns; else -1.

    Rows of `with_parents`, with `rank`. A reply that was set aside is passed over: another was given in its place, or it
    is the turn's only one. A system message stands outside the turns.
    """
    role = rows["rank"].to_numpy()
    counts = (role != ROLES["system"]) & rows["turn_index"].is_not_null().to_numpy()
    if "defect" in rows.columns:
        counts &= ~((role == ASSISTANT) & rows["defect"].is_not_null().to_numpy())
        counts &= ~rows["defect"].is_in(["duplicate_id", "tool_message"]).fill_null(False).to_numpy()
    number = rows["number"].to_numpy()
    last = np.maximum.accumulate(np.where(counts, np.arange(len(rows)), -1)) if len(rows) else np.zeros(0, np.int64)
    before = np.concatenate([[-1], last[:-1]]).astype(np.int64)[: len(rows)]
    before[(before >= 0) & (number[before] != number)] = -1
    if rows["tree"].any():
        # In a tree, what the source gives no parent is a root if it stands where trees begin.
        begins = pl.col("turn_index") <= pl.col("turn_index").min().over("number")
        tree = (pl.col("parent") >= 0).any().over("number")
        root = rows.select(tree & begins.fill_null(False) & (pl.col("rank") != ASSISTANT)).to_series()
        before[root.to_numpy()] = -1
        before = rows.select(pl.coalesce("parent", pl.lit(pl.Series(before)))).to_series().to_numpy(writable=True)
    return before


def _judge_times(rows: pl.DataFrame) -> pl.DataFrame:
    """Name rows whose time runs against their place: before the conversation's start, or before what stands before."""
    # A defective row has no say in what came before.
    clock = pl.when(pl.col("defect").is_null()).then("created_at")
    clocked = rows.with_columns(
        before=clock.cum_max().shift(1).forward_fill().over("number"),
        start=clock.drop_nulls().first().over("number"),
    )
    # With parents the path counts, not the place: an earlier question that was edited has later replies beside it.
    parents = clocked.select(pl.when(pl.col("parent") >= 0).then("parent")).to_series()
    of_parent = clocked.select(clock.alias("clock")).to_series().gather(parents)
    clocked = clocked.with_columns(pl.when("tree").then(of_parent).otherwise("before").alias("before"))
    early = pl.col("created_at") < pl.col("before")
    clocked = name_where(
        clocked, early & ~pl.col("tree") & (pl.col("created_at") < pl.col("start")), "before_conversation"
    )
    return name_where(clocked, early, "turn_order").drop("before", "start")


def _judge_replies(rows: pl.DataFrame) -> pl.DataFrame:
    """Name what has lost its place, and tell greetings and the earlier parts of a reply (`continued`)."""
    role, turn = rows["rank"].to_numpy(), rows["turn_index"].fill_null(0).to_numpy().astype(np.int64)
    up = places_before(rows)
    on_cycle, user_above = cycles_and_users(up, (role != ASSISTANT) & (role != ROLES["system"]))
    rows = name_where(rows, pl.lit(pl.Series(on_cycle)), "parent_cycle")
    bad = rows["defect"].is_not_null().to_numpy()
    named = rows["parent_id"].is_not_null().to_numpy()
    reply = (role == ASSISTANT) & ~bad
    has = up >= 0
    part = has & reply & (role[up] == ASSISTANT)
    # In the order of turns a part stands in the turn of the part before it, or next to it where each row has an own turn.
    step = np.where(rows.select(_one_turn_per_row()).to_series().to_numpy(), 1, 0)
    joined = named | (turn - turn[up] <= step) | ~user_above
    # All that the user said since the last reply is the question; a blank message says nothing.
    asked = role == USER
    unread = asked & bad & ~rows["defect"].eq_missing("empty_text").to_numpy()
    while (more := asked & ~unread & has & unread[up]).any():
        unread |= more
    lost = reply & ((named & ~has) | (has & (bad[up] | unread[up])) | (part & ~joined))
    # Where the log begins in the midst of a conversation, what comes first is no greeting.
    lost |= reply & ~named & ~user_above & (turn > _FIRST_TURN)
    while (more := reply & ~lost & has & lost[up]).any():
        lost |= more
    greeting = reply & ~lost & ~user_above
    # A part that was set aside still follows the one before it.
    copy = rows["defect"].eq_missing("duplicate_id").to_numpy()
    follows = has & (role >= ASSISTANT) & ~copy & (role[up] == ASSISTANT) & (named | (turn - turn[up] <= step))
    continued = np.zeros(len(rows), dtype=bool)
    continued[up[follows]] = True
    asked_later = (pl.col("created_at").filter((pl.col("role") == "user") & pl.col("defect").is_null()).max()).over(
        "number", "turn_index"
    ) > pl.col("created_at")
    missing = pl.lit(pl.Series(lost))
    rows = name_where(rows, missing & pl.col("parent_id").is_not_null(), "missing_parent")
    rows = name_where(rows, missing & asked_later.fill_null(False), "turn_order")
    rows = name_where(rows, missing, "reply_without_user_message")
    return rows.with_columns(greeting=pl.Series(greeting), continued=pl.Series(continued & reply & ~lost))


def _after_what_is_lost(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows; where only their order tells, a user's message right after one set aside gets a parent that is nowhere.
    What was said there is not known, so no context may run across it. A blank message told nobody anything.
    """
    role, bad = rows["rank"].to_numpy(), rows["defect"].is_not_null().to_numpy()
    unseen = rows["defect"].is_in(["duplicate_id", "tool_message", "empty_text"]).fill_null(False).to_numpy()
    counts = (role != ROLES["system"]) & ~unseen & rows["turn_index"].is_not_null().to_numpy()
    last = np.maximum.accumulate(np.where(counts, np.arange(len(rows)), -1)) if len(rows) else np.zeros(0, np.int64)
    before = np.concatenate([[-1], last[:-1]]).astype(np.int64)[: len(rows)]
    number, lost = rows["number"].to_numpy(), counts & bad
    inside = (before >= 0) & (number[before] == number)
    while (more := inside & ~lost & (role == ASSISTANT) & lost[before]).any():  # a later part of the same reply
        lost |= more
    cut = (role == USER) & ~bad & inside & lost[before]
    nowhere = pl.format("{} (set aside)", pl.col("message_id").gather(pl.lit(pl.Series(np.maximum(before, 0)))))
    return rows.with_columns(
        parent_id=pl.when(pl.lit(pl.Series(cut)) & ~pl.col("tree")).then(nowhere).otherwise("parent_id")
    )


def cycles_and_users(up: Places, user: Flags) -> tuple[Flags, Flags]:
    """[rows] whether a row is on a cycle of parents; whether a user's message stands above it."""
    jump = np.append(up, -1)  # the last place stands for nothing, and -1 leads to it
    found = np.append(np.where(up >= 0, user[up], False), False)
    for _ in range(len(up).bit_length()):
        found, jump = found | found[jump], jump[jump]
    on_cycle = np.zeros(len(up) + 1, dtype=bool)
    on_cycle[jump[jump >= 0]] = True
    return on_cycle[:-1], found[:-1]


def _one_turn_per_row() -> pl.Expr:
    """Whether a row's conversation counts every message as a turn: no turn has both a question and a reply."""
    both = (pl.col("role") == "user").any() & (pl.col("role") == "assistant").any()
    shared = both.over("number", "turn_index")
    return ~shared.any().over("number").fill_null(False)
