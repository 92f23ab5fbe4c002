"""Context windows: the last whole turns before a reply, built late, for the selected rows only.

A turn is one user message with the reply that follows; a prompt is the last `ctx_turns` user messages with the replies
between them, ending with the user's message that the reply answers. Nothing later than the reply can get in.
"""

from __future__ import annotations

import polars as pl

from rluf_assets.feedback.schemas import PROMPT

_KEY = ["conversation", "turn_index"]


class ConversationPool:
    """The text of some conversations, each message once, and where in it the parts of any of their prompts are.

    One streaming scan of `messages` (the accepted ones) reads the text of these conversations and of no other.
    """

    def __init__(self, conversation_ids: pl.Series, messages: pl.LazyFrame) -> None:
        # From here on a conversation is a number: joins and sorts over text cost several times more.
        self._numbers = conversation_ids.unique().to_frame("conversation_id").with_row_index("conversation")
        needed = (
            messages.select("conversation_id", "message_id", "turn_index", "role", "content", "created_at")
            .join(self._numbers.lazy(), on="conversation_id")
            .drop("conversation_id")
            .collect(engine="streaming")
        )
        # Streaming scans come in any order; the ids keep the result the same on every run.
        needed = needed.sort("conversation", "turn_index", "created_at", "message_id").with_row_index("place")
        self._text = needed.select("role", "content")
        self._replies = needed.filter(pl.col("role") == "assistant").select("message_id", completion="place")
        self._pool, self._turns = _pool(needed.drop("content", "message_id"))

    def contexts(self, selected: pl.DataFrame, ctx_turns: int) -> pl.DataFrame:
        """`selected` with `prompt` (list of {role, content}) and `completion`; see `places` and `texts`."""
        return self.texts(selected, self.places(selected), ctx_turns)

    def places(self, selected: pl.DataFrame) -> pl.DataFrame:
        """Where the parts of the contexts of `selected` are, a row each: numbers only, found once for all of them.

        `selected` needs message_id, conversation_id, turn_index, created_at.
        """
        rows = selected.select("message_id", "conversation_id", "turn_index", "created_at")
        for known, on in ((self._numbers, ["conversation_id"]), (self._turns, _KEY), (self._replies, ["message_id"])):
            rows = rows.join(known, on=on, how="left", maintain_order="left")
        return rows.select("created_at", "low", "high", "own", "system", "completion")

    def texts(self, selected: pl.DataFrame, places: pl.DataFrame, ctx_turns: int) -> pl.DataFrame:
        """`selected` with `prompt` and `completion` from their `places`; rows come back in the order given."""
        if selected.is_empty():
            nothing = {"completion": pl.String(), "prompt": PROMPT}
            return selected.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in nothing.items())
        completion = self._text["content"].gather(places["completion"]).alias("completion")
        return selected.with_columns(completion, self._prompts(places, ctx_turns))

    def _prompts(self, rows: pl.DataFrame, ctx_turns: int) -> pl.Series:
        low = pl.max_horizontal("low", pl.col("high") - (ctx_turns - 1))
        indices = pl.concat_list(
            pl.concat_list("system").list.drop_nulls(),
            pl.int_ranges(2 * low, 2 * pl.col("high")),
            pl.concat_list("own"),
        )
        flat = rows.select("created_at", index=indices).with_row_index("row").explode("index")
        parts = self._pool[flat["index"]]
        early = flat.select((parts["time"] <= pl.col("created_at")).fill_null(True)).to_series()
        row, place = flat["row"], parts["place"]
        if not early.all():
            row, place = row.filter(early), place.filter(early)
        said = self._text[place].with_columns(row.set_sorted())
        return said.group_by("row", maintain_order=True).agg(prompt=pl.struct("role", "content"))["prompt"]


def prompt_keys(prompts: pl.Series) -> pl.Series:
    """A number per prompt, equal for equal texts."""
    texts = prompts.list.eval(pl.element().struct.field("content")).list.join("\x1e")
    return texts.hash().alias("prompt_key")


def _pool(needed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All messages a prompt can be made of, by their `place`, and per turn where in that pool its parts are.

    The pool holds the whole turns interleaved (user, reply, user, ...), then every turn's user message, then the
    system messages; so the history of a turn is the slice [2 low, 2 high) of the pool, and `own` ends the prompt.
    """
    asked = _last_of_turn(needed, "user").select(*_KEY, user="place")
    answered = _last_of_turn(needed, "assistant").select(*_KEY, reply="place", replied_at="created_at")
    turns = asked.join(answered, on=_KEY, how="left", maintain_order="left")
    whole = pl.col("reply").is_not_null()
    turns = turns.with_columns(high=whole.cum_sum().cast(pl.Int64) - whole.cast(pl.Int64))
    turns = turns.with_columns(low=pl.col("high").first().over("conversation"))
    past = turns.filter(whole)
    sides = [past.select(place=side, time="replied_at", nth=2 * pl.int_range(pl.len()) + n)
             for n, side in enumerate(("user", "reply"))]  # fmt: skip
    pairs = pl.concat(sides).sort("nth").drop("nth")
    at = pl.lit(None, pl.Datetime("us", "UTC")).alias("time")
    heads = needed.filter(pl.col("role") == "system").unique("conversation", keep="first", maintain_order=True)
    pool = pl.concat([pairs, turns.select(at, place="user").select(pairs.columns), heads.select("place", at)])
    system = heads.select("conversation", system=pl.int_range(pl.len()) + pairs.height + turns.height)
    placed = turns.select(*_KEY, "low", "high", own=pl.int_range(pl.len()) + pairs.height)
    return pool, placed.join(system, on="conversation", how="left", maintain_order="left")


def _last_of_turn(needed: pl.DataFrame, role: str) -> pl.DataFrame:
    """The last message of the role in each turn; `needed` is in order."""
    said = needed.filter(pl.col("role") == role)
    return said.filter(pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(-1)) for name in _KEY))
