"""Reactions: which reply each is about, which record of an id is in force, what is wrong with it, and what is in doubt.

A reaction that is set aside for its own defect may have been a yes or have taken one back: the label of the reply that it
names is then unknown, and no other label changes. What is the same record sent again, or an earlier state of it, is in no
doubt.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.defects import blank, first_that_applies, time_checks

_RECORD = ["reaction_id", "conversation_id", "message_id"]
_STATE = ["user_id", "signal", "value", "reacted_at", "updated_at"]
# Set aside under these names a reaction leaves its reply's label in doubt.
DOUBTFUL = (
    "missing_id", "missing_signal", "unknown_signal", "bad_value", "missing_time", "future_time", "other_day",
    "conflicting_id", "ambiguous_message", "other_conversation", "before_reply", "scripted_burst",
)  # fmt: skip
# Its message is not there, or no reply: which one was meant is told by what else the reaction names.
_ASTRAY = ("unknown_message", "on_tool_message")
DOUBTS = {"conversation_id": pl.String(), "message_id": pl.String(), "signal": pl.String()}


def judge_reactions(reactions: pl.DataFrame, targets: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
    """The reactions with `defect` (null: accepted), `at` (when it counts) and the `reply_conversation` it is about.

    `reactions` have `of_day` (of the day itself, not of a later one). `targets`: one row per message that they can be about,
    see `contract._targets`. `user_id` is the conversation's user where the source names none.
    """
    rows = reactions.with_columns(defect=_row_defect(config))
    rows = _states(rows)
    rows = _located(rows, targets)
    undated = pl.col("reacted_at").is_null()
    at = pl.when(undated).then("target_created_at").otherwise("reacted_at")
    rows = rows.with_columns(
        at=at if config.undated_reactions == "at_message" else "reacted_at",
        user_id=pl.coalesce("user_id", "target_user_id"),
    )
    rows = rows.with_columns(_bursts(rows, config))
    window = pl.duration(microseconds=config.attribution_window // timedelta(microseconds=1))
    unplaced = pl.col("reply_conversation").is_null() & pl.col("places").is_not_null()
    checks = {
        "other_conversation": unplaced & pl.col("conversation_id").is_not_null(),
        "ambiguous_message": unplaced,
        "message_of_another_day": pl.col("target_role").is_null() & undated
        if config.undated_reactions == "at_message" and config.day is not None
        else pl.lit(False),
        "unknown_message": pl.col("target_role").is_null(),
        "on_tool_message": pl.col("target_defect") == "tool_message",
        "quarantined_message": pl.col("target_defect").is_not_null(),
        "not_a_reply": pl.col("target_role") != "assistant",
        "on_greeting": pl.col("target_greeting"),
        "before_reply": pl.col("at") < pl.col("target_created_at"),
        "not_offered": ~pl.col("target_shown") if config.exposure == "logged" else pl.lit(False),
        "after_window": pl.col("at") > pl.col("target_created_at") + window,
        "scripted_burst": pl.col("burst"),
    }
    named = rows.with_columns(defect=pl.coalesce("defect", first_that_applies(checks)))
    return named.drop("target_role", "target_created_at", "target_shown", "target_defect", "target_user_id",
                      "target_greeting", "places", "burst")  # fmt: skip


def doubts(
    judged: pl.DataFrame, targets: pl.DataFrame, replies: pl.DataFrame, later: pl.Series | None, config: ContractConfig
) -> pl.DataFrame:
    """Labels that are unknown: a row per conversation, message and signal (null: all of that reply's).

    What names its message under an id that stands in several conversations leaves all of them in doubt; what names no
    message that is there, the replies that other records of its reaction id name, else the `replies` of its trace or
    conversation. `later`: ids of messages of the days after, None where those are not known.
    """
    signals = {_folded_text(one): one for one in config.signals}
    meant = _folded(pl.col("signal")).replace_strict(signals, default=None, return_dtype=pl.String)
    known = pl.col("signal").is_in(config.signals)
    # Without its own id a record may be the last state of any other, which then does not count.
    of_any = (pl.col("defect") == "scripted_burst") | blank("reaction_id")
    bad = (
        judged.filter(pl.col("defect").is_in([*DOUBTFUL, *_ASTRAY]))
        .with_columns(about=pl.when(known).then("signal").otherwise(meant))
        # Another signal than ours says nothing of ours; one that is missing could have been any.
        .filter(pl.col("about").is_not_null() | blank("signal") | blank("reaction_id"))
        .with_columns(signal=pl.when(~of_any).then("about"))
        .drop("about")
    )
    everywhere = targets.select("conversation_id", "message_id")
    named = bad.filter(pl.col("reply_conversation").is_not_null(), ~pl.col("defect").is_in(_ASTRAY))
    unnamed = bad.filter(pl.col("reply_conversation").is_null())
    lost = unnamed.filter(pl.col("reaction_id").is_not_null()).select("reaction_id", "signal")
    found = judged.filter(pl.col("reply_conversation").is_not_null())
    of_turn = bad.filter(pl.col("defect") == "on_tool_message").drop("conversation_id", "message_id")
    nowhere = unnamed.join(everywhere.select("message_id").unique(), on="message_id", how="anti").join(
        found.select("reaction_id").unique(), on="reaction_id", how="anti"
    )
    parts = [
        named.select(conversation_id="reply_conversation", message_id="message_id", signal="signal"),
        unnamed.drop("conversation_id").join(everywhere, on="message_id").select(*DOUBTS),
        lost.join(found.drop("signal"), on="reaction_id").select(
            conversation_id="reply_conversation", message_id="message_id", signal="signal"
        ),
        # An earlier state of the record may count now that its last one is astray.
        lost.select("reaction_id")
        .join(found, on="reaction_id")
        .select(conversation_id="reply_conversation", message_id="message_id", signal="signal"),
        of_turn.join(
            replies, left_on=["reply_conversation", "target_turn"], right_on=["conversation_id", "turn_index"]
        ).select(conversation_id="reply_conversation", message_id="message_id", signal="signal"),
        _around(nowhere, replies, later, config),
    ]
    return pl.concat([part.cast(DOUBTS) for part in parts]).unique()  # type: ignore[arg-type]


def _around(
    nowhere: pl.DataFrame, replies: pl.DataFrame, later: pl.Series | None, config: ContractConfig
) -> pl.DataFrame:
    """The replies that reactions whose message is not there may be about: of their trace, else of their conversation.

    A reply is not reacted to before it is there, nor counted after its window. A message of the days after is there.
    """
    if nowhere.is_empty():
        return pl.DataFrame(schema=DOUBTS)
    ahead = ~pl.col("of_day") if later is None else pl.col("message_id").is_in(later.implode()).fill_null(False)
    lost = nowhere.filter(~ahead).drop("message_id")
    traced = pl.col("trace_id").is_in(replies["trace_id"].drop_nulls().unique().implode()).fill_null(False)
    # Without a time it may be about a message of any other day of its conversation.
    undated = pl.col("reacted_at").is_null() if config.day is not None else pl.lit(False)
    of_trace = lost.filter(traced).drop("conversation_id").join(replies, on="trace_id")
    of_conversation = lost.filter(~traced, ~undated).drop("trace_id").join(replies, on="conversation_id")
    window = pl.duration(microseconds=config.attribution_window // timedelta(microseconds=1))
    at, said = pl.col("reacted_at"), pl.col("created_at")
    return pl.concat([of_trace.select(*DOUBTS, at.alias("reacted_at"), "created_at"),
                      of_conversation.select(*DOUBTS, "reacted_at", "created_at")]).filter(
        at.is_between(said, said + window).fill_null(True)
    ).select(*DOUBTS)  # fmt: skip


def _row_defect(config: ContractConfig) -> pl.Expr:
    checks = {
        "missing_id": blank("reaction_id", "message_id") | (pl.col("user_id").str.strip_chars() == "").fill_null(False),
        "missing_signal": blank("signal"),
        "unknown_signal": ~pl.col("signal").is_in(config.signals).fill_null(False),
        "bad_value": ~pl.col("value").is_in([0, 1]).fill_null(False),
        **time_checks("reacted_at", config.model_copy(update={"day": None})),
    }
    if config.undated_reactions == "at_message":
        checks.pop("missing_time", None)
    if config.day is not None:  # a record that is changed later comes again with the day of its change
        days = [pl.col(name).dt.date() == config.day for name in ("reacted_at", "updated_at")]
        dated = pl.col("reacted_at").is_not_null()
        checks["other_day"] = pl.col("of_day") & dated & ~pl.any_horizontal(day.fill_null(False) for day in days)
    return first_that_applies(checks)


def _states(rows: pl.DataFrame) -> pl.DataFrame:
    """`defect` with rows of one record named: sent again, an earlier state, or several states that nothing orders."""
    again = pl.struct(*_RECORD).is_duplicated() & pl.col("reaction_id").is_not_null()
    if not rows.select(again.any()).item():
        return rows
    numbered = rows.with_row_index("nth")
    close = numbered.filter(again)
    # Rows of the day itself first: what a later day sends again is the copy.
    close = close.sort(pl.col("of_day").not_(), "nth")
    first = pl.struct(*_RECORD, *_STATE).is_first_distinct()
    distinct = close.filter(first)
    when = pl.coalesce("updated_at", "reacted_at")
    updated = pl.col("updated_at").is_not_null()
    newest = when == when.max()
    orderable = pl.col("defect").is_null().all() & when.is_not_null().all() & (updated.all() | ~updated.any())
    state = (
        pl.when(pl.len() == 1).then(pl.lit("alone"))
        .when(orderable & (newest.sum() == 1)).then(pl.when(newest).then(pl.lit("alone")).otherwise(pl.lit("superseded")))
        .otherwise(pl.lit("conflicting_id"))
    )  # fmt: skip
    named = distinct.with_columns(state=state.over(_RECORD)).select(*_RECORD, *_STATE, "state")
    close = close.with_columns(first=first).join(named, on=[*_RECORD, *_STATE], how="left", nulls_equal=True)
    name = pl.when(~pl.col("first")).then(pl.lit("duplicate_id")).when(pl.col("state") != "alone").then("state")
    found = close.select("nth", defect=pl.coalesce("defect", name))
    return rows.with_columns(defect=rows["defect"].scatter(found["nth"], found["defect"]))


def _located(rows: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """The rows with `reply_conversation`, in how many `places` their message id stands, and `target_*` of their message."""
    by_id = targets.group_by("message_id").agg(places=pl.len(), only=pl.col("conversation_id").first())
    exact = targets.select("conversation_id", "message_id", there=True)
    rows = rows.join(by_id, on="message_id", how="left", maintain_order="left")
    rows = rows.join(exact, on=["conversation_id", "message_id"], how="left", maintain_order="left")
    named, alone = pl.col("conversation_id").is_not_null(), pl.col("places") == 1
    where = pl.when(named & pl.col("there")).then("conversation_id").when(~named & alone).then("only")
    rows = rows.with_columns(reply_conversation=where).drop("only", "there")
    facts = targets.rename({"conversation_id": "reply_conversation"})
    return rows.join(facts, on=["reply_conversation", "message_id"], how="left", maintain_order="left")


def _bursts(rows: pl.DataFrame, config: ContractConfig) -> pl.Series:
    """`burst`: true for each of `burst.reactions` or more that a user gave within the time; a copy is not counted."""
    n, within = config.burst.reactions, pl.duration(microseconds=int(config.burst.within_s * 1e6))
    at = pl.col("reacted_at")
    opens = (at.shift(-(n - 1)) - at <= within).fill_null(False).cast(pl.Int8)
    counted = rows.with_row_index("nth").filter(
        pl.col("user_id").is_not_null(),
        at.is_not_null(),
        ~pl.col("defect").is_in(["duplicate_id", "superseded"]).fill_null(False),
    )
    flagged = counted.sort("user_id", "reacted_at").select(
        "nth", burst=opens.over("user_id").rolling_max(n, min_samples=1).over("user_id").cast(pl.Boolean)
    )
    return (
        pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
        .alias("burst")
        .scatter(flagged["nth"], flagged["burst"])
    )


def _folded(text: pl.Expr) -> pl.Expr:
    return text.str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}\p{So}]", "")


def _folded_text(text: str) -> str:
    return str(pl.select(_folded(pl.lit(text))).item())
