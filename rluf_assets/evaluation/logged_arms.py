"""The arms of the logs: policies that were live beside each other, each seen by users of its own.

They are the A/B test and the past launches of a production that keeps no records of either: what users did is in the
validated replies, what P[signal] predicts is its score of held-out users' replies. Only arms that the logs name count.
"""

from __future__ import annotations

from typing import Any, ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.backtest import Backtest, summarise
from rluf_assets.evaluation.config import BacktestConfig
from rluf_assets.evaluation.frames import require_finite
from rluf_assets.evaluation.stats import Estimate, fieller, ratio_of_sums, welch
from rluf_assets.feedback.adversarial import with_condemned
from rluf_assets.feedback.config import AdversarialConfig
from rluf_assets.feedback.splits import user_table

LABEL = "label_"
LAUNCHES: dict[str, Any] = {
    "policy": pl.String, "description": pl.String,
    **{f"{side}_{count}": pl.Int64 for side in ("treatment", "control") for count in ("users", "replies", "loves")},
    **{f"observed_change{part}": pl.Float64 for part in ("", "_ci_low", "_ci_high")},
}  # fmt: skip
POLICIES: dict[str, Any] = {
    "policy": pl.String, "description": pl.String, "prompts": pl.Int64,
    **{f"{kind}_{part}": pl.Float64 for kind in ("predicted", "observed") for part in ("change", "ci_low", "ci_high")},
}  # fmt: skip


