"""Exposure frames of an A/B test: checks, and one row per user of an arm.

A frame has one row per user, or one per user x use_case (and x day): counts are added up per user, flags hold if they
hold once, and pre-period columns are taken once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.clustering import LABELLED, ReplyLog
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.frames import require_columns, require_counts
from rluf_assets.evaluation.stats import Array
from rluf_assets.feedback.adversarial import condemned_days
from rluf_assets.feedback.config import ACTS, POLARITY, AdversarialConfig
from rluf_assets.feedback.schemas import label_column

FILTER = "adversarial"
FIRST = "first_exposed_at"
HISTORY = "pre_"
UNKNOWN = "unknown"  # the value of a trait of users of whom none is told
KEYS = ("user_id", "arm", "use_case", "day", FIRST)
IDS = (pl.String, pl.Categorical, pl.Enum)


def checked(arm: str, frame: pl.DataFrame, config: ReadoutConfig) -> pl.DataFrame:
    """An arm's exposures with user_id as text and first_exposed_at as dates.

    Raises DataError where the frame is empty, a user, a column or a flag is missing, a row stands twice, or a column is of
    a kind that cannot be counted: what cannot be read must not look like what was not there.
    """
    where = f"ab_exposures[{arm}]"
    require_columns(where, frame, ("user_id", "replies"))
    if frame.is_empty():
        raise DataError(
            f"{where}: found no exposed users, expected at least one. Check that the arm took traffic, and its log."
        )
    frame = frame.with_columns(user_ids(where, frame))
    if frame["user_id"].null_count():
        raise DataError(
            f"{where}: found {frame['user_id'].null_count()} rows without user_id, expected none. Drop them."
        )
    require_counts(where, frame, counted(config) | {c for c in frame.columns if c.startswith(HISTORY)})
    if nested := [c for c, kind in frame.schema.items() if kind.is_nested()]:
        raise DataError(f"{where}: found lists or structs in {nested}, expected one value a row. Write them flat.")
    if "arm" in frame.columns and frame["arm"].n_unique() > 1:
        arms = frame["arm"].unique().sort().to_list()
        raise DataError(f"{where}: found users of the arms {arms}, expected those of one. Export each arm by itself.")
    if twice := int(frame.is_duplicated().sum()):
        raise DataError(
            f"{where}: found {twice} rows that stand more than once, expected one row per user, or per user and use case. "
            "Check the export: their counts would be added up."
        )
    return frame.with_columns(*flags(where, frame), *_first_day(where, frame))


def counted(config: ReadoutConfig) -> set[str]:
    """Columns that metrics count."""
    return {"replies", *(column for m in config.metrics for column in (m.numerator, m.denominator))}


def user_ids(where: str, frame: pl.DataFrame) -> pl.Expr:
    """user_id as text, so that the same user is the same in tables that write ids as numbers. Raises DataError."""
    kind = frame.schema["user_id"]
    if not (kind.is_integer() or isinstance(kind, IDS) or kind == pl.Null):
        raise DataError(f"{where}: found user_id of the kind {kind}, expected text or whole numbers. Write it as text.")
    return pl.col("user_id").cast(pl.String)


def flags(where: str, frame: pl.DataFrame) -> list[pl.Expr]:
    """`adversarial`, where it is a column, as true or false. Raises DataError where it is neither."""
    if FILTER not in frame.columns:
        return []
    flag, kind = frame[FILTER], frame.schema[FILTER]
    known = (kind.is_numeric() or kind == pl.Boolean) and flag.cast(pl.Float64).is_in([0.0, 1.0]).all()
    if not known or flag.null_count():
        raise DataError(f"{where}: found values of {FILTER!r} other than true and false. Say it of every user.")
    return [pl.col(FILTER).cast(pl.Boolean)]


def _first_day(where: str, frame: pl.DataFrame) -> list[pl.Expr]:
    """`first_exposed_at` as a date, of dates, times or text that begins with one (2026-01-31)."""
    if FIRST not in frame.columns:
        return []
    kind, told = frame.schema[FIRST], pl.col(FIRST)
    if kind == pl.String:
        told = told.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    elif not (kind.is_temporal() or kind == pl.Null) or kind in (pl.Time, pl.Duration):
        raise DataError(f"{where}: found {FIRST} of the kind {kind}, expected dates or times. Write them as such.")
    lost = frame.select(told.cast(pl.Date).alias(FIRST))[FIRST].null_count() - frame[FIRST].null_count()
    if lost:
        raise DataError(f"{where}: found {lost} values of {FIRST} that are no dates, expected such as 2026-01-31.")
    return [told.cast(pl.Date).alias(FIRST)]


def per_user(arm: str, frame: pl.DataFrame, use_case: str | None = None) -> pl.DataFrame:
    """One row per user, sorted by user_id: counts summed, flags as 0/1, pre-period columns once.

    Raises DataError for a missing column, a missing user, or a negative or missing count.
    """
    where = f"ab_exposures[{arm}]"
    require_columns(where, frame, ("user_id", "replies"))
    if use_case is not None:
        frame = frame.filter(pl.col("use_case") == use_case)
    counts = [c for c, kind in frame.schema.items() if c not in KEYS and (kind.is_numeric() or kind == pl.Boolean)]
    if frame["user_id"].null_count():
        raise DataError(
            f"{where}: found {frame['user_id'].null_count()} rows without user_id, expected none. Drop them."
        )
    require_counts(where, frame, counts)
    values = frame.with_columns(pl.col(c).cast(pl.Float64) for c in counts)
    once = [c for c in counts if c.startswith(HISTORY) or frame.schema[c] == pl.Boolean]
    summed = [c for c in counts if c not in once]
    return values.group_by("user_id").agg(pl.col(summed).sum(), pl.col(once).max()).sort("user_id")


def with_adversarial(
    exposures: Mapping[str, pl.DataFrame], replies: Mapping[str, pl.DataFrame], config: AdversarialConfig
) -> Mapping[str, pl.DataFrame]:
    """The exposures with `adversarial` per user, by the rule of the signal set, from the replies that the arms showed.

    A user is judged by all arms together, so alike in each. The exposures stay as they are where an arm says itself who
    is adversarial, or where one has no such replies, or none of the signals in them: one rule for all.
    """
    if not config.enabled or any(FILTER in f.columns for f in exposures.values()) or set(exposures) - set(replies):
        return exposures
    in_all = set.intersection(*(set(replies[name].columns) for name in exposures))
    signals = [s for s in config.signals or POLARITY if s in in_all and (config.signals or s not in ACTS)]
    if not signals or "user_id" not in in_all:
        return exposures
    labels = [pl.col(s).alias(label_column(s)) for s in signals]
    shown = [replies[n].lazy().select("user_id", _shown_at(replies[n]), *labels) for n in exposures]
    condemned = condemned_days(pl.concat(shown, how="vertical_relaxed"), config, signals)["user_id"].unique()
    flag = pl.col("user_id").is_in(condemned.implode()).alias(FILTER)
    return {name: frame.with_columns(flag) for name, frame in exposures.items()}


def _shown_at(shown: pl.DataFrame) -> pl.Expr:
    """`created_at`: the date in `day`, or a time that stands for the day since the user's first exposure; null without."""
    if "day" not in shown.columns:
        return pl.lit(None, pl.Datetime).alias("created_at")
    day = pl.col("day")
    told = pl.lit(date(2000, 1, 1)) + pl.duration(days=day) if shown.schema["day"].is_numeric() else day
    return told.cast(pl.Datetime, strict=False).alias("created_at")


