"""Days on which a user judged nearly everything: a bot, a prank, somebody paid by the click. One rule for every stage.

Only signals by which users judge count; who copies or regenerates every reply is no liar. A window of trailing days is
condemned, not a life: the user's rows outside such windows stay. Labels that are not known are evidence of nothing.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from rluf_assets.errors import ConfigError
from rluf_assets.feedback.config import ACTS, POLARITY, AdversarialConfig, judging_signals
from rluf_assets.feedback.schemas import label_column

DAYS = {"user_id": pl.String(), "day": pl.Date()}


def counted_signals(config: AdversarialConfig, known: list[str], signal: str | None = None) -> list[str]:
    """The signals by which a user is judged: the configured ones, or those of `signal`, or all but copy and regenerate.

    Raises ConfigError for a configured one that the replies have no label of.
    """
    if config.signals is None and signal is not None:
        return list(judging_signals(signal, known, POLARITY))
    if config.signals is None:
        return [one for one in known if one not in ACTS]
    absent = sorted(set(config.signals) - set(known))
    if absent:
        raise ConfigError(
            f"adversarial.signals: the replies have no label of {absent}; found {known}. Name some of them."
        )
    return list(config.signals)


def reacted(signals: list[str]) -> pl.Expr:
    """Whether one of the signals is set on a reply."""
    return pl.any_horizontal(_known(signal) & (pl.col(label_column(signal)) > 0) for signal in signals)


def condemned_days(replies: pl.LazyFrame, config: AdversarialConfig, signals: list[str]) -> pl.DataFrame:
    """user_id and day, one row per day that lies in a window of `trailing_days` in which the user judged nearly everything.

    replies: user_id, created_at, labels. In a source without times the whole log is one window, and its day is null.
    """
    counts = replies.select(_known(signal).sum().alias(signal) for signal in signals).collect(engine="streaming")
    known = [signal for signal in signals if counts[signal].item()]
    if not config.enabled or not known:
        return pl.DataFrame(schema=DAYS)
    marked = reacted(known)
    # Where one label is in doubt and none is set, the user may have judged the reply or not.
    shown = marked | pl.all_horizontal(_known(signal) for signal in known)
    days = (
        replies.group_by("user_id", day=pl.col("created_at").dt.date())
        .agg(shown=shown.sum(), reacted=marked.sum())
        .collect(engine="streaming")
        .sort("user_id", "day")
    )
    timed = days["day"].null_count() < days.height
    days = days.filter(pl.col("day").is_not_null()) if timed else days
    window = pl.col("shown", "reacted").rolling_sum_by("day", window_size=f"{config.trailing_days}d").over("user_id")
    guilty = (days.with_columns(window) if timed else days).filter(
        pl.col("shown") >= config.min_shown, pl.col("reacted") >= config.min_reacted_share * pl.col("shown")
    )
    if not timed:
        return guilty.select("user_id", "day")
    ends = guilty.select("user_id", "day", end="day").sort("day")
    within = days.sort("day").join_asof(
        ends, on="day", by="user_id", strategy="forward", tolerance=timedelta(days=config.trailing_days - 1),
        check_sortedness=False,
    )  # fmt: skip
    return within.filter(pl.col("end").is_not_null()).select("user_id", "day").sort("user_id", "day")


def with_condemned(replies: pl.LazyFrame, days: pl.DataFrame) -> pl.LazyFrame:
    """Replies (user_id, created_at) with `adversarial`: whether their user's day is one of the condemned."""
    marked = days.lazy().with_columns(adversarial=pl.lit(True)).rename({"day": "_day"})
    dated = replies.with_columns(_day=pl.col("created_at").dt.date())
    joined = dated.join(marked, on=["user_id", "_day"], how="left", nulls_equal=True)
    return joined.with_columns(pl.col("adversarial").fill_null(False)).drop("_day")


def _known(signal: str) -> pl.Expr:
    return pl.col(label_column(signal)).cast(pl.Float64).is_finite().fill_null(False)
