"""The signal set: replies with one signal's label, upsampled for training, and a later holdout at the natural rate.

Streaming passes over the replies without text (count, then draw), one over the messages of the drawn rows. All
positives of the training period are drawn, and negatives (`drawing.py`) until positives are exactly the target share
(RLUF: 0.1% -> 10%), counted by `sample_weight`: a row stands for its repeats and for what the user cap left out. A row
stands for sample_weight / inclusion_probability live replies: sums of these give live rates back in every slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.io.plugins import register_io_source

from rluf_assets.errors import DataError
from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.drawing import Drawn, Eligible, Plan, draw, plan_draw, stratum
from rluf_assets.feedback.log_plots import plot_funnel
from rluf_assets.feedback.sampling import reply_uniform
from rluf_assets.feedback.schemas import FUNNEL, label_column
from rluf_assets.feedback.splits import (
    ADVERSARIAL,
    ESTABLISHED,
    HOLDOUT,
    IN_DOUBT,
    KEPT_OUT,
    KNOWN_USER,
    NOT_OFFERED,
    PENDING,
    PROMPT_USER,
    TRAIN,
    Split,
    require_signal,
    split_users,
)  # fmt: skip
from rluf_assets.feedback.windows import ConversationPool, prompt_keys

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = [
    "message_id", "conversation_id", "user_id", "created_at", "policy_version", "use_case", "turn_index", "prompt",
    "completion", "label", "inclusion_probability", "sample_weight", "split", "user_group", "text_in_train",
]  # fmt: skip
OVERLAP = "conversation_in_holdout"
REASONS = {
    PENDING: "attribution window still open",
    NOT_OFFERED: "the reaction was not offered: silence says nothing",
    IN_DOUBT: "the label is unknown: a reaction to the reply was set aside, or a script reacted",
    ADVERSARIAL: "on days on which its user judged nearly everything",
    PROMPT_USER: "of a user of the fixed evaluation prompts",
    KNOWN_USER: "in the holdout period, of a user seen before it who is not kept out of training",
    KEPT_OUT: "before the holdout period, of a user kept out of training for the holdout",
    HOLDOUT: "kept as the holdout, at its natural rate",
    OVERLAP: "its conversation is in the holdout",
    "not_drawn": "not in the draw: negatives beyond the target rate, rows beyond max_train_rows",
    "duplicate": "same label, prompt and reply again: a like row stands for it",
    "near_duplicate": "same label, nearly the same last message and reply again: a like row stands for it",
    "user_cap": "more than user_cap rows of one user and label: the others stand for it",
}
ROW_GROUP = 50_000  # holdout rows whose contexts are built at a time; fixed, so that files do not vary with threads


@dataclass(frozen=True)
class SignalSet:
    """Training rows, holdout rows, the funnel (rows per step, adding up) and the rates to undo the sampling with.

    `dropped` names the drawn rows that a later step merged into others (message_id, step).

    The holdout can be far larger than the training set: it is lazy, its contexts are built in batches when it is
    collected or sunk.
    """

    train: pl.DataFrame
    holdout: pl.LazyFrame
    funnel: pl.DataFrame
    rates: dict[str, Any]
    dropped: pl.DataFrame

    def plot_funnel(self) -> go.Figure:
        """Rows left after each step, and why the others went."""
        return plot_funnel(self.funnel, self.rates["signal"])

    def _repr_html_(self) -> str:
        return f"<p>{self.rates}</p>{self.funnel._repr_html_()}"


def build_signal_set(
    replies: pl.LazyFrame | pl.DataFrame,
    messages: pl.LazyFrame | pl.DataFrame,
    config: SignalSetConfig,
    *,
    seed: int = 0,
    prompt_users: pl.Series | None = None,
) -> SignalSet:
    """Build the set of `config.signal` from validated replies and the accepted messages of their conversations.

    `prompt_users`, those of the fixed evaluation prompts (`splits.evaluation_users`), stay out of training.
    A signal more frequent than the target keeps its natural rate. Raises ConfigError for an unknown signal, DataError
    where there are fewer positives to train on than `min_positives`, with what became of all replies.
    """
    replies, messages = replies.lazy(), messages.lazy()
    require_signal(replies, config.signal)
    split = split_users(replies, config, seed, prompt_users)
    overlap = _overlap(_staged(replies, config, split))
    staged = _staged(replies, config, split, overlap)
    found = staged.group_by("stage", "label", "stratum").len().collect(engine="streaming")
    counts = dict(found.group_by("stage").agg(pl.col("len").sum()).iter_rows())
    plan = plan_draw(_eligible(found), config)
    _require_positives(plan, counts, config)
    # Users are looked up for those rows only that can be drawn.
    possible = partial(_possible, replies, config, split, overlap, seed)
    drawn = draw(possible, messages, config, seed, plan)
    q_neg = pl.col("stratum").replace_strict(plan.q_neg or {"": 0.0}, default=None, return_dtype=pl.Float64)
    train = drawn.train.with_columns(user_group=pl.lit(None, pl.String), text_in_train=pl.lit(None, pl.Boolean))
    train = _finished(train, pl.when("label").then(plan.q_pos).otherwise(q_neg), TRAIN)
    holdout = _lazy_holdout(drawn.holdout, drawn.pool, config.ctx_turns, _texts(train))
    rates = _rates(config, split, plan, drawn)
    return SignalSet(train, holdout, _funnel(counts, drawn.steps), rates, drawn.dropped)


def _require_positives(plan: Plan, counts: dict[str, int], config: SignalSetConfig) -> None:
    there = plan.eligible.positives
    if there >= config.min_positives and plan.positives:
        return
    became = "; ".join(f"{counts[step]} {step} ({REASONS[step]})" for step in REASONS if counts.get(step))
    raise DataError(
        f"signal set of {config.signal!r}: {there} positives and {plan.eligible.negatives} negatives to train on, expected "
        f"at least {config.min_positives} positives and enough of both for a share of {config.target_positive_rate}. "
        f"Of {sum(counts.values())} replies the others are: {became or 'none'}. Bring in more days, mend what makes labels "
        "unknown, or choose a more frequent signal; min_positives lowers the bar."
    )


def _overlap(staged: pl.LazyFrame) -> pl.Series:
    """Conversations with rows on both sides: those of several users."""
    sides = {side: staged.filter(pl.col("stage") == side).select("conversation_id") for side in (TRAIN, HOLDOUT)}
    both = sides[HOLDOUT].unique().join(sides[TRAIN], on="conversation_id", how="semi")
    return both.collect(engine="streaming").to_series()


def _eligible(found: pl.DataFrame) -> Eligible:
    train = found.filter(pl.col("stage") == TRAIN).sort("stratum")
    ones, zeros = pl.col("len").filter("label").sum(), pl.col("len").filter(~pl.col("label")).sum()
    by_stratum = train.group_by("stratum", maintain_order=True).agg(ones=ones, zeros=zeros)
    return Eligible({name: (one, zero) for name, one, zero in by_stratum.iter_rows()} or {"all": (0, 0)})


def _staged(
    replies: pl.LazyFrame, config: SignalSetConfig, split: Split, overlap: pl.Series | None = None
) -> pl.LazyFrame:
    label = pl.col(label_column(config.signal))
    rows = split.attach(replies.select(*COLUMNS[:7], "status", "reactions_shown", label))
    rows = rows.with_columns(
        stage=split.stage(label), label=label == 1, stratum=stratum(config), user_group=split.user_group()
    )
    if overlap is not None and not overlap.is_empty():
        straddles = (pl.col("stage") == TRAIN) & pl.col("conversation_id").is_in(overlap.implode())
        rows = rows.with_columns(stage=pl.when(straddles).then(pl.lit(OVERLAP)).otherwise("stage"))
    return rows.select(*COLUMNS[:7], "label", "stage", "stratum", "user_group")


def _possible(
    replies: pl.LazyFrame, config: SignalSetConfig, split: Split, overlap: pl.Series, seed: int, bar: float
) -> pl.LazyFrame:
    """Staged replies of which none that is drawn at `bar` lacks: positives, low numbers, and the holdout period."""
    positive = pl.col(label_column(config.signal)) == 1
    could = replies.filter(positive | split.late() | (reply_uniform(seed) < bar))
    return _staged(could, config, split, overlap)


def _funnel(counts: dict[str, int], dropped: list[tuple[str, int]]) -> pl.DataFrame:
    left, rows = sum(counts.values()), []
    early = [(step, counts.get(step, 0)) for step in list(REASONS)[: list(REASONS).index("not_drawn")]]
    for step, n in [*early, *dropped]:
        rows.append((step, left, n, left - n, REASONS[step]))
        left -= n
    return pl.DataFrame(rows, schema=FUNNEL, orient="row")


def _texts(rows: pl.DataFrame) -> pl.Series:
    """A number per row, equal for equal prompt and reply."""
    keyed = rows.select("completion", prompt_keys(rows["prompt"]))
    return keyed.select(pl.struct("prompt_key", "completion").hash()).to_series()


def _rates(config: SignalSetConfig, split: Split, plan: Plan, drawn: Drawn) -> dict[str, Any]:
    train, established = drawn.train, drawn.holdout.filter(pl.col("user_group") == ESTABLISHED)
    ones, zeros = plan.eligible.positives, plan.eligible.negatives
    negatives, q_neg = sum(plan.negatives.values()), plan.q_neg
    strata = {
        name: {"positives": one, "negatives": zero, "q_neg": q_neg.get(name)}
        for name, (one, zero) in plan.eligible.by_stratum.items()
    }
    return {
        "signal": config.signal,
        "base_rate": ones / plan.eligible.rows,
        # Of what the rows weigh: repeats, and rows beyond the user cap, are in the weight of those that stand for them.
        "train_positive_rate": plan.positives / (plan.positives + negatives),
        "target_positive_rate": config.target_positive_rate,
        "natural_rate_kept": plan.natural,
        "negatives": config.negatives,
        "q_pos": plan.q_pos,
        "q_neg": negatives / zeros if zeros else 0.0,
        "eligible_positives": ones,
        "eligible_negatives": zeros,
        "train_positives": int(train["label"].sum()),
        "train_negatives": train.height - int(train["label"].sum()),
        "largest_weight": train["sample_weight"].max(),
        "holdout_rows": drawn.holdout.height,
        "holdout_positives": int(drawn.holdout["label"].sum()),
        "holdout_established_rows": established.height,
        "holdout_established_positives": int(established["label"].sum()),
        "holdout_start": split.holdout_start.isoformat() if split.holdout_start else None,
        "ctx_turns": config.ctx_turns,
        # Matched negatives have an inclusion probability per stratum: live odds = odds * q_neg of the stratum / q_pos.
        **({"strata": strata} if config.negatives == "matched" else {}),
    }


def _lazy_holdout(rows: pl.DataFrame, pool: ConversationPool, ctx_turns: int, learned: pl.Series) -> pl.LazyFrame:
    learned = learned.unique()

    def batches(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = rows.slice(0, n_rows)
        places = pool.places(wanted)
        for start in range(0, wanted.height, ROW_GROUP):
            part, where = wanted.slice(start, ROW_GROUP), places.slice(start, ROW_GROUP)
            texts = pool.texts(part, where, ctx_turns)
            texts = texts.with_columns(text_in_train=_texts(texts).is_in(learned.implode()))
            finished = _finished(texts, pl.lit(1.0), HOLDOUT)
            finished = finished if predicate is None else finished.filter(predicate)
            yield finished if columns is None else finished.select(columns)

    rows = rows.with_columns(sample_weight=pl.lit(1.0))
    nothing = pool.contexts(rows.head(0), ctx_turns).with_columns(text_in_train=pl.lit(None, pl.Boolean))
    schema = _finished(nothing, pl.lit(1.0), HOLDOUT).schema
    return register_io_source(batches, schema=schema)


def _finished(rows: pl.DataFrame, q: pl.Expr, split: str) -> pl.DataFrame:
    return rows.with_columns(inclusion_probability=q.cast(pl.Float64), split=pl.lit(split)).select(COLUMNS)
