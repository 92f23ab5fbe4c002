"""The lake's replies as one lazy table, its users, and the split into a training period and a later holdout.

The holdout is the last days of the period: all users first seen in them, and of the others a share that is kept out of
training for good; so it is later than every training row and disjoint by user by construction. Sources without times
are split by users alone. Users of the fixed evaluation prompts stay out of training however long ago that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import polars as pl

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.adversarial import condemned_days, counted_signals, reacted, with_condemned
from rluf_assets.feedback.config import AdversarialConfig, SplitConfig
from rluf_assets.feedback.defects import ANOTHER_DAYS
from rluf_assets.feedback.sampling import stable_uniform
from rluf_assets.feedback.schemas import TIME, label_column

# Where a reply went, in the order in which the conditions are tried.
PENDING, NOT_OFFERED, IN_DOUBT = "pending", "not_offered", "label_in_doubt"
ADVERSARIAL, KNOWN_USER = "adversarial_user", "user_seen_before"
PROMPT_USER, KEPT_OUT = "evaluation_prompt_user", "user_kept_out"
NEW, ESTABLISHED = "new", "established"
TRAIN, HOLDOUT = "train", "holdout"
# Who is kept out of training must not change with a run's seed: a model would meet them in its next training.
_KEPT_OUT_SEED = 1729


def scan_days(folders: Sequence[Path], table: str) -> pl.LazyFrame:
    """One lazy table over `<table>.parquet` of the partitions of `validated_replies`."""
    if not folders:
        raise DataError(
            f"no validated replies: expected at least one partition with {table}.parquet. Materialise some."
        )
    return pl.scan_parquet([folder / f"{table}.parquet" for folder in folders], hive_partitioning=False)


def signals_of(replies: pl.LazyFrame) -> list[str]:
    """Signals that the validated replies are labelled with."""
    prefix = label_column("")
    return [name.removeprefix(prefix) for name in replies.collect_schema().names() if name.startswith(prefix)]


def require_signal(replies: pl.LazyFrame, signal: str) -> None:
    """Raise ConfigError unless the replies are labelled with `signal`."""
    known = signals_of(replies)
    if signal not in known:
        raise ConfigError(f"signal {signal!r}: the replies have no such label; found {known}. Name one of them.")


def user_table(
    replies: pl.LazyFrame, adversarial: AdversarialConfig, signal: str | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row per user with first_seen, over all accepted replies, pending ones included; and the condemned days of users
    who judged nearly everything over some trailing days (`adversarial.py`). `signal`: the one that is trained on."""
    counted = counted_signals(adversarial, signals_of(replies), signal) if adversarial.enabled else []
    marked = reacted(counted).sum() if counted else pl.lit(0)
    by_user = replies.group_by("user_id").agg(first_seen=pl.col("created_at").min(), reacted=marked)
    users = by_user.collect(engine="streaming")
    # Who reacted less than this in all did not do it in four weeks either: only the others' days are looked at.
    suspects = users.filter(pl.col("reacted") >= adversarial.min_reacted_share * adversarial.min_shown)
    theirs = replies.join(suspects.lazy().select("user_id"), on="user_id", how="semi")
    return users.drop("reacted"), condemned_days(theirs, adversarial, counted)


def adversarial_users(
    replies: pl.LazyFrame, adversarial: AdversarialConfig, signal: str, among: pl.LazyFrame
) -> pl.Series:
    """Users with a condemned day among these rows of the replies: left out of all arms of a test, or of what stands for one."""
    _, condemned = user_table(replies, adversarial, signal)
    flagged = with_condemned(among, condemned).filter("adversarial").select("user_id").unique()
    return flagged.collect(engine="streaming")["user_id"]


