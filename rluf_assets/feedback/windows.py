"""Context windows: the last whole turns before a reply, built late, for the selected rows only.

A turn is one user message with the reply that follows; a prompt is the last `ctx_turns` user messages with the replies
between them, ending with the user's message that the reply answers. Nothing later than the reply can get in.
"""

from __future__ import annotations

import polars as pl

from rluf_assets.feedback.schemas import PROMPT

_KEY = ["conversation_id", "turn_index"]


class ConversationPool:
    """The text of some conversations, laid out so that any of their prompts is a slice (see `_pool`).

    One streaming scan of `messages` (the accepted ones) reads the text of these conversations and of no other.
    """

    def __init__(self, conversation_ids: pl.Series, messages: pl.LazyFrame) -> None:
        wanted = conversation_ids.unique().to_frame("conversation_id").lazy()
        needed = (
            messages.select("conversation_id", "message_id", "turn_index", "role", "content", "created_at")
            .join(wanted, on="conversation_id", how="semi")
            .collect(engine="streaming")
            # Streaming scans come in any order; the ids keep the result the same on every run.
            .sort("conversation_id", "turn_index", "created_at", "message_id")
        )
        self._replies = needed.filter(pl.col("role") == "assistant").select("message_id", completion="content")
        self._pool, self._turns = _pool(needed, _turns(needed))

    def contexts(self, selected: pl.DataFrame, ctx_turns: int) -> pl.DataFrame:
        """`selected` with `prompt` (list of {role, content}), `completion` and `prompt_key` (equal for equal prompts).

        `selected` needs message_id, conversation_id, turn_index, created_at; rows come back in the order given.
        """
        if selected.is_empty():
            nothing = {"completion": pl.String(), "prompt": PROMPT, "prompt_key": pl.UInt64()}
            return selected.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in nothing.items())
        places = selected.select("created_at", *_KEY).join(self._turns, on=_KEY, how="left", maintain_order="left")
        texts = selected.join(self._replies, on="message_id", how="left", maintain_order="left")
        return texts.hstack(_gather(places, self._pool, ctx_turns))


def _turns(needed: pl.DataFrame) -> pl.DataFrame:
    """One row per turn that has a user message: its text, the turn's last reply if any, and when that was given."""
    asked = needed.filter(pl.col("role") == "user").group_by(_KEY, maintain_order=True)
    answered = needed.filter(pl.col("role") == "assistant").group_by(_KEY, maintain_order=True)
    return asked.agg(user=pl.col("content").last()).join(
        answered.agg(reply=pl.col("content").last(), replied_at=pl.col("created_at").last()),
        on=_KEY,
        how="left",
        maintain_order="left",
    )


def _pool(needed: pl.DataFrame, turns: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All messages a prompt can be made of, and per turn where in that pool its parts are.

    The pool holds the whole turns interleaved (user, reply, user, ...), then every turn's user message, then the
    system messages; so the history of a turn is the slice [2 low, 2 high) of the pool, and `own` ends the prompt.
    """
    whole = pl.col("reply").is_not_null()
    turns = turns.with_columns(high=whole.cum_sum().cast(pl.Int64) - whole.cast(pl.Int64))
    turns = turns.with_columns(low=pl.col("high").first().over("conversation_id"))
    past = turns.filter(whole)
    pairs = past.select(
        role=pl.concat_list(pl.lit("user"), pl.lit("assistant")),
        content=pl.concat_list("user", "reply"),
        time=pl.concat_list("replied_at", "replied_at"),
    ).explode("role", "content", "time")
    at = pl.lit(None, pl.Datetime("us", "UTC")).alias("time")
    own = turns.select(pl.lit("user").alias("role"), pl.col("user").alias("content"), at)
    heads = needed.filter(pl.col("role") == "system").unique("conversation_id", keep="first", maintain_order=True)
    system = heads.select("conversation_id", system=pl.int_range(pl.len()) + pairs.height + own.height)
    pool = pl.concat([pairs, own, heads.select("role", "content", at)])
    placed = turns.select(*_KEY, "low", "high", own=pl.int_range(pl.len()) + pairs.height)
    return pool, placed.join(system, on="conversation_id", how="left", maintain_order="left")


def _gather(places: pl.DataFrame, pool: pl.DataFrame, ctx_turns: int) -> pl.DataFrame:
    low = pl.max_horizontal("low", pl.col("high") - (ctx_turns - 1))
    indices = pl.concat_list(
        pl.concat_list("system").list.drop_nulls(), pl.int_ranges(2 * low, 2 * pl.col("high")), pl.concat_list("own")
    )
    flat = places.select("created_at", index=indices).with_row_index("row").explode("index")
    text = pool[flat["index"]]
    flat = flat.select("row", "created_at").hstack(text)
    flat = flat.filter((pl.col("time") <= pl.col("created_at")).fill_null(True))
    return (
        flat.group_by("row", maintain_order=True)
        .agg(prompt=pl.struct("role", "content"), prompt_key=pl.col("content").str.join("\x1e").hash())
        .drop("row")
    )
