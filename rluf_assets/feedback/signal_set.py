"""The signal set: replies with one signal's label, upsampled for training, and a later holdout at the natural rate.

Two streaming passes over the replies without text (count, then draw), one over the messages of the drawn rows. All
positives of the training period are kept and negatives drawn uniformly until positives are exactly the target share
(RLUF: 0.1% -> 10%); how probable each row was to get in is recorded, so that live rates can be had back exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.sampling import cap_per_user, exact_counts, stable_uniform
from rluf_assets.feedback.schemas import FUNNEL, label_column
from rluf_assets.feedback.splits import (
    ADVERSARIAL,
    HOLDOUT,
    KNOWN_USER,
    NOT_OFFERED,
    PENDING,
    TRAIN,
    Split,
    require_signal,
    split_users,
)  # fmt: skip
from rluf_assets.feedback.windows import ConversationPool

COLUMNS = [
    "message_id", "conversation_id", "user_id", "created_at", "policy_version", "use_case", "turn_index", "prompt",
    "completion", "label", "inclusion_probability", "sample_weight", "split",
]  # fmt: skip
REASONS = {
    PENDING: "attribution window still open",
    NOT_OFFERED: "the reaction was not offered, so silence says nothing",
    ADVERSARIAL: "user who reacts to nearly everything",
    KNOWN_USER: "in the holdout period, of a user seen before it",
    HOLDOUT: "kept as the holdout, at its natural rate",
    "not_drawn": "negative that the uniform draw left out",
    "conversation_in_holdout": "its conversation is in the holdout",
    "user_cap": "more than user_cap rows of one user",
    "duplicate": "same label, prompt and reply again",
    "surplus": "drawn in reserve; not needed for the target rate",
}
# Drawn beyond need, for what caps and duplicates will take; doubled until it is enough.
_RESERVE = 1.25
ROW_GROUP = 50_000  # holdout rows whose contexts are built at a time; fixed, so that files do not vary with threads


@dataclass(frozen=True)
class SignalSet:
    """Training rows, holdout rows, the funnel (rows per step, adding up) and the rates to undo the sampling with.

    The holdout can be far larger than the training set: it is lazy, its contexts are built in batches when it is
    collected or sunk.
    """

    train: pl.DataFrame
    holdout: pl.LazyFrame
    funnel: pl.DataFrame
    rates: dict[str, Any]

    def _repr_html_(self) -> str:
        return f"<p>{self.rates}</p>{self.funnel._repr_html_()}"


def build_signal_set(replies: pl.LazyFrame, messages: pl.LazyFrame, config: SignalSetConfig, *, seed: int) -> SignalSet:
    """Build the set of `config.signal` from validated replies and the accepted messages of their conversations.

    A signal more frequent than the target keeps its natural rate. Without a positive in the training period the train
    split is empty (`rates["note"]` says so) and the holdout is still built. Raises ConfigError for an unknown signal.
    """
    require_signal(replies, config.signal)
    split = split_users(replies, config, config.adversarial, seed)
    staged = _staged(replies, config, split)
    counts = {
        (stage, bool(label)): n
        for stage, label, n in staged.group_by("stage", "label").len().collect(engine="streaming").iter_rows()
    }
    eligible = counts.get((TRAIN, True), 0), counts.get((TRAIN, False), 0)
    natural = sum(eligible) > 0 and eligible[0] / sum(eligible) >= config.target_positive_rate
    holdout, train, pool, dropped = _draw(staged, messages, config, seed, eligible, natural=natural)
    rates = _rates(config, split, eligible, train, holdout, natural=natural)
    q = pl.when("label").then(rates["q_pos"]).otherwise(rates["q_neg"]).cast(pl.Float64)
    train = _finished(train.sort("created_at", "message_id"), q, TRAIN)
    return SignalSet(train, _lazy_holdout(holdout, pool, config.ctx_turns), _funnel(counts, dropped), rates)


def _staged(replies: pl.LazyFrame, config: SignalSetConfig, split: Split) -> pl.LazyFrame:
    label = pl.col(label_column(config.signal))
    columns = [*COLUMNS[:7], "status"]
    rows = split.attach(replies.select(*columns, label))
    return rows.with_columns(stage=split.stage(label), label=label == 1).select(*COLUMNS[:7], "label", "stage")


def _draw(
    staged: pl.LazyFrame,
    messages: pl.LazyFrame,
    config: SignalSetConfig,
    seed: int,
    eligible: tuple[int, int],
    *,
    natural: bool,
) -> tuple[pl.DataFrame, pl.DataFrame, ConversationPool, list[tuple[str, int]]]:
    """Holdout (no text yet), train, their conversations' text, and the rows that each sampling step dropped.

    Draws again with more reserve if caps and duplicates leave too few.
    """
    share = config.target_positive_rate
    wanted = exact_counts(eligible[0], eligible[1], share, config.max_train_rows)[1]
    reserve = _RESERVE
    while True:
        bar = (
            min(1.0, config.max_train_rows / sum(eligible))
            if natural
            else min(1.0, reserve * wanted / max(1, eligible[1]))
        )
        rows = _drawn_rows(staged, bar, seed, natural=natural).sort("created_at", "message_id")
        holdout, drawn = rows.filter(pl.col("stage") == HOLDOUT), rows.filter(pl.col("stage") == TRAIN)
        pool = ConversationPool(rows["conversation_id"], messages)
        drawn = pool.contexts(drawn, config.ctx_turns)
        kept, dropped = _cleaned(drawn, holdout, config, natural=natural)
        positives, negatives = kept.filter(pl.col("label")), kept.filter(~pl.col("label"))
        # Positives that caps or duplicates took need no negatives; a whole draw (bar 1) is all there is.
        asked = exact_counts(positives.height, eligible[1], share, config.max_train_rows)[1]
        if natural or bar >= 1.0 or negatives.height >= asked:
            break
        reserve *= 2
    if not natural:
        ones, zeros = exact_counts(positives.height, negatives.height, share, config.max_train_rows)
        kept = pl.concat([one.sort("u", "message_id").head(n) for one, n in ((positives, ones), (negatives, zeros))])
        dropped.append(("surplus", positives.height + negatives.height - kept.height))
    return holdout, kept, pool, [("not_drawn", sum(eligible) - drawn.height), *dropped]


def _drawn_rows(staged: pl.LazyFrame, bar: float, seed: int, *, natural: bool) -> pl.DataFrame:
    below = pl.col("u") < bar
    into_train = below if natural else pl.col("label") | below
    return (
        staged.filter(pl.col("stage").is_in([TRAIN, HOLDOUT]))
        .with_columns(u=stable_uniform("message_id", seed))
        .filter((pl.col("stage") == HOLDOUT) | into_train)
        .collect(engine="streaming")
    )


def _cleaned(
    drawn: pl.DataFrame, holdout: pl.DataFrame, config: SignalSetConfig, *, natural: bool
) -> tuple[pl.DataFrame, list[tuple[str, int]]]:
    """Drawn training rows without those that share a conversation with the holdout, exceed the cap, or repeat."""
    apart = drawn.join(holdout.select("conversation_id").unique(), on="conversation_id", how="anti")
    capped = cap_per_user(apart, config.user_cap, *([] if natural else ["label"]))
    unique = capped
    if config.duplicates != "keep":
        same = ["label", "prompt_key", "completion", *(["user_id"] if config.duplicates == "per_user" else [])]
        unique = capped.unique(same, keep="first", maintain_order=True)
    steps = [("conversation_in_holdout", drawn, apart), ("user_cap", apart, capped), ("duplicate", capped, unique)]
    return unique, [(name, before.height - after.height) for name, before, after in steps]


def _funnel(counts: dict[tuple[str, bool], int], dropped: list[tuple[str, int]]) -> pl.DataFrame:
    left, rows = sum(counts.values()), []
    early = [
        (step, counts.get((step, True), 0) + counts.get((step, False), 0))
        for step in (PENDING, NOT_OFFERED, ADVERSARIAL, KNOWN_USER, HOLDOUT)
    ]
    for step, n in [*early, *dropped]:
        rows.append((step, left, n, left - n, REASONS[step]))
        left -= n
    return pl.DataFrame(rows, schema=FUNNEL, orient="row")


def _rates(
    config: SignalSetConfig,
    split: Split,
    eligible: tuple[int, int],
    train: pl.DataFrame,
    holdout: pl.DataFrame,
    *,
    natural: bool,
) -> dict[str, Any]:
    positives = int(train["label"].sum())
    negatives = train.height - positives
    note = ""
    if not eligible[0]:
        note = f"no reply of the training period has {config.signal!r}: the train split is empty, the holdout is built"
    elif not train.height:
        share = config.target_positive_rate
        note = f"too few rows for a share of {share}: {eligible[0]} positives, {eligible[1]} negatives"
    return {
        "signal": config.signal,
        "base_rate": eligible[0] / sum(eligible) if sum(eligible) else None,
        "train_positive_rate": positives / train.height if train.height else None,
        "target_positive_rate": config.target_positive_rate,
        "natural_rate_kept": natural,
        "q_pos": positives / eligible[0] if eligible[0] else 0.0,
        "q_neg": negatives / eligible[1] if eligible[1] else 0.0,
        "eligible_positives": eligible[0],
        "eligible_negatives": eligible[1],
        "train_positives": positives,
        "train_negatives": negatives,
        "holdout_rows": holdout.height,
        "holdout_positives": int(holdout["label"].sum()),
        "holdout_start": split.holdout_start.isoformat() if split.holdout_start else None,
        "ctx_turns": config.ctx_turns,
        "note": note,
    }


def _lazy_holdout(rows: pl.DataFrame, pool: ConversationPool, ctx_turns: int) -> pl.LazyFrame:
    def batches(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for part in rows.slice(0, n_rows).iter_slices(ROW_GROUP):
            finished = _finished(pool.contexts(part, ctx_turns), pl.lit(1.0), HOLDOUT)
            finished = finished if predicate is None else finished.filter(predicate)
            yield finished if columns is None else finished.select(columns)

    schema = _finished(pool.contexts(rows.head(0), ctx_turns), pl.lit(1.0), HOLDOUT).schema
    return register_io_source(batches, schema=schema)


def _finished(rows: pl.DataFrame, q: pl.Expr, split: str) -> pl.DataFrame:
    return rows.with_columns(inclusion_probability=q, sample_weight=pl.lit(1.0), split=pl.lit(split)).select(COLUMNS)
