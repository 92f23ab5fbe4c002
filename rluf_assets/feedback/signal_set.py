"""The signal set: replies with one signal's label, upsampled for training, and a later holdout at the natural rate.

Two streaming passes over the replies without text (count, then draw), one over the messages of the drawn rows. All
positives of the training period are kept and negatives drawn (`drawing.py`) until positives are exactly the target
share (RLUF: 0.1% -> 10%); how probable each row was to get in is recorded, so that live rates can be had back exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.drawing import Drawn, Eligible, draw, inclusion, stratum
from rluf_assets.feedback.sampling import stable_uniform
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
    NOT_OFFERED: "the reaction was not offered, or a script reacted: silence says nothing",
    ADVERSARIAL: "user who reacts to nearly everything",
    KNOWN_USER: "in the holdout period, of a user seen before it",
    HOLDOUT: "kept as the holdout, at its natural rate",
    "not_drawn": "negative that the draw left out",
    "conversation_in_holdout": "its conversation is in the holdout",
    "user_cap": "more than user_cap rows of one user",
    "duplicate": "same label, prompt and reply again",
    "near_duplicate": "same label, nearly the same last message and reply again",
    "surplus": "drawn in reserve; not needed for the target rate",
}
ROW_GROUP = 50_000  # holdout rows whose contexts are built at a time; fixed, so that files do not vary with threads


@dataclass(frozen=True)
class SignalSet:
    """Training rows, holdout rows, the funnel (rows per step, adding up) and the rates to undo the sampling with.

    `dropped` names the drawn rows that a later step took out (message_id, step).

    The holdout can be far larger than the training set: it is lazy, its contexts are built in batches when it is
    collected or sunk.
    """

    train: pl.DataFrame
    holdout: pl.LazyFrame
    funnel: pl.DataFrame
    rates: dict[str, Any]
    dropped: pl.DataFrame

    def _repr_html_(self) -> str:
        return f"<p>{self.rates}</p>{self.funnel._repr_html_()}"


def build_signal_set(replies: pl.LazyFrame, messages: pl.LazyFrame, config: SignalSetConfig, *, seed: int) -> SignalSet:
    """Build the set of `config.signal` from validated replies and the accepted messages of their conversations.

    A signal more frequent than the target keeps its natural rate. Without a positive in the training period the train
    split is empty (`rates["note"]` says so) and the holdout is still built. Raises ConfigError for an unknown signal.
    """
    require_signal(replies, config.signal)
    split = split_users(replies, config, seed)
    found = _staged(replies, config, split).group_by("stage", "label", "stratum").len().collect(engine="streaming")
    counts = dict(found.group_by("stage").agg(pl.col("len").sum()).iter_rows())
    eligible = _eligible(found)
    natural = eligible.rows > 0 and eligible.positives / eligible.rows >= config.target_positive_rate
    # Users are looked up for those rows only that can be drawn.
    possible = partial(_possible, replies, config, split, seed)
    drawn = draw(possible, messages, config, seed, eligible, natural=natural)
    q_pos, q_neg = inclusion(drawn.train, eligible)
    rates = _rates(config, split, eligible, drawn, q_pos, q_neg, natural=natural)
    by_stratum = (
        pl.col("stratum").replace_strict(q_neg, default=None, return_dtype=pl.Float64) if q_neg else pl.lit(0.0)
    )
    q = pl.when("label").then(q_pos).otherwise(by_stratum).cast(pl.Float64)
    train = _finished(drawn.train.sort("created_at", "message_id"), q, TRAIN)
    holdout = _lazy_holdout(drawn.holdout, drawn.pool, config.ctx_turns)
    return SignalSet(train, holdout, _funnel(counts, drawn.steps), rates, drawn.dropped)


def _eligible(found: pl.DataFrame) -> Eligible:
    train = found.filter(pl.col("stage") == TRAIN).sort("stratum")
    ones, zeros = pl.col("len").filter("label").sum(), pl.col("len").filter(~pl.col("label")).sum()
    by_stratum = train.group_by("stratum", maintain_order=True).agg(ones=ones, zeros=zeros)
    return Eligible({name: (one, zero) for name, one, zero in by_stratum.iter_rows()} or {"all": (0, 0)})


def _staged(replies: pl.LazyFrame, config: SignalSetConfig, split: Split) -> pl.LazyFrame:
    label = pl.col(label_column(config.signal))
    columns = [*COLUMNS[:7], "status"]
    rows = split.attach(replies.select(*columns, label))
    return rows.with_columns(stage=split.stage(label), label=label == 1, stratum=stratum(config)).select(
        *COLUMNS[:7], "label", "stage", "stratum"
    )


def _possible(replies: pl.LazyFrame, config: SignalSetConfig, split: Split, seed: int, bar: float) -> pl.LazyFrame:
    """Staged replies of which none that is drawn at `bar` lacks: positives, low numbers, and the holdout period."""
    positive = pl.col(label_column(config.signal)) == 1
    return _staged(replies.filter(positive | split.late() | (stable_uniform("message_id", seed) < bar)), config, split)


def _funnel(counts: dict[str, int], dropped: list[tuple[str, int]]) -> pl.DataFrame:
    left, rows = sum(counts.values()), []
    early = [(step, counts.get(step, 0)) for step in (PENDING, NOT_OFFERED, ADVERSARIAL, KNOWN_USER, HOLDOUT)]
    for step, n in [*early, *dropped]:
        rows.append((step, left, n, left - n, REASONS[step]))
        left -= n
    return pl.DataFrame(rows, schema=FUNNEL, orient="row")


def _rates(
    config: SignalSetConfig, split: Split, eligible: Eligible, drawn: Drawn, q_pos: float, q_neg: dict[str, float],
    *, natural: bool,
) -> dict[str, Any]:  # fmt: skip
    train, ones, zeros = drawn.train, eligible.positives, eligible.negatives
    positives = int(train["label"].sum())
    negatives = train.height - positives
    note = ""
    if not ones:
        note = f"no reply of the training period has {config.signal!r}: the train split is empty, the holdout is built"
    elif not train.height:
        note = f"too few rows for a share of {config.target_positive_rate}: {ones} positives, {zeros} negatives"
    strata = {
        name: {"positives": one, "negatives": zero, "q_neg": q_neg.get(name)}
        for name, (one, zero) in eligible.by_stratum.items()
    }
    return {
        "signal": config.signal,
        "base_rate": ones / eligible.rows if eligible.rows else None,
        "train_positive_rate": positives / train.height if train.height else None,
        "target_positive_rate": config.target_positive_rate,
        "natural_rate_kept": natural,
        "negatives": config.negatives,
        "q_pos": q_pos,
        "q_neg": negatives / zeros if zeros else 0.0,
        "eligible_positives": ones,
        "eligible_negatives": zeros,
        "train_positives": positives,
        "train_negatives": negatives,
        "holdout_rows": drawn.holdout.height,
        "holdout_positives": int(drawn.holdout["label"].sum()),
        "holdout_start": split.holdout_start.isoformat() if split.holdout_start else None,
        "ctx_turns": config.ctx_turns,
        "note": note,
        # Matched negatives have an inclusion probability per stratum: live odds = odds * q_neg of the stratum / q_pos.
        **({"strata": strata} if config.negatives == "matched" else {}),
    }


def _lazy_holdout(rows: pl.DataFrame, pool: ConversationPool, ctx_turns: int) -> pl.LazyFrame:
    def batches(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = rows.slice(0, n_rows)
        places = pool.places(wanted)
        for start in range(0, wanted.height, ROW_GROUP):
            part, where = wanted.slice(start, ROW_GROUP), places.slice(start, ROW_GROUP)
            finished = _finished(pool.texts(part, where, ctx_turns), pl.lit(1.0), HOLDOUT)
            finished = finished if predicate is None else finished.filter(predicate)
            yield finished if columns is None else finished.select(columns)

    schema = _finished(pool.contexts(rows.head(0), ctx_turns), pl.lit(1.0), HOLDOUT).schema
    return register_io_source(batches, schema=schema)


def _finished(rows: pl.DataFrame, q: pl.Expr, split: str) -> pl.DataFrame:
    return rows.with_columns(inclusion_probability=q, sample_weight=pl.lit(1.0), split=pl.lit(split)).select(COLUMNS)
