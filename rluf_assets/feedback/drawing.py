"""Drawing the training rows of a signal set: all positives, as many negatives as the target rate asks for.

Negatives come uniformly, or matched: each use case and turn gives the share of negatives that it gives of positives,
so that a model cannot tell the classes apart by topic or by how far the conversation was.

How many rows of each class and stratum are drawn is fixed beforehand, from counts alone: each row of a stratum has the
same probability of being drawn, `inclusion_probability` = drawn / there, whatever its text or its user. Only then are
repeats merged and heavy users thinned, and a row that is kept takes over what it stands for as its `sample_weight`. So
sample_weight / inclusion_probability estimates the live log without bias in every slice of it. Which rows a step took
out is kept, for `rluf trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.duplicates import first_alike
from rluf_assets.feedback.prompts import allocate
from rluf_assets.feedback.sampling import exact_counts, reply_uniform, thinned, uniforms
from rluf_assets.feedback.schemas import MESSAGE_KEY
from rluf_assets.feedback.splits import HOLDOUT, TRAIN
from rluf_assets.feedback.windows import ConversationPool, prompt_keys

_LAST_TURN = 9  # later turns are one stratum
_KEEP = 0x5EED  # who stands for its like is another throw than who is drawn
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


@dataclass(frozen=True)
class Plan:
    """Rows to draw: positives, and negatives of each stratum, with the rows there are."""

    eligible: Eligible
    positives: int
    negatives: Mapping[str, int]
    natural: bool  # the signal is more frequent than the target and keeps its rate

    @property
    def q_pos(self) -> float:
        """How probable each positive is to be drawn."""
        return self.positives / self.eligible.positives if self.eligible.positives else 0.0

    @property
    def q_neg(self) -> dict[str, float]:
        """How probable each negative of a stratum is to be drawn."""
        there = {name: zeros for name, (_, zeros) in self.eligible.by_stratum.items() if zeros}
        return {name: self.negatives.get(name, 0) / zeros for name, zeros in there.items()}


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


def plan_draw(eligible: Eligible, config: SignalSetConfig) -> Plan:
    """How many rows of each class and stratum are drawn: positives are exactly the target share of them."""
    ones, zeros, target, most = (
        eligible.positives,
        eligible.negatives,
        config.target_positive_rate,
        config.max_train_rows,
    )
    there = {name: zero for name, (_, zero) in eligible.by_stratum.items()}
    natural = eligible.rows > 0 and ones / eligible.rows >= target
    if natural:
        rows = min(eligible.rows, most)
        kept = round(ones * rows / eligible.rows)
        left = min(zeros, rows - kept)
        return Plan(eligible, kept, allocate(there, left, {}) if left else {}, natural)
    kept, wanted = exact_counts(ones, zeros, target, most)
    spread = (
        allocate({name: one for name, (one, _) in eligible.by_stratum.items() if one}, wanted, {}) if wanted else {}
    )
    quota = {name: min(spread.get(name, 0), zero) for name, zero in there.items()}
    # What a stratum lacks comes from the others, in proportion to what they have left.
    room = {name: zero - quota[name] for name, zero in there.items() if zero > quota[name]}
    lacking = wanted - sum(quota.values())
    more = allocate(room, lacking, {}) if lacking else {}
    return Plan(eligible, kept, {name: n + more.get(name, 0) for name, n in quota.items()}, natural)


def draw(
    possible: Callable[[float], pl.LazyFrame], messages: pl.LazyFrame, config: SignalSetConfig, seed: int, plan: Plan
) -> Drawn:
    """Draw what is planned, then merge repeats and thin heavy users.

    `possible` gives the staged replies that can be drawn where no negative's number is above the given bar.
    """
    rows = _drawn_rows(possible, plan, seed)
    holdout, drawn = rows.filter(pl.col("stage") == HOLDOUT), rows.filter(pl.col("stage") == TRAIN)
    pool = ConversationPool(rows["conversation_id"], messages)
    drawn = pool.contexts(drawn, config.ctx_turns)
    drawn = drawn.with_columns(v=reply_uniform(seed ^ _KEEP), sample_weight=pl.lit(1.0))
    result = Drawn(holdout, drawn, pool, [("not_drawn", plan.eligible.rows - drawn.height)])
    _merge_repeats(result, config)
    _step(result, "user_cap", _capped(result.train, config.user_cap, seed ^ _KEEP))
    return result


def _drawn_rows(possible: Callable[[float], pl.LazyFrame], plan: Plan, seed: int) -> pl.DataFrame:
    """The holdout, and of each class and stratum the planned number of rows: those with the lowest numbers."""
    q_neg, reach = plan.q_neg, 1.0
    numbers = pl.int_range(pl.len()).over("stage", "label", pl.when("label").then(pl.lit("")).otherwise("stratum"))
    quota = pl.col("stratum").replace_strict(dict(plan.negatives) or {"": 0}, default=0, return_dtype=pl.Int64)
    while True:  # the second time only where fewer numbers lie below a bar than in a billion draws
        bars = {name: _bar(q, plan.negatives.get(name, 0), reach) for name, q in q_neg.items()}
        bar = pl.col("stratum").replace_strict(bars or {"": 0.0}, default=0.0, return_dtype=pl.Float64)
        rows = (
            possible(max(bars.values(), default=0.0))
            .filter(pl.col("stage").is_in([TRAIN, HOLDOUT]))
            .with_columns(u=reply_uniform(seed))
            .filter((pl.col("stage") == HOLDOUT) | pl.col("label") | (pl.col("u") < bar))
            .collect(engine="streaming")
            .sort("u", *MESSAGE_KEY)
        )
        into_train = numbers < pl.when("label").then(plan.positives).otherwise(quota)
        rows = rows.filter((pl.col("stage") == HOLDOUT) | into_train)
        found = rows.filter(pl.col("stage") == TRAIN).height
        if found == plan.positives + sum(plan.negatives.values()) or min(bars.values(), default=1.0) >= 1.0:
            return rows.sort("created_at", *MESSAGE_KEY)
        reach *= 4


def _bar(q: float, rows: int, reach: float) -> float:
    """A number below which the `rows` lowest of uniform numbers lie, but for one draw in a billion (at reach 1)."""
    return min(1.0, q * (1 + reach * (6 * rows**0.5 + 12) / rows)) if rows else 0.0


def _merge_repeats(result: Drawn, config: SignalSetConfig) -> None:
    """One row of those alike stands for all of them; which one is by chance, so that no kind of row gains."""
    if config.duplicates == "keep" or result.train.is_empty():
        for name in ("duplicate", "near_duplicate"):
            _step(result, name, result.train)
        return
    own = ["user_id"] if config.duplicates == "per_user" else []
    scope = ["label", "stratum", "use_case", *own]
    keyed = result.train.with_columns(prompt_keys(result.train["prompt"]))
    _step(result, "duplicate", _one_of_each(keyed, [*scope, "prompt_key", "completion"]).drop("prompt_key"))
    kept = result.train
    if config.near_duplicate is not None:
        asked = pl.col("prompt").list.last().struct.field("content")
        texts = kept.select(pl.format("{}\n{}", asked, "completion")).to_series()
        first = first_alike(texts, kept.select(pl.struct(scope).hash()).to_series(), config.near_duplicate)
        kept = _one_of_each(kept.with_columns(first=pl.Series(first)), ["first"]).drop("first")
    _step(result, "near_duplicate", kept)


def _one_of_each(rows: pl.DataFrame, alike: list[str]) -> pl.DataFrame:
    summed = rows.with_columns(pl.col("sample_weight").sum().over(alike))
    nth = pl.struct("v", *MESSAGE_KEY).rank("ordinal").over(alike)
    return summed.filter(nth == 1)


def _capped(rows: pl.DataFrame, cap: int, seed: int) -> pl.DataFrame:
    """At most `cap` rows of each user and label, which together weigh what all of them did."""
    of_one = ["user_id", "label"]
    over = pl.len().over(of_one) > cap
    parts = [rows.filter(~over)]
    for (user, label), part in rows.filter(over).group_by(of_one, maintain_order=True):
        start = float(uniforms(pl.Series([f"{user}/{label}"]), seed)[0])
        weights = thinned(part["sample_weight"].to_numpy(), part["v"].to_numpy(), cap, start)
        parts.append(part.with_columns(sample_weight=pl.Series(weights)).filter(pl.col("sample_weight") > 0))
    return pl.concat(parts)


def _step(result: Drawn, name: str, kept: pl.DataFrame) -> None:
    gone = result.train.join(kept, on=MESSAGE_KEY, how="anti").select("message_id", step=pl.lit(name))
    result.steps.append((name, gone.height))
    result.dropped = pl.concat([result.dropped, gone.cast(DROPPED)])  # type: ignore[arg-type]
    result.train = kept.sort("created_at", *MESSAGE_KEY)