class ArmsConfig(BaseModel):
    """Which signal counts as love, and which arm the others are read against."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[str] = "3"
    signal: str
    baseline: str = Field(description="arm that the readout compares the others with")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    adversarial: AdversarialConfig = Field(AdversarialConfig(), description="the filter of the signal set")


def exposures_of(replies: pl.LazyFrame, config: ArmsConfig) -> pl.DataFrame:
    """One row per user, arm and use case: labelled replies, conversations, positives per signal, and `adversarial`.

    A user is adversarial in all arms who judged nearly everything on a day in one of them; before the test it does not count.
    Empty where the logs name fewer than two arms. Raises ConfigError where the baseline is not among them.
    """
    signals = [name for name in replies.collect_schema().names() if name.startswith(LABEL)]
    exposed = replies.filter(pl.col("experiment_arm").is_not_null(), pl.col(f"{LABEL}{config.signal}").is_not_null())
    _, condemned = user_table(replies, config.adversarial, config.signal)
    flagged = with_condemned(exposed, condemned).filter("adversarial").select("user_id").unique()
    counted = (
        exposed.group_by("user_id", pl.col("experiment_arm").alias("arm"), pl.col("use_case").fill_null("unknown"))
        .agg(
            replies=pl.len().cast(pl.Int64),
            conversations=pl.col("conversation_id").n_unique().cast(pl.Int64),
            **{name.removeprefix(LABEL): (pl.col(name) == 1).sum().cast(pl.Int64) for name in signals},
        )
        .with_columns(adversarial=pl.col("user_id").is_in(flagged.collect(engine="streaming")["user_id"].implode()))
        .sort("arm", "user_id", "use_case")
        .collect(engine="streaming")
    )
    if not config.adversarial.enabled:
        counted = counted.drop("adversarial")
    arms = counted["arm"].unique().sort().to_list()
    if len(arms) < 2:
        return counted.clear()
    if config.baseline not in arms:
        raise ConfigError(
            f"ab_test_readout.baseline {config.baseline!r}: the logs have the arms {', '.join(arms)}. "
            "Name the one that the others are to be read against."
        )
    return counted


def launches_of(exposures: pl.DataFrame, config: ArmsConfig) -> pl.DataFrame:
    """One row per arm: counts of it and of all others, and the relative change of the signal's rate with its interval.

    Adversarial users are in neither, as in the signal set whose held-out replies the prediction is made of.
    """
    if "adversarial" in exposures.columns:
        exposures = exposures.filter(~pl.col("adversarial"))
    users = exposures.group_by("arm", "user_id").agg(pl.col("replies").sum(), loves=pl.col(config.signal).sum())
    rows = []
    for arm in users["arm"].unique().sort():
        sides = {"treatment": users.filter(pl.col("arm") == arm), "control": users.filter(pl.col("arm") != arm)}
        change = against_others(users.rename({"arm": "policy"}), arm, "loves", "replies", config.confidence)
        rows.append({
            "policy": arm, "description": f"arm {arm} of the logs, against the others",
            **{f"{side}_users": table.height for side, table in sides.items()},
            **{f"{side}_{name}": table[name].sum() for side, table in sides.items() for name in ("replies", "loves")},
            "observed_change": change.value, "observed_change_ci_low": change.low, "observed_change_ci_high": change.high,
        })  # fmt: skip
    return pl.DataFrame(rows, schema=LAUNCHES)


def against_others(users: pl.DataFrame, policy: str, numerator: str, denominator: str, confidence: float) -> Estimate:
    """Relative change of a ratio of sums, users of `policy` against all other users; undefined where a side is empty."""
    ordered = users.sort("policy", "user_id").with_columns(pl.col(numerator, denominator).cast(pl.Float64))
    same = pl.col("policy") == policy
    ours, theirs = (
        ratio_of_sums(side[numerator].to_numpy(), side[denominator].to_numpy())
        for side in (ordered.filter(same), ordered.filter(~same))
    )
    if ours is None or theirs is None:
        return Estimate(None, None, None)
    df = welch(ours.variance, theirs.variance, ours.degrees_of_freedom, theirs.degrees_of_freedom)
    return fieller(ours.value, theirs.value, ours.variance, theirs.variance, confidence=confidence, df=df)


def texts_of(replies: pl.LazyFrame, holdout: pl.LazyFrame, exposures: pl.DataFrame) -> pl.DataFrame:
    """Replies of held-out users by arm, each with the prompt it answered: policy, prompt_id, user_id, prompt, completion."""
    arm_of = replies.select("message_id", policy="experiment_arm")
    arms = exposures["arm"].unique().to_list()
    about = pl.col("^(use_case|turn_index)$")  # which tell a matched negative's stratum, where they are known
    held = holdout.select("message_id", "user_id", "prompt", "completion", about).collect().lazy()
    texts = held.join(arm_of, on="message_id").filter(pl.col("policy").is_in(arms))
    return (
        texts.select("policy", "message_id", "user_id", "prompt", "completion", about)
        .rename({"message_id": "prompt_id"})
        .sort("policy", "prompt_id")
        .collect()
    )


def backtest_arms(launches: pl.DataFrame, scored: pl.DataFrame, config: BacktestConfig) -> Backtest:
    """Predicted change of the signal against the change that users showed, each arm against all others.

    scored: `texts_of` with live_probability. The prompts are the arms' own, so nothing is paired: users are the unit.
    """
    require_finite("replies of logged arms", scored, ("live_probability",))
    users = scored.group_by("policy", "user_id").agg(predicted=pl.col("live_probability").sum(), replies=pl.len())
    prompts = dict(scored.group_by("policy").len().iter_rows())
    rows = []
    for launch in launches.iter_rows(named=True):
        change = against_others(users, launch["policy"], "predicted", "replies", config.confidence)
        rows.append({
            "policy": launch["policy"], "description": launch["description"], "prompts": prompts.get(launch["policy"], 0),
            "predicted_change": change.value, "predicted_ci_low": change.low, "predicted_ci_high": change.high,
            **{name.replace("_change_", "_"): launch[name] for name in LAUNCHES if name.startswith("observed")},
        })  # fmt: skip
    policies = pl.DataFrame(rows, schema=POLICIES)
    return Backtest(policies, summarise(policies, config, ("arm of the logs", "arms of the logs")))
