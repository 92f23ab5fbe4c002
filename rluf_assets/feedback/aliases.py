"""The reply that a reaction names by another of its ids: a call of its turn, or the trace that it is the reply of."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def by_own_id(reactions: pl.DataFrame, messages: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The reactions, with `message_id` the own id of the reply that they name; unknown ids stay as they are.

    `messages`: what they can be about, with `aliases` (see `schemas.MESSAGES`). An id that is some message's own is never
    taken for another's alias; one that is an alias of several messages stays as it is.
    """
    named = [one.filter(pl.col("aliases").is_not_null()) for one in messages if "aliases" in one.columns]
    if not any(one.height for one in named) or reactions.is_empty():
        return reactions
    aliases = (
        pl.concat([one.select(own="message_id", alias=pl.col("aliases").str.split("\n")) for one in named])
        .explode("alias")
        .unique()
        .filter(pl.col("alias").is_unique())
    )
    own = pl.concat([one["message_id"] for one in messages]).unique()
    aliases = aliases.filter(~pl.col("alias").is_in(own.implode()))
    found = reactions.join(aliases, left_on="message_id", right_on="alias", how="left", maintain_order="left")
    return found.with_columns(message_id=pl.coalesce("own", "message_id")).drop("own")
