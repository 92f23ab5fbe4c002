"""Two-way clustering for A/B tests in which users share replies: by user and by reply.

Where a test serves replies from a bank (a cache, canned answers, a simulation), one good reply is loved by many users,
so users of an arm are not independent of each other. The variance then is V(user) + V(reply) - V(user and reply):
Cameron, Gelbach & Miller 2011 (doi 10.1198/jbes.2010.07136), here for linearised ratios of sums. Every arm's variance
has its own factor G / (G - 1), and as they advise the smaller number of clusters gives the degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rluf_assets.errors import DataError
from rluf_assets.evaluation.frames import require_columns, require_counts
from rluf_assets.evaluation.stats import Array, Ratio

Codes = NDArray[np.int64]
LABELLED = "_labelled"  # <signal>_labelled: replies of which it is known whether they have the signal


@dataclass(frozen=True)
class ReplyLog:
    """What each exposed user was shown: one row per exposure, and what it counted for.

    frame: user_id, reply_id (equal for users who were shown the same context's reply) and the counts of
    `exposures.parquet` that belong to one reply. user: row of the arm's users per exposure. shown: exposures per user.
    """

    frame: pl.DataFrame
    user: Codes
    shown: Array

    def per_exposure(self, column: str, of_users: Array) -> Array:
        """A count per exposure; what is known per user only (users, conversations) is spread over their exposures."""
        if column in self.frame.columns:
            return self.frame[column].cast(pl.Float64).to_numpy()
        return np.asarray((of_users / np.maximum(self.shown, 1))[self.user])

    def influence(
        self, numerator: tuple[str, Array], denominator: tuple[str, Array], raw: Ratio, adjusted: Ratio
    ) -> Array:
        """Each exposure's share of its user's influence on a ratio; adds up to `adjusted.influence` over a user."""
        x, y = self.per_exposure(*numerator), self.per_exposure(*denominator)
        own = (x - raw.value * y) / denominator[1].sum()
        return np.asarray(own + ((adjusted.influence - raw.influence) / np.maximum(self.shown, 1))[self.user])


def checked_replies(arm: str, frame: pl.DataFrame, counted: Iterable[str]) -> pl.DataFrame:
    """An arm's exposed replies with user_id and reply_id as text, and `day`, if there is one, as days since the user's first.

    Raises DataError where an id is missing, or a count is not a number >= 0: clustered variances would then be none, and
    those of independent users would be taken for them.
    """
    where = f"ab_exposures[{arm}] replies"
    require_columns(where, frame, ("user_id", "reply_id"))
    ids = pl.col("user_id", "reply_id")
    if without := frame.filter(pl.any_horizontal(ids.is_null())).height:
        raise DataError(f"{where}: found {without} rows without user_id or reply_id, expected none. Drop them.")
    require_counts(where, frame, counted)
    return frame.with_columns(ids.cast(pl.String), *_days(where, frame))


def _days(where: str, frame: pl.DataFrame) -> list[pl.Expr]:
    if "day" not in frame.columns:
        return []
    kind, day = frame.schema["day"], pl.col("day")
    if not (kind.is_integer() or kind == pl.Date or kind == pl.Datetime):
        raise DataError(f"{where}: found a day of the kind {kind}, expected dates, or whole days since the first one.")
    if lost := frame["day"].null_count():
        raise DataError(
            f"{where}: found {lost} rows without a day, expected one in each. Leave the column out, or fill it."
        )
    if kind.is_integer():
        return [day.cast(pl.Int64)]
    date = day.cast(pl.Date)
    return [(date - date.min().over("user_id")).dt.total_days().alias("day")]


def reply_log(arm: str, frame: pl.DataFrame, users: pl.DataFrame) -> ReplyLog:
    """Check an arm's exposed replies against its users (one row each, sorted by user_id).

    Raises DataError for missing columns or where the replies do not add up to the users' own counts.
    """
    where = f"ab_exposures[{arm}] replies"
    known_of_users = [column for column in users.columns if column.endswith(LABELLED)]
    require_columns(where, frame, ("user_id", "reply_id", *known_of_users))
    order = users.select("user_id").with_row_index("row")
    known = frame.join(order, on="user_id", how="left", maintain_order="left")
    shown = known.group_by("user_id").agg(pl.len().alias("shown"))
    counted = users.join(shown, on="user_id", how="left", maintain_order="left")["shown"].fill_null(0)
    off = int((counted != users["replies"].cast(pl.Int64)).sum())
    if known["row"].null_count() or off:
        raise DataError(
            f"{where}: found {known['row'].null_count()} rows of unexposed users and {off} users whose rows are not as "
            "many as their replies, expected one row per reply. Write both tables from the same log."
        )
    row = known["row"].cast(pl.Int64).to_numpy()
    return ReplyLog(known.drop("row"), row, counted.cast(pl.Float64).to_numpy())


@dataclass(frozen=True)
class Clusters:
    """Codes of the exposures of two arms under one way of clustering; equal codes are one cluster, across arms too."""

    ours: Codes
    theirs: Codes
    size: int

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Clusters in the first arm and in the second."""
        return len(np.unique(self.ours)), len(np.unique(self.theirs))

    @cached_property
    def shared(self) -> bool:
        """Whether a cluster is in both arms."""
        return bool(np.isin(self.ours, self.theirs).any())

    def variances(self, ours: Array, theirs: Array) -> Array:
        """Variance of the first ratio, of the second, and their covariance, from exposures' influences."""
        sums = [np.bincount(c, weights=e, minlength=self.size) for c, e in ((self.ours, ours), (self.theirs, theirs))]
        own, other = (n / max(n - 1, 1) for n in self.counts)
        squares = np.array([sums[0] @ sums[0], sums[1] @ sums[1], sums[0] @ sums[1]])
        variances: Array = np.array([own, other, np.sqrt(own * other)]) * squares
        return variances


@dataclass(frozen=True)
class TwoWay:
    """What clustering by reply adds to clustering by user, for a pair of arms."""

    replies: Clusters
    pairs: Clusters

    @classmethod
    def of(cls, ours: ReplyLog, theirs: ReplyLog) -> TwoWay:
        frames = [log.frame.select("user_id", "reply_id") for log in (ours, theirs)]
        both = pl.concat(frames)
        reply = both["reply_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
        user = both["user_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
        pair = np.unique(user * (int(reply.max()) + 1) + reply, return_inverse=True)[1]
        cut = len(frames[0])
        return cls(*(Clusters(c[:cut], c[cut:], int(c.max()) + 1) for c in (reply, pair)))

    def added(self, ours: Array, theirs: Array) -> Array:
        """V(reply) - V(user and reply): variance of the first ratio, of the second, and their covariance."""
        return self.replies.variances(ours, theirs) - self.pairs.variances(ours, theirs)