def segments_of(frame: pl.DataFrame, base: pl.DataFrame) -> list[str]:
    """Use cases in both arms, if the exposures are split by use case."""
    if "use_case" not in frame.columns or "use_case" not in base.columns:
        return []
    both = frame.select("use_case").unique().join(base.select("use_case").unique(), on="use_case")
    return sorted(both["use_case"].drop_nulls().to_list())


def metric_columns(users: pl.DataFrame, metric: Metric) -> bool:
    """Whether an arm holds a metric's columns."""
    return all(c == "users" or c in users.columns for c in (metric.numerator, metric.denominator))


def over_known(metric: Metric, *arms: pl.DataFrame) -> Metric:
    """The metric counted out of the replies whose label is known, where an arm says which: unknown is not "no".

    Of an arm that does not say it, the metric is then not measured: its replies are not all known by being silent.
    """
    known = f"{metric.numerator}{LABELLED}"
    if metric.denominator == "replies" and any(known in users.columns for users in arms):
        return metric.model_copy(update={"denominator": known})
    return metric


def measured(metrics: Iterable[Metric], *arms: pl.DataFrame) -> list[Metric]:
    """The metrics whose columns all these arms hold, each counted `over_known`."""
    known = (over_known(metric, *arms) for metric in metrics)
    return [metric for metric in known if all(metric_columns(users, metric) for users in arms)]


def covariates_of(config: ReadoutConfig, users: pl.DataFrame, base: pl.DataFrame) -> list[str]:
    """Pre-period columns that both arms hold and that vary."""
    held = [c for c in config.covariates if c in users.columns and c in base.columns]
    return [c for c in held if np.ptp(np.concatenate([f[c].cast(pl.Float64).to_numpy() for f in (users, base)])) > 0]


@dataclass(frozen=True)
class Arm:
    """One arm's users, sorted by id: one row each; and what they were shown, where users share replies."""

    users: pl.DataFrame
    log: ReplyLog | None = None

    def values(self, column: str) -> Array:
        """A column per user; "users" counts one per user."""
        if column == "users":
            return np.ones(len(self.users))
        return self.users[column].cast(pl.Float64).to_numpy()