@dataclass(frozen=True)
class Split:
    """Where the holdout starts (None: a source without times, split by users) and which users belong to it.

    users: user_id, new_user (first seen in the holdout period), kept_out (of training, while established), prompt_user (of
    the fixed evaluation prompts). condemned: user_id and day, of which no reply is used.
    """

    holdout_start: datetime | None
    users: pl.DataFrame
    condemned: pl.DataFrame

    def stage(self, label: pl.Expr | None = None) -> pl.Expr:
        """Expression: the first condition that keeps a reply out, or its split. Needs the columns of `attach`."""
        late = pl.col("new_user") if self.holdout_start is None else self.late()
        offered = pl.col("reactions_shown").fill_null(False)
        steps = [
            pl.when(pl.col("status") != "mature").then(pl.lit(PENDING))
            if label is not None
            else pl.lit(None, pl.String),
            pl.when(label.is_null()).then(pl.when(offered).then(pl.lit(IN_DOUBT)).otherwise(pl.lit(NOT_OFFERED)))
            if label is not None
            else pl.lit(None, pl.String),
            pl.when(pl.col("adversarial")).then(pl.lit(ADVERSARIAL)),
            pl.when(late & pl.col("new_user")).then(pl.lit(HOLDOUT)),
            pl.when(pl.col("prompt_user")).then(pl.lit(PROMPT_USER)),
            pl.when(late & pl.col("kept_out")).then(pl.lit(HOLDOUT)),
            pl.when(late).then(pl.lit(KNOWN_USER)),
            pl.when(pl.col("kept_out")).then(pl.lit(KEPT_OUT)),
            pl.lit(TRAIN),
        ]
        return pl.coalesce(steps)

    def late(self) -> pl.Expr:
        """Expression: whether a reply lies in the holdout period; where there is none, it may."""
        start = self.holdout_start
        return pl.lit(True) if start is None else pl.col("created_at") >= pl.lit(start).cast(TIME)

    def attach(self, replies: pl.LazyFrame) -> pl.LazyFrame:
        """Replies with what `users` says of theirs, and whether their day is condemned."""
        facts = ["new_user", "kept_out", "prompt_user"]
        told = replies.join(self.users.lazy().select("user_id", *facts), on="user_id", how="left")
        return with_condemned(told, self.condemned)

    def user_group(self) -> pl.Expr:
        """Expression: whether a row's user is new or established; null in a source without times."""
        group = pl.when("new_user").then(pl.lit(NEW)).otherwise(pl.lit(ESTABLISHED))
        return group if self.holdout_start else pl.lit(None, pl.String)


def evaluation_users(prompts: pl.DataFrame) -> pl.Series:
    """Users of the fixed evaluation prompts. Raises DataError where the table does not say who they are."""
    if "user_id" not in prompts.columns:
        raise DataError(
            f"evaluation_prompts: found columns {prompts.columns}, expected user_id among them, so that no training row is "
            "of their users. Materialise evaluation_prompts again."
        )
    return prompts.filter(pl.col("split") == "evaluation")["user_id"].unique()


def split_users(replies: pl.LazyFrame, config: SplitConfig, seed: int, prompt_users: pl.Series | None = None) -> Split:
    """Find the period, where its holdout starts, the users first seen in it, and those that stay out of training.

    Raises ConfigError where `holdout_days` leaves no training period.
    """
    of_prompts = pl.lit(False) if prompt_users is None else pl.col("user_id").is_in(prompt_users.implode())
    users, condemned = user_table(replies, config.adversarial, getattr(config, "signal", None))
    users = users.with_columns(prompt_user=of_prompts, kept_out=pl.lit(False))
    first, last = replies.select(first=pl.col("created_at").min(), last=pl.col("created_at").max()).collect().row(0)
    if first is None:
        drawn = users.lazy().with_columns(new_user=stable_uniform("user_id", seed) < config.holdout_share)
        return Split(None, drawn.collect(), condemned)
    start = datetime.combine(last.date() - timedelta(days=config.holdout_days - 1), time(), UTC)
    if start <= first:
        raise ConfigError(
            f"holdout_days {config.holdout_days}: the replies run from {first:%Y-%m-%d} to {last:%Y-%m-%d}, so "
            f"nothing is left to train on. Choose fewer holdout days, or bring in more days."
        )
    at = pl.lit(start).cast(TIME)
    known = users.lazy().with_columns(
        new_user=(pl.col("first_seen") >= at).fill_null(False),
        kept_out=kept_out_of_training(config.established_share),
    )
    return Split(start, known.collect(), condemned)


def kept_out_of_training(share: float) -> pl.Expr:
    """Expression: whether a user stays out of training for good, by `user_id` alone and for every seed."""
    return stable_uniform("user_id", _KEPT_OUT_SEED) < share


def log_totals(folders: Sequence[Path]) -> dict[str, int]:
    """Rows of all source tables in, accepted and quarantined, and the replies' states, summed over the days."""
    metrics = pl.scan_parquet([folder / "metrics.parquet" for folder in folders], hive_partitioning=False)
    both = {
        total: pl.sum_horizontal(f"messages_{column}", f"reactions_{column}").sum()
        for total, column in (("rows_in", "in"), ("accepted", "accepted"), ("quarantined", "quarantined"))
    }
    states = {name: pl.col(name).sum() for name in ("replies", "mature", "pending")}
    return {name: int(value) for name, value in metrics.select(**both, **states).collect().row(0, named=True).items()}


def set_aside(folders: Sequence[Path]) -> pl.DataFrame:
    """What the row contract set aside over all days: one row per table and defect with the number of rows.

    Reactions that count with another of the days are not lost, and are not told as if they were.
    """
    lost = scan_days(folders, "quarantine").filter(pl.col("defect") != ANOTHER_DAYS)
    counts = lost.group_by("table", "defect").agg(rows=pl.len().cast(pl.Int64))
    return counts.sort("table", "rows", "defect", descending=[False, True, False]).collect(engine="streaming")
