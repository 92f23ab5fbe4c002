"""One-row metrics frames: what the suites in `suites/*.json` judge, computed by Polars in one streaming pass.

Great Expectations on ten million rows costs twenty seconds and four gigabytes; on one row of aggregates it costs
nothing. So the row contract stays in Polars and the suites see these frames: one row per day of `validated_replies`,
one row for `signal_set`.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from data_checks.drift import histograms
from rluf_assets.feedback.contract import Validated
from rluf_assets.feedback.defects import MESSAGE_DEFECTS, REACTION_DEFECTS
from rluf_assets.feedback.schemas import label_column
from rluf_assets.feedback.splits import ESTABLISHED, evaluation_users
from rluf_assets.lake import read_json

US_PER_H = 3.6e9


def partition_metrics(validated: Validated, signals: tuple[str, ...], day: date | None) -> pl.DataFrame:
    """One row of figures about one partition of validated replies (rates are shares of 1, times are hours).

    `rate_<signal>` is over the replies that have a label; null where there is none. `hist_*` are for `drift.py`.
    """
    counts = asdict(validated.accounting)
    replies, messages = validated.replies.lazy(), validated.messages.lazy()
    chars = pl.col("content").str.len_chars()
    over_replies = replies.select(
        pl.col("created_at").min().dt.date().alias("first_day"),
        *(pl.col(label_column(signal)).mean().cast(pl.Float64).alias(f"rate_{signal}") for signal in signals),
        pl.col("reactions_shown").mean().alias("shown_share"),
        pl.struct("conversation_id", "message_id")
        .hash()
        .is_duplicated()
        .mean()
        .fill_null(0)
        .alias("duplicate_reply_rate"),
        pl.any_horizontal(pl.col("message_id", "conversation_id", "user_id").is_null())
        .mean()
        .fill_null(0)
        .alias("null_id_rate"),
        pl.col("user_id").hash().n_unique().alias("users"),
        pl.col("conversation_id").hash().n_unique().alias("conversations"),
        (pl.col("turn_index") + 1).mean().alias("turns_mean"),
        chars.mean().alias("reply_chars_mean"),
        chars.quantile(0.95).alias("reply_chars_p95"),
    )
    over_messages = messages.filter(pl.col("role") == "user").select(chars.mean().alias("prompt_chars_mean"))
    # Summed as whole microseconds: a sum of floats differs in its last digit with the number of threads.
    lag_us = (pl.col("reacted_at") - pl.col("created_at")).dt.total_microseconds()
    lags = (
        validated.reactions.lazy()
        .join(replies.select("message_id", "created_at"), on="message_id")
        .select(
            (lag_us.sum() / lag_us.count() / US_PER_H).alias("label_lag_h_mean"),
            (lag_us.quantile(0.95) / US_PER_H).alias("label_lag_h_p95"),
        )
    )
    passes = [over_replies, over_messages, lags, histograms(replies)]
    row = pl.concat(pl.collect_all(passes, engine="streaming"), how="horizontal")
    aside = {(table, name): n for table, name, n in validated.quarantine.group_by("table", "defect").len().iter_rows()}
    return row.select(
        pl.lit(day, pl.Date).fill_null(pl.col("first_day")).alias("day"),
        *(pl.lit(value, pl.Int64).alias(name) for name, value in counts.items()),
        *_differences(counts),
        *_shares(counts, aside.get(("reactions", "missing_time"), 0)),
        pl.exclude("first_day"),
        *(pl.lit(n, pl.Int64).alias(f"redacted_{kind}") for kind, n in validated.redacted.items()),
        *(pl.lit(aside.get(("messages", name), 0), pl.Int64).alias(f"messages_{name}") for name in MESSAGE_DEFECTS),
        *(pl.lit(aside.get(("reactions", name), 0), pl.Int64).alias(f"reactions_{name}") for name in REACTION_DEFECTS),
    )


def signal_set_metrics(folder: str | Path, prompts: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row of figures about a signal set: what must hold before anything is trained on it.

    `prompts`: the fixed prompts in force, whose evaluation users must be in no training row.
    """
    train = pl.scan_parquet(f"{folder}/train.parquet")
    holdout = pl.scan_parquet(f"{folder}/holdout.parquet")
    funnel = pl.read_parquet(f"{folder}/funnel.parquet")
    rates = read_json(f"{folder}/rates.json")
    rows = [
        train.select(
            pl.len().alias("train_rows"),
            pl.col("label").sum().alias("train_positives"),
            pl.col("sample_weight").sum().alias("weight"),
            pl.col("sample_weight").filter("label").sum().alias("weight_of_positives"),
            pl.col("created_at").max().alias("last"),
            pl.col("inclusion_probability").is_between(0, 1, closed="right").not_().sum().alias("train_bad_inclusion"),
            pl.struct("conversation_id", "message_id").is_duplicated().sum().alias("train_duplicates"),
        ),
        holdout.select(
            pl.len().alias("holdout_rows"), pl.col("label").sum().alias("holdout_positives"),
            pl.col("created_at").min().alias("first"),
            (pl.col("user_group") == ESTABLISHED).sum().alias("holdout_established_rows"),
            (pl.col("user_group") == ESTABLISHED).and_(pl.col("label")).sum().alias("holdout_established_positives"),
            pl.col("text_in_train").sum().alias("holdout_rows_in_train"),
        ),
        _shared(train, holdout, "user_id"),
        _shared(train, holdout, "conversation_id"),
        _of_prompt_users(train, holdout, prompts),
    ]  # fmt: skip
    row = pl.concat(pl.collect_all(rows, engine="streaming"), how="horizontal")
    gaps = funnel.select(
        inside=(pl.col("rows_in") - pl.col("dropped") - pl.col("rows_out")).abs().sum(),
        between=(pl.col("rows_in") - pl.col("rows_out").shift(1)).abs().sum(),
        end=(pl.col("rows_out").last() - row["train_rows"][0]).abs(),
    ).row(0)
    target = rates["target_positive_rate"]
    return row.with_columns(
        holdout_lead_s=(pl.col("first") - pl.col("last")).dt.total_microseconds() / 1e6,
        funnel_gap=pl.lit(sum(gaps), pl.Int64),
        train_positive_rate=pl.col("weight_of_positives") / pl.col("weight"),
        holdout_positive_rate=pl.col("holdout_positives") / pl.col("holdout_rows"),
        # Weight that would have to change for the rate to be the target's; 0 where the signal keeps its natural rate.
        target_gap_rows=pl.lit(0.0)
        if rates["natural_rate_kept"]
        else (pl.col("weight_of_positives") - target * pl.col("weight")).abs().round(6),
    ).drop("first", "last", "weight", "weight_of_positives")


