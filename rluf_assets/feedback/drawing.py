"""Drawing the training rows of a signal set: all positives, as many negatives as the target rate asks for.

Negatives come uniformly, or matched: each use case and turn gives the share of negatives that it gives of positives,
so that a model cannot tell the classes apart by topic or by how far the conversation was. Which rows a step took out
is kept, for `rluf trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.duplicates import near_duplicates
from rluf_assets.feedback.prompts import allocate
from rluf_assets.feedback.sampling import cap_per_user, exact_counts, stable_uniform
from rluf_assets.feedback.splits import HOLDOUT, TRAIN
from rluf_assets.feedback.windows import ConversationPool, prompt_keys

# Drawn beyond need, for what caps and duplicates will take; doubled until it is enough.
_RESERVE = 1.25
_LAST_TURN = 9  # later turns are one stratum
DROPPED = {"message_id": pl.String(), "step": pl.String()}


@dataclass(frozen=True)
class Eligible:
    """Rows of the training period by stratum: (positives, negatives)."""

    by_stratum: Mapping[str, tuple[int, int]]

    @property
    def positives(self) -> int:
        return sum(one for one, _ in self.by_stratum.values())

    @property
    def negatives(self) -> int:
        return sum(zero for _, zero in self.by_stratum.values())

    @property
    def rows(self) -> int:
        return self.positives + self.negatives


@dataclass
class Drawn:
    """Holdout (no text yet), train, their conversations' text, rows per sampling step, and which rows those were."""

    holdout: pl.DataFrame
    train: pl.DataFrame
    pool: ConversationPool
    steps: list[tuple[str, int]] = field(default_factory=list)
    dropped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DROPPED))


def stratum(config: SignalSetConfig) -> pl.Expr:
    """Expression: what negatives are matched on; one stratum where they are drawn uniformly."""
    if config.negatives == "uniform":
        return pl.lit("all")
    return pl.format(
        "{} / turn {}", pl.col("use_case").fill_null("unknown"), pl.min_horizontal("turn_index", _LAST_TURN)
    )


def draw(
    possible: Callable[[float], pl.LazyFrame],
    messages: pl.LazyFrame,
    config: SignalSetConfig,
    seed: int,
    eligible: Eligible,
    *,
    natural: bool,
) -> Drawn:
    """Draw, clean, and draw again with more reserve if caps and duplicates left too few.

    `possible` gives the staged replies that can be drawn where no bar is higher than the given one.
    """
    share, reserve = config.target_positive_rate, _RESERVE
    wanted = exact_counts(eligible.positives, eligible.negatives, share, config.max_train_rows)[1]
    while True:
        bars = _bars(eligible, config, wanted, reserve, natural=natural)
        rows = _drawn_rows(possible(max(bars.values())), bars, seed, natural=natural).sort("created_at", "message_id")
        holdout, drawn = rows.filter(pl.col("stage") == HOLDOUT), rows.filter(pl.col("stage") == TRAIN)
        pool = ConversationPool(rows["conversation_id"], messages)
        drawn = pool.contexts(drawn, config.ctx_turns)
        result = Drawn(holdout, drawn, pool, [("not_drawn", eligible.rows - drawn.height)])
        _clean(result, config, natural=natural)
        positives = result.train.filter(pl.col("label"))
        negatives = result.train.filter(~pl.col("label"))
        # Positives that caps or duplicates took need no negatives; a whole draw (bar 1) is all there is.
        asked = exact_counts(positives.height, eligible.negatives, share, config.max_train_rows)[1]
        if natural or min(bars.values()) >= 1.0 or negatives.height >= asked:
            break
        reserve *= 2
    if not natural:
        ones, zeros = exact_counts(positives.height, negatives.height, share, config.max_train_rows)
        kept = pl.concat([positives.sort("u", "message_id").head(ones), _matched(positives, negatives, zeros)])
        _step(result, "surplus", kept)
    return result


def inclusion(train: pl.DataFrame, eligible: Eligible) -> tuple[float, dict[str, float]]:
    """How probable a positive, and a negative of each stratum, was to be in `train`."""
    negatives = dict(train.filter(~pl.col("label"))["stratum"].value_counts().iter_rows())
    q_neg = {name: negatives.get(name, 0) / zeros for name, (_, zeros) in eligible.by_stratum.items() if zeros}
    ones = train.filter("label").height
    return (ones / eligible.positives if eligible.positives else 0.0), q_neg


