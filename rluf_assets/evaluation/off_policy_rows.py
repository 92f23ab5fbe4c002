"""From artifacts to off-policy readings and back to a table: which logged rows count, and what is said where none do.

P[signal] is only asked about replies of its holdout, which it never trained on. Arms need no model at all; candidates need
their log-probabilities of logged replies, which only a job can give (`Candidate.logprob`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from rluf_assets.evaluation.off_policy import (
    ArmRows,
    LoggedReplies,
    Measured,
    NotEnoughOverlap,
    OverlapRule,
    OwnReplies,
    Reading,
    read_arms,
    read_replies,
    relative_change,
)
from rluf_assets.evaluation.stats import Array, Estimate
from rluf_assets.feedback.config import AdversarialConfig
from rluf_assets.feedback.schemas import MESSAGE_KEY
from rluf_assets.feedback.splits import adversarial_users

ESTIMATE, NOT_ENOUGH, NOT_MEASURED = "estimate", "not enough overlap", "not measured"
NO_LOGPROBS = "the logs carry no reply_logprob"
SILENT = "the logs carry no assignment_probability or reply_logprob"
OVERLAP = {
    "rows": pl.Int64, "users": pl.Int64, "effective_users": pl.Float64, "effective_events": pl.Float64,
    "largest_user_share": pl.Float64, "largest_weight": pl.Float64, "clipped_share": pl.Float64, "mean_weight": pl.Float64,
}  # fmt: skip
SCHEMA: dict[str, Any] = {
    "kind": pl.String, "name": pl.String, "result": pl.String, "why": pl.String, "against": pl.String,
    **{f"{what}{part}": pl.Float64 for what in ("rate", "change", "residual") for part in ("", "_ci_low", "_ci_high")},
    **OVERLAP,
}  # fmt: skip
_COLUMNS = {"assignment_probability": pl.Float64, "reply_logprob": pl.Float64, "experiment_arm": pl.String}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Frozen):
    """How a logged policy drew its replies. What is not said is not known, and its replies do not count."""

    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    selected_from: int | None = Field(None, ge=1, description="draws that the reply was picked from; 1: shown as drawn")

    @property
    def unusable(self) -> str | None:
        """Why the log-probability is not the chance that the user met this reply; None where it is."""
        if self.temperature is None or self.top_p is None or self.selected_from is None:
            return "temperature, top_p and selected_from of their policy are not all declared"
        if self.selected_from > 1:
            return f"picked from {self.selected_from} draws"
        return "drawn at temperature 0: nothing else could have been said" if self.temperature == 0 else None


class OffPolicyConfig(_Frozen):
    """Which logged replies count, and from when on they say something about another policy."""

    version: ClassVar[str] = "3"
    signal: str = Field("love", description="the graph takes it from signal_set")
    baseline: str = "baseline"
    love_objective: str = "love"
    sampling: dict[str, Sampling] = Field({}, description="policy_version of the logs -> how it drew its replies")
    rule: OverlapRule = OverlapRule()
    max_replies: int = Field(20_000, ge=100, description="logged replies that each candidate is asked about, at most")
    temperature: float = Field(1.0, ge=0, description="of the candidates; the graph takes it from offline_evaluation")
    max_new_tokens: int = Field(48, ge=1, description="the same")
    batch_tokens: int = Field(8192, ge=256)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    adversarial: AdversarialConfig = Field(
        AdversarialConfig(), description="the filter of the signal set, for all arms"
    )


@dataclass(frozen=True)
class Candidate:
    """What P[signal] says of a candidate's own replies, and how to get its log-probabilities of given ones."""

    own: OwnReplies
    logprob: Callable[[pl.DataFrame], Array]


def replies_of(folders: Sequence[Path]) -> pl.LazyFrame:
    """All days of validated replies; days validated before these columns were there have them null."""
    days = pl.concat([pl.scan_parquet(folder / "replies.parquet") for folder in folders], how="diagonal")
    there = days.collect_schema()
    return days.with_columns(pl.lit(None, kind).alias(name) for name, kind in _COLUMNS.items() if name not in there)


