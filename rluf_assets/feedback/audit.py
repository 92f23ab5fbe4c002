"""The signal audit (RLUF, stage 1): which signal has volume, goes with users coming back, and means one thing.

One row per signal. Two streaming passes over the replies without text, one over the users' messages that follow a
capped sample of reacted and other replies. Replies of days on which their user judged nearly everything, by any of the
signals that mean something, are counted, then left out of the estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.feedback.adversarial import with_condemned
from rluf_assets.feedback.audit_report import SignalAudit, offered
from rluf_assets.feedback.config import ACTS, AdversarialConfig, SignalAuditConfig
from rluf_assets.feedback.lexicon import sentiment
from rluf_assets.feedback.sampling import reply_uniform
from rluf_assets.feedback.schemas import label_column
from rluf_assets.feedback.splits import require_signal, user_table
from rluf_assets.feedback.statistics import NOTHING, Estimate, correlation, partial_correlation, proportion, ratio

# Replies per signal, and others, whose next message is read.
_NEXT_MESSAGES = 20_000


def audit_signals(
    replies: pl.LazyFrame | pl.DataFrame,
    messages: pl.LazyFrame | pl.DataFrame,
    config: SignalAuditConfig,
    *,
    seed: int = 0,
    quarantine: pl.LazyFrame | None = None,
) -> SignalAudit:
    """SignalAudit every configured signal. Without times, correlations with returning are null, and said to be.

    `quarantine`: rows that the contract set aside, of which scripted bursts are counted.
    """
    replies, messages = replies.lazy(), messages.lazy()
    for signal in config.signals:
        require_signal(replies, signal)
    labelled = with_condemned(replies, user_table(replies, _judged(config))[1])
    user_days = _user_days(labelled, config)
    honest = user_days.filter(~pl.col("adversarial")).group_by("user_id", maintain_order=True)
    users = honest.agg(pl.col(name).sum() for signal in config.signals for name in (signal, offered(signal)))
    use_cases = _use_cases(labelled, config)
    returns = _Returns(user_days, config)
    positives = {signal: int(user_days[signal].sum()) for signal in config.signals}
    followed = _next_messages(replies, messages, config, positives, seed)
    scripted = _scripted(quarantine)
    rows = [
        _signal_row(signal, users, use_cases, returns, followed, config) | {"scripted": scripted.get(signal, 0)}
        for signal in config.signals
    ]
    counts = [*config.signals, *map(offered, config.signals)]
    days = user_days.group_by("day").agg(pl.col(counts).sum()).sort("day")
    cases = use_cases.select("use_case", "replies", *counts).sort("use_case")
    return SignalAudit(pl.DataFrame(rows, infer_schema_length=None), cases, days)


def _judged(config: SignalAuditConfig) -> AdversarialConfig:
    """The rule by all candidates that say liked or disliked, where it names no signals of its own."""
    if config.adversarial.signals is not None:
        return config.adversarial
    meant = tuple(s for s in config.signals if config.polarity[s] and s not in ACTS)
    return config.adversarial.model_copy(
        update={"signals": meant, "enabled": config.adversarial.enabled and bool(meant)}
    )


def _scripted(quarantine: pl.LazyFrame | None) -> dict[str, int]:
    """Reactions of scripted bursts, by signal."""
    if quarantine is None:
        return {}
    bursts = quarantine.filter(pl.col("defect") == "scripted_burst")
    named = bursts.select(signal=pl.col("row").str.json_path_match("$.signal")).group_by("signal").len()
    return dict(named.collect(engine="streaming").iter_rows())


def _set(signal: str) -> pl.Expr:
    return (pl.col(label_column(signal)) == 1).fill_null(False)


def _offered(config: SignalAuditConfig) -> dict[str, pl.Expr]:
    return {offered(signal): pl.col(label_column(signal)).is_not_null().sum() for signal in config.signals}


def _user_days(labelled: pl.LazyFrame, config: SignalAuditConfig) -> pl.DataFrame:
    days = labelled.group_by("user_id", pl.col("created_at").dt.date().alias("day")).agg(
        pl.col("adversarial").first(),
        replies=pl.len(),
        **_offered(config),
        **{s: _set(s).sum() for s in config.signals},
    )
    return days.collect(engine="streaming").sort("user_id", "day")


def _use_cases(labelled: pl.LazyFrame, config: SignalAuditConfig) -> pl.DataFrame:
    """Per use case: replies, offered ones by signal, positives, and positives that carry an opposite signal or could."""

    def opposite(signal: str) -> pl.Expr:
        against = [other for other in config.signals if config.polarity[other] * config.polarity[signal] < 0]
        return pl.any_horizontal(_set(other) for other in against) if against else pl.lit(False)

    return (
        labelled.group_by(pl.col("use_case").fill_null("unknown"))
        .agg(
            replies=pl.len(),
            **_offered(config),
            **{signal: _set(signal).sum() for signal in config.signals},
            **{f"opposed_{signal}": (_set(signal) & opposite(signal)).sum() for signal in config.signals},
            **{
                f"opposable_{signal}": (opposite(signal) & pl.col(label_column(signal)).is_not_null()).sum()
                for signal in config.signals
            },
        )
        .collect(engine="streaming")
    )


class _Returns:
    """Per user and day with a whole follow-up: did they come back within `return_days`, and how active were they."""

    def __init__(self, user_days: pl.DataFrame, config: SignalAuditConfig) -> None:
        self.confidence = config.confidence
        known = user_days.filter(pl.col("day").is_not_null())
        if known.is_empty():
            self.rows = known
            return
        horizon = pl.duration(days=config.return_days)
        by_user = known.with_columns(
            following=pl.col("day").shift(-1).over("user_id"),
            before=pl.col("replies").cum_sum().over("user_id") - pl.col("replies"),
            age=(pl.col("day") - pl.col("day").first().over("user_id")).dt.total_days(),
        )
        followed = by_user.filter(pl.col("day") + horizon <= pl.col("day").max(), ~pl.col("adversarial"))
        self.rows = followed.with_columns(returned=(pl.col("following") <= pl.col("day") + horizon).fill_null(False))

    def correlations(self, signal: str) -> tuple[Estimate, Estimate]:
        """Of having used the signal on a day with returning: raw, and controlled for activity."""
        if self.rows.is_empty():
            return NOTHING, NOTHING
        x = (self.rows[signal] > 0).cast(pl.Float64).to_numpy()
        y = self.rows["returned"].cast(pl.Float64).to_numpy()
        controls = self.rows.select(pl.col("replies", "before", "age").cast(pl.Float64).log1p()).to_numpy()
        cluster = self.rows["user_id"].rle_id().to_numpy()
        return (
            correlation(x, y, cluster, self.confidence),
            partial_correlation(x, y, controls, cluster, self.confidence),
        )


def _next_messages(
    replies: pl.LazyFrame, messages: pl.LazyFrame, config: SignalAuditConfig, positives: Mapping[str, int], seed: int
) -> pl.DataFrame:
    """A capped sample of replies that a user message follows: that message's sentiment, and the signals set."""
    total = replies.select(pl.len()).collect().item()
    u = pl.col("u")
    wanted = [_set(signal) & (u < _NEXT_MESSAGES / max(1, n)) for signal, n in positives.items()]
    none = ~pl.any_horizontal(_set(signal) for signal in config.signals)
    sampled = (
        replies.with_columns(u=reply_uniform(seed))
        .filter(pl.any_horizontal(*wanted, none & (u < _NEXT_MESSAGES / max(1, total))))
        .select(
            "conversation_id", pl.col("turn_index") + 1, none.alias("none"), *(_set(s).alias(s) for s in config.signals)
        )
    )
    said = messages.filter(pl.col("role") == "user").select("conversation_id", "turn_index", "content")
    followed = sampled.join(said, on=["conversation_id", "turn_index"])
    return followed.select(sentiment(pl.col("content")).alias("said"), "none", *config.signals).collect(
        engine="streaming"
    )


