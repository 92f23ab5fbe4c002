"""Context windows: what the user saw before a reply, its last turns, built late, for the selected rows only.

What stands before a message is its parent where the source names one, else the message before it in the order of turns
(`conversations.py`): a question that was edited, or a reply that was given again, never sees its siblings. A turn is the
user's messages since the last reply, and the reply, in all its parts. A prompt is the last `ctx_turns` turns up to the reply;
a greeting is in it where no turn was cut off. Nothing later than the reply can get in.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rluf_assets.feedback.conversations import Places, cycles_and_users, in_order, places_before, rank, with_parents
from rluf_assets.feedback.schemas import PROMPT
from rluf_assets.feedback.screens import ROLES

_NEEDED = ["conversation_id", "message_id", "parent_id", "turn_index", "role", "content", "created_at"]
_NEVER = np.iinfo(np.int64).min


class ConversationPool:
    """The text of some conversations, each message once, in order, and what stands before each of their messages.

    One streaming scan of `messages` (the accepted ones) reads the text of these conversations and of no other.
    """

    def __init__(self, conversation_ids: pl.Series, messages: pl.LazyFrame) -> None:
        # From here on a conversation is a number: joins and sorts over text cost several times more.
        self._numbers = conversation_ids.unique().to_frame("conversation_id").with_row_index("number")
        needed = (
            messages.select(_NEEDED)
            .join(self._numbers.lazy(), on="conversation_id")
            .drop("conversation_id")
            .collect(engine="streaming")
        )
        # Streaming scans come in any order; the ids keep the result the same on every run.
        needed = with_parents(needed.sort(*in_order("number")).with_columns(rank=rank()))
        self._text = needed.select("role", "content")
        self._replies = needed.filter(pl.col("role") == "assistant").select("number", "message_id", completion="place")
        role = needed["rank"].to_numpy()
        self._up = places_before(needed)
        if needed["tree"].any():  # days apart, parents can lead in a circle that no single day shows
            self._up[cycles_and_users(self._up, role == ROLES["user"])[0]] = -1
        self._system = role == ROLES["system"]
        self._turn = _turns(self._up, role == ROLES["user"])
        self._time = needed["created_at"].to_physical().fill_null(_NEVER).to_numpy()
        heads = needed.filter(pl.col("role") == "system").unique("number", keep="first", maintain_order=True)
        self._heads = heads.select("number", system="place")

    def contexts(self, selected: pl.DataFrame, ctx_turns: int) -> pl.DataFrame:
        """`selected` with `prompt` (list of {role, content}) and `completion`; see `places` and `texts`."""
        return self.texts(selected, self.places(selected), ctx_turns)

    def places(self, selected: pl.DataFrame) -> pl.DataFrame:
        """Where the replies of `selected`, and their system messages, are, a row each: numbers only.

        `selected` needs conversation_id and message_id.
        """
        rows = selected.select("conversation_id", "message_id")
        for known, on in (
            (self._numbers, ["conversation_id"]), (self._replies, ["number", "message_id"]), (self._heads, ["number"]),
        ):  # fmt: skip
            rows = rows.join(known, on=on, how="left", maintain_order="left")
        return rows.select("system", "completion")

    def texts(self, selected: pl.DataFrame, places: pl.DataFrame, ctx_turns: int) -> pl.DataFrame:
        """`selected` with `prompt` and `completion` from their `places`; rows come back in the order given."""
        if selected.is_empty():
            nothing = {"completion": pl.String(), "prompt": PROMPT}
            return selected.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in nothing.items())
        completion = self._text["content"].gather(places["completion"]).alias("completion")
        return selected.with_columns(completion, self._prompts(places, ctx_turns))

    def _prompts(self, places: pl.DataFrame, ctx_turns: int) -> pl.Series:
        row, place = self._paths(places["completion"].to_numpy(), ctx_turns)
        heads = places["system"].is_not_null().to_numpy()
        row = np.concatenate([np.flatnonzero(heads), row])
        place = np.concatenate([places["system"].drop_nulls().to_numpy(), place])
        order = np.argsort(row, kind="stable")
        said = self._text[pl.Series(place[order])].with_columns(pl.Series("row", row[order]).set_sorted())
        prompts = said.group_by("row", maintain_order=True).agg(prompt=pl.struct("role", "content"))
        if prompts.height == places.height:
            return prompts["prompt"]
        every = pl.DataFrame({"row": pl.int_range(places.height, eager=True)})
        return every.join(prompts, on="row", how="left", maintain_order="left")["prompt"].fill_null(pl.lit([], PROMPT))

    def _paths(self, replies: Places, ctx_turns: int) -> tuple[Places, Places]:
        """What stands before each reply, oldest first: numbers of the replies, and places."""
        row, at, least = np.arange(len(replies)), self._up[replies], self._turn[replies] - ctx_turns
        time = np.where(self._time[replies] == _NEVER, np.iinfo(np.int64).max, self._time[replies])
        steps: list[tuple[Places, Places]] = []
        while len(row):
            inside = (at >= 0) & ((least[row] <= 0) | (self._turn[at] > least[row]))
            row, at = row[inside], at[inside]
            shown = ~self._system[at] & (self._time[at] <= time[row])
            steps.append((row[shown], at[shown]))
            at = self._up[at]
        rows, places = zip(*reversed(steps), strict=True)
        return np.concatenate(rows), np.concatenate(places)


def prompt_keys(prompts: pl.Series) -> pl.Series:
    """A number per prompt, equal for equal texts."""
    texts = prompts.list.eval(pl.element().struct.field("content")).list.join("\x1e")
    return texts.hash().alias("prompt_key")


def _turns(up: Places, user: NDArray[np.bool_]) -> Places:
    """[messages] how many times the user has spoken on the way from the root, this message included."""
    jump, asked = np.append(up, -1), np.append(user, False)
    turns: Places = (asked & ~asked[jump]).astype(np.int64)
    while (jump >= 0).any():
        turns, jump = turns + turns[jump], jump[jump]
    return turns[:-1]