def own_replies(scores: pl.DataFrame, prompts: pl.DataFrame, objective: str) -> OwnReplies:
    """Of `offline_evaluation`: the predicted rate per prompt, with the prompt's user and weight."""
    found = (
        scores.filter(pl.col("objective") == objective)
        .group_by("prompt_id")
        .agg(pl.col("live_probability").mean(), pl.col("weight").first().cast(pl.Float64))
        .join(prompts.select("prompt_id", "user_id"), on="prompt_id", how="left")
        .with_columns(pl.coalesce("user_id", "prompt_id"))
        .sort("prompt_id")
    )
    return OwnReplies(*(found[name].to_numpy() for name in ("user_id", "live_probability", "weight")))


def arms_table(replies: pl.LazyFrame, scored: pl.DataFrame, config: OffPolicyConfig) -> list[dict[str, Any]]:
    """A row per arm that the logs name with a probability, against the arm with most users.

    Users who judged nearly everything in one arm are in none, as in an A/B readout; of the holdout they are no part either.
    """
    label = pl.col(f"label_{config.signal}")
    arm, context = pl.col("experiment_arm"), pl.col("use_case").fill_null("unknown")
    exposed = replies.filter(arm.is_not_null(), pl.col("assignment_probability").is_not_null(), label.is_not_null())
    flagged = adversarial_users(replies, config.adversarial, config.signal, exposed)
    rows = (
        exposed.filter(~pl.col("user_id").is_in(flagged.implode()))
        .group_by("user_id", context.alias("context"), arm=arm, probability="assignment_probability")
        .agg(replies=pl.len().cast(pl.Float64), positives=(label == 1).sum().cast(pl.Float64))
        .sort("arm", "user_id", "context", "probability")
        .collect(engine="streaming")
    )
    if rows.is_empty():
        return []
    arms = rows["arm"].unique().sort().to_list()
    in_arms = (
        replies.filter(arm.is_not_null()).select(*MESSAGE_KEY, arm=arm, context=context).collect(engine="streaming")
    )
    held = scored.join(in_arms, on=MESSAGE_KEY)
    predicted = {one: _expected(rows, held, one) for one in arms}
    user, name, probability, count, positives = (
        rows[column].to_numpy() for column in ("user_id", "arm", "probability", "replies", "positives")
    )
    found = ArmRows(user, name, probability, count, positives, predicted)
    readings = read_arms(found, config.rule, confidence=config.confidence)
    against = max(arms, key=lambda one: (rows.filter(arm=one)["user_id"].n_unique(), one))
    return [_row("arm", one, reading, against, readings[against], config) for one, reading in readings.items()]


def _expected(rows: pl.DataFrame, held: pl.DataFrame, arm: str) -> Array:
    """What P[signal] expects of an arm in each row's context: mean over its held-out replies there, else over all of them."""
    mean = pl.col("live_probability").dot("weight") / pl.col("weight").sum()
    own = held.filter(arm=arm)
    of_all = (own if own.height else held).select(mean).item() if held.height else 0.0
    of_context = own.group_by("context").agg(expected=mean)
    return (
        rows.join(of_context, on="context", how="left", maintain_order="left")["expected"].fill_null(of_all).to_numpy()
    )


def logged_rows(
    replies: pl.LazyFrame, scored: pl.DataFrame, holdout: pl.LazyFrame, config: OffPolicyConfig, seed: int
) -> pl.DataFrame | NotEnoughOverlap:
    """Held-out replies with their prompt, log-probability and P[signal]: all with the signal, a sample of the others.

    Not enough overlap where too many have no chance that can be used.
    """
    known = replies.select(*MESSAGE_KEY, "policy_version", "reply_logprob").collect(engine="streaming")
    rows = scored.drop("policy_version", strict=False).join(known, on=MESSAGE_KEY)
    if rows.is_empty():
        return NotEnoughOverlap(("not one held-out reply is among the validated ones",))
    why = {name: one.unusable for name, one in config.sampling.items()}
    undeclared = Sampling().unusable
    rows = rows.with_columns(
        why=pl.when(pl.col("reply_logprob").is_null())
        .then(pl.lit("without a log-probability"))
        .otherwise(
            pl.col("policy_version").replace_strict(why, default=undeclared, return_dtype=pl.String)
            if why
            else pl.lit(undeclared)
        )
    )
    shares = rows.filter(pl.col("why").is_not_null()).group_by("why").agg(pl.col("weight").sum()).sort("weight", "why")
    lost = float(shares["weight"].sum()) / float(rows["weight"].sum())
    if lost > config.rule.max_unusable:
        total = float(rows["weight"].sum())
        told = [f"{weight / total:.0%} of the replies: {reason}" for reason, weight in shares.rows()[::-1]]
        return NotEnoughOverlap(tuple(told))
    usable = rows.filter(pl.col("why").is_null())
    ones, zeros = usable.filter(pl.col("label") == 1), usable.filter(pl.col("label") == 0)
    few = max(config.max_replies - ones.height, 1)
    if zeros.height > few:
        factor = zeros.height / few
        zeros = zeros.sort(MESSAGE_KEY).sample(few, seed=seed).with_columns(pl.col("weight") * factor)
    kept = pl.concat([ones, zeros])
    texts = holdout.select(*MESSAGE_KEY, "prompt", "completion").filter(
        pl.col("message_id").is_in(kept["message_id"].implode())
    )
    return kept.join(texts.collect(engine="streaming"), on=MESSAGE_KEY).sort(MESSAGE_KEY)