def _of_prompt_users(train: pl.LazyFrame, holdout: pl.LazyFrame, prompts: pl.DataFrame | None) -> pl.LazyFrame:
    established = holdout.filter(pl.col("user_group") == ESTABLISHED).select("user_id")
    users = pl.concat([train.select("user_id"), established]).unique()
    asked = set[str]() if prompts is None else set(evaluation_users(prompts))
    return users.select(pl.col("user_id").is_in(list(asked)).sum().alias("prompt_users_learned"))


def _shared(train: pl.LazyFrame, holdout: pl.LazyFrame, column: str) -> pl.LazyFrame:
    both = train.select(column).unique().join(holdout.select(column).unique(), on=column, how="semi")
    return both.select(pl.len().alias(f"shared_{column.removesuffix('_id')}s"))


def _differences(counts: dict[str, int]) -> list[pl.Expr]:
    gaps = {
        "messages_gap": counts["messages_in"] - counts["messages_accepted"] - counts["messages_quarantined"],
        "reactions_gap": counts["reactions_in"] - counts["reactions_accepted"] - counts["reactions_quarantined"],
        "replies_gap": counts["replies"] - counts["mature"] - counts["pending"],
    }
    return [pl.lit(value, pl.Int64).alias(name) for name, value in gaps.items()]


def _shares(counts: dict[str, int], undated: int) -> list[pl.Expr]:
    """`undated`: reactions that were set aside because they have no time."""
    shares: dict[str, Any] = {
        "messages_quarantined_share": (
            counts["messages_quarantined"] - counts["messages_faultless"],
            counts["messages_in"],
        ),
        "reactions_quarantined_share": (
            counts["reactions_quarantined"] - counts["reactions_faultless"],
            counts["reactions_in"],
        ),
        "reactions_undated_share": (undated, counts["reactions_in"]),
        "pending_share": (counts["pending"], counts["replies"]),
    }
    return [pl.lit(part / whole if whole else 0.0).alias(name) for name, (part, whole) in shares.items()]