def _signal_row(
    signal: str,
    users: pl.DataFrame,
    use_cases: pl.DataFrame,
    returns: _Returns,
    followed: pl.DataFrame,
    config: SignalAuditConfig,
) -> dict[str, Any]:
    totals = use_cases.select(pl.exclude("use_case").sum()).row(0, named=True)
    positives, shown, polarity = totals[signal], totals[offered(signal)], config.polarity[signal]
    set_, given = (users[name].to_numpy().astype(float) for name in (signal, offered(signal)))
    rate = ratio(set_, given, config.confidence)
    raw, controlled = returns.correlations(signal)
    opposed = proportion(totals[f"opposed_{signal}"], positives, config.confidence)
    agreeing = _agreement(followed.filter(pl.col(signal)), polarity, config.confidence)
    usual = _agreement(followed.filter(pl.col("none")), polarity, config.confidence)
    row: dict[str, Any] = {
        "signal": signal,
        "polarity": polarity,
        "replies": totals["replies"],
        "offered": shown,
        "positives": positives,
        **_estimate("rate", rate),
        "coverage_replies": shown / totals["replies"] if totals["replies"] else None,
        "coverage_users": users.filter(pl.col(signal) > 0).height / users.height if users.height else None,
        "user_days": returns.rows.height,
        **_estimate("return_correlation", raw),
        **_estimate("return_correlation_controlled", controlled),
        **_estimate("purity", Estimate(1 - opposed.value, 1 - opposed.high, 1 - opposed.low)),
        "opposed_usually": totals[f"opposable_{signal}"] / shown if shown else None,
        **_estimate("next_message_agreement", agreeing),
        **_estimate("next_message_usual", usual),
        "adversarial_share": (positives - int(users[signal].sum())) / positives if positives else None,
        "effective_positives": int(np.minimum(users[signal].to_numpy(), config.user_cap).sum()),
    }
    recommendation, reason = _recommend(row, config)
    return row | {"recommendation": recommendation, "reason": reason}