def _bars(
    eligible: Eligible, config: SignalSetConfig, wanted: int, reserve: float, *, natural: bool
) -> dict[str, float]:
    """Per stratum: rows whose number lies below this are drawn."""
    if natural:
        return dict.fromkeys(eligible.by_stratum, min(1.0, config.max_train_rows / eligible.rows))
    ones = {name: one for name, (one, _) in eligible.by_stratum.items() if one}
    quota = allocate(ones, wanted, {}) if ones else {}
    # A stratum that has too few leaves its share to the others: all draw as much more.
    short = sum(max(0, quota.get(name, 0) - zeros) for name, (_, zeros) in eligible.by_stratum.items())
    spread = short / max(1, eligible.negatives)
    return {
        name: min(1.0, reserve * (quota.get(name, 0) / max(1, zeros) + spread))
        for name, (_, zeros) in eligible.by_stratum.items()
    }


def _drawn_rows(staged: pl.LazyFrame, bars: Mapping[str, float], seed: int, *, natural: bool) -> pl.DataFrame:
    one_bar = next(iter(bars.values())) if len(bars) == 1 else None
    bar = pl.col("stratum").replace_strict(dict(bars), default=0.0) if one_bar is None else pl.lit(one_bar)
    below = pl.col("u") < bar
    into_train = below if natural else pl.col("label") | below
    return (
        staged.filter(pl.col("stage").is_in([TRAIN, HOLDOUT]))
        .with_columns(u=stable_uniform("message_id", seed))
        .filter((pl.col("stage") == HOLDOUT) | into_train)
        .collect(engine="streaming")
    )


def _matched(positives: pl.DataFrame, negatives: pl.DataFrame, n: int) -> pl.DataFrame:
    """`n` negatives: each stratum's share of the positives, lowest numbers first; what it lacks from the others."""
    ordered = negatives.sort("u", "message_id")
    ones = dict(positives["stratum"].value_counts(sort=True).sort("stratum").iter_rows())
    quota = allocate(ones, n, {}) if ones and n else {}
    nth = pl.int_range(pl.len()).over("stratum")
    within = nth < pl.col("stratum").replace_strict(quota, default=0, return_dtype=pl.Int64)
    # Stable: rows within their stratum's quota first, then the rest, each in the order of their numbers.
    return (
        ordered.with_columns(within=within).sort("within", descending=True, maintain_order=True).drop("within").head(n)
    )


def _clean(result: Drawn, config: SignalSetConfig, *, natural: bool) -> None:
    """Leave out rows that share a conversation with the holdout, exceed the cap, or repeat."""
    in_holdout = result.holdout.select("conversation_id").unique()
    _step(result, "conversation_in_holdout", result.train.join(in_holdout, on="conversation_id", how="anti"))
    _step(result, "user_cap", cap_per_user(result.train, config.user_cap, *([] if natural else ["label"])))
    kept, own = result.train, ["user_id"] if config.duplicates == "per_user" else []
    if config.duplicates != "keep":
        keyed = kept.with_columns(prompt_keys(kept["prompt"]))
        unique = keyed.unique(["label", "prompt_key", "completion", *own], keep="first", maintain_order=True)
        _step(result, "duplicate", unique.drop("prompt_key"))
        kept = result.train
    if config.duplicates != "keep" and config.near_duplicate is not None and not kept.is_empty():
        asked = pl.col("prompt").list.last().struct.field("content")
        texts = kept.select(pl.format("{}\n{}", asked, "completion"))
        scope = kept.select(pl.struct("label", *own).hash())
        near = near_duplicates(texts.to_series(), scope.to_series(), config.near_duplicate)
        kept = kept.filter(pl.Series(~near))
    _step(result, "near_duplicate", kept)


def _step(result: Drawn, name: str, kept: pl.DataFrame) -> None:
    gone = result.train.join(kept, on="message_id", how="anti").select("message_id", step=pl.lit(name))
    result.steps.append((name, gone.height))
    result.dropped = pl.concat([result.dropped, gone.cast(DROPPED)])  # type: ignore[arg-type]
    result.train = kept