def candidates_table(
    rows: pl.DataFrame | NotEnoughOverlap, candidates: Mapping[str, Candidate], config: OffPolicyConfig
) -> list[dict[str, Any]]:
    """A row per candidate, against the baseline."""
    readings = {name: _candidate(rows, candidate, config) for name, candidate in candidates.items()}
    base = readings.get(config.baseline, NotEnoughOverlap((f"there is no candidate {config.baseline}",)))
    return [_row("candidate", name, one, config.baseline, base, config) for name, one in readings.items()]


def _candidate(rows: pl.DataFrame | NotEnoughOverlap, candidate: Candidate, config: OffPolicyConfig) -> Reading:
    if isinstance(rows, NotEnoughOverlap):
        return rows
    if config.temperature == 0:
        return NotEnoughOverlap(("the candidate answers at temperature 0: it says one thing only",))
    logged = LoggedReplies(
        rows["user_id"].to_numpy(),
        *(rows[name].cast(pl.Float64).to_numpy() for name in ("label", "live_probability", "weight")),
    )
    return read_replies(
        logged, candidate.logprob(rows), rows["reply_logprob"].to_numpy(), config.rule, own=candidate.own,
        confidence=config.confidence,
    )  # fmt: skip


def not_measured(names: Iterable[str], why: str, against: str) -> list[dict[str, Any]]:
    """Rows of candidates where nothing was logged to read them from."""
    return [
        {"kind": "candidate", "name": name, "result": NOT_MEASURED, "why": why, "against": against} for name in names
    ]


def _row(
    kind: str, name: str, reading: Reading, against: str, base: Reading, config: OffPolicyConfig
) -> dict[str, Any]:
    overlap = reading.overlap
    found: dict[str, Any] = {"kind": kind, "name": name, "against": against}
    found |= {column: getattr(overlap, column) for column in OVERLAP} if overlap is not None else {}
    if isinstance(reading, NotEnoughOverlap):
        return {**found, "result": NOT_ENOUGH, "why": "; ".join(reading.reasons)}
    change, why = Estimate(None, None, None), ""
    if isinstance(base, Measured):
        change = relative_change(reading, base, confidence=config.confidence)
    elif name != against:
        why = f"{against} has not enough overlap to compare it with"
    figures = {"rate": reading.rate, "change": change, "residual": reading.residual}
    for what, one in figures.items():
        found |= {what: one.value, f"{what}_ci_low": one.low, f"{what}_ci_high": one.high}
    return {**found, "result": ESTIMATE, "why": why}


def table_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The artifact's table: candidates first, in the order given."""
    return pl.DataFrame(list(rows), schema=SCHEMA)


def sentence(table: pl.DataFrame) -> str:
    """What the table says in one sentence."""
    if table.is_empty():
        return f"Not measured: {SILENT}."
    parts = []
    for kind, word in (("candidate", "candidates"), ("arm", "arms of the logs")):
        own = table.filter(kind=kind)
        if own.is_empty():
            continue
        read = own.filter(result=ESTIMATE).height
        if not read and (own["result"] == NOT_MEASURED).all():
            parts.append(f"not one of the {own.height} {word} was measured: {own['why'][0]}")
        else:
            parts.append(f"{read} of {own.height} {word} could be read from the logs")
    told = "; ".join(parts)
    return f"{told[:1].upper()}{told[1:]}."