def _agreement(followed: pl.DataFrame, polarity: int, confidence: float) -> Estimate:
    """Share of next messages whose sentiment has the signal's sign, among those that have one."""
    spoken = followed.filter(pl.col("said") != 0)
    return (
        proportion(spoken.filter(pl.col("said") == polarity).height, spoken.height, confidence) if polarity else NOTHING
    )


def _recommend(row: Mapping[str, Any], config: SignalAuditConfig) -> tuple[str, str]:
    """use / use with care / do not use, with the first reason that applies."""
    sign = row["polarity"]
    low, high = (row[f"return_correlation_controlled_ci_{end}"] for end in ("low", "high"))
    if low is not None and sign < 0:
        low, high = -high, -low
    if row["effective_positives"] < config.min_positives:
        return (
            "do not use",
            f"too rare: {row['effective_positives']} positives after caps, fewer than {config.min_positives}",
        )
    if row["adversarial_share"] > config.max_adversarial_share:
        return (
            "do not use",
            f"{row['adversarial_share']:.0%} of it comes from users while they judged nearly everything",
        )
    if sign == 0:
        return "do not use", "it says neither liked nor disliked"
    if row["purity"] < config.min_purity:
        return "do not use", f"ambiguous: {1 - row['purity']:.0%} of its replies carry an opposite signal too"
    if high is not None and high < 0:
        return "do not use", "given its meaning, it goes with users staying away (activity controlled for)"
    agreement, usual = row["next_message_agreement_ci_high"], row["next_message_usual"]
    if agreement is not None and usual is not None and agreement < usual:
        return "use with care", "what users say next agrees with it less often than after any reply"
    if low is None:
        return "use with care", "whether it goes with returning cannot be told: too few days, or no times"
    if low <= 0:
        return "use with care", "whether it goes with returning cannot be told apart from chance"
    goes_with = "coming back" if sign > 0 else "staying away, as its meaning says"
    return "use", f"enough volume, one meaning, and it goes with users {goes_with} (activity controlled for)"


def _estimate(name: str, estimate: Estimate) -> dict[str, float | None]:
    low, high = f"{name}_ci_low", f"{name}_ci_high"
    values = {name: estimate.value, low: estimate.low, high: estimate.high}
    return {key: None if np.isnan(value) else float(value) for key, value in values.items()}
