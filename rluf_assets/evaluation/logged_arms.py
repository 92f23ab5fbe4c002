"""The arms of the logs: policies that were live beside each other, each seen by users of its own.

They are the A/B test and the past launches of a production that keeps no records of either. As an A/B test they are read
on all users. As past launches, for the evaluator to be tested on, they are read on the held-out users alone: what users did
to a reply that P[signal] trained on, noise and all, is no test of it. Every arm is read against one reference, whose noise
they share. Only arms that the logs name count.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.backtest import POLICIES, Backtest, covariance_of, summarise
from rluf_assets.evaluation.clustering import LABELLED
from rluf_assets.evaluation.config import BacktestConfig
from rluf_assets.evaluation.exposures import FIRST
from rluf_assets.evaluation.frames import require_columns, require_finite
from rluf_assets.evaluation.stats import Array, Estimate, fieller, ratio_of_sums, welch
from rluf_assets.feedback.config import AdversarialConfig
from rluf_assets.feedback.schemas import MESSAGE_KEY
from rluf_assets.feedback.splits import adversarial_users

LABEL = "label_"
LAUNCHES: dict[str, Any] = {
    "policy": pl.String, "reference": pl.String, "description": pl.String,
    **{f"{side}_{count}": pl.Int64 for side in ("treatment", "control") for count in ("users", "replies", "loves")},
    **{f"observed_change{part}": pl.Float64 for part in ("", "_ci_low", "_ci_high")}, "left_out": pl.Int64,
}  # fmt: skip


class ArmsConfig(BaseModel):
    """Which signal counts as love, and which arm the others are read against."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[str] = "6"
    signal: str
    baseline: str = Field(description="arm that the readout compares the others with")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    adversarial: AdversarialConfig = Field(AdversarialConfig(), description="the filter of the signal set")


def exposures_of(replies: pl.LazyFrame, config: ArmsConfig) -> pl.DataFrame:
    """One row per user, arm and use case: labelled replies, conversations, per signal the replies whose label is known
    (`<signal>_labelled`) and those with the signal, `first_exposed_at` where the logs have times, and `adversarial`.

    A user is adversarial in all arms who judged nearly everything on a day in one of them; before the test it does not count.
    Empty where the logs name fewer than two arms. Raises ConfigError where the baseline is not among them.
    """
    signals = [name.removeprefix(LABEL) for name in replies.collect_schema().names() if name.startswith(LABEL)]
    exposed = replies.filter(pl.col("experiment_arm").is_not_null(), pl.col(f"{LABEL}{config.signal}").is_not_null())
    flagged = adversarial_users(replies, config.adversarial, config.signal, exposed)
    counted = (
        exposed.group_by("user_id", pl.col("experiment_arm").alias("arm"), pl.col("use_case").fill_null("unknown"))
        .agg(
            replies=pl.len().cast(pl.Int64),
            conversations=pl.col("conversation_id").n_unique().cast(pl.Int64),
            **{name: (pl.col(LABEL + name) == 1).sum().cast(pl.Int64) for name in signals},
            **{name + LABELLED: pl.col(LABEL + name).count().cast(pl.Int64) for name in signals},
            **{FIRST: pl.col("created_at").min()},
        )
        .with_columns(
            pl.col(FIRST).min().over("arm", "user_id"), adversarial=pl.col("user_id").is_in(flagged.implode())
        )
        .sort("arm", "user_id", "use_case")
        .collect(engine="streaming")
    )
    if not config.adversarial.enabled:
        counted = counted.drop("adversarial")
    if counted[FIRST].null_count():  # logs without times
        counted = counted.drop(FIRST)
    arms = counted["arm"].unique().sort().to_list()
    if len(arms) < 2:
        return counted.clear()
    if config.baseline not in arms:
        raise ConfigError(
            f"ab_test_readout.baseline {config.baseline!r}: the logs have the arms {', '.join(arms)}. "
            "Name the one that the others are to be read against."
        )
    return counted


def launches_of(exposures: pl.DataFrame, held: pl.DataFrame, config: ArmsConfig) -> pl.DataFrame:
    """One row per arm but the reference: counts of both among held-out users, and the change of the signal's rate.

    held: of `texts_of`. left_out: labelled replies of the arm and, in its first row, of the reference that are not held out.
    Adversarial users are in neither.
    """
    if "adversarial" in exposures.columns:
        exposures = exposures.filter(~pl.col("adversarial"))
    users = _users(held, loves=pl.col("label").cast(pl.Float64).sum())
    shown = dict(exposures.group_by("arm").agg(pl.col("replies").sum()).iter_rows())
    kept = dict(held.group_by("policy").len().iter_rows())
    out = {arm: count - kept.get(arm, 0) for arm, count in shown.items()}
    rows: list[dict[str, Any]] = []
    for arm in sorted(set(shown) - {config.baseline}):
        sides = {"treatment": users.filter(pl.col("policy") == arm),
                 "control": users.filter(pl.col("policy") == config.baseline)}  # fmt: skip
        change = against_reference(users, arm, config.baseline, "loves", config.confidence)
        rows.append({
            "policy": arm, "reference": config.baseline,
            "description": f"arm {arm} of the logs, against {config.baseline}",
            **{f"{side}_users": table.height for side, table in sides.items()},
            **{f"{side}_{name}": int(table[name].sum()) for side, table in sides.items() for name in ("replies", "loves")},
            "observed_change": change.value, "observed_change_ci_low": change.low, "observed_change_ci_high": change.high,
            "left_out": out[arm] + (out[config.baseline] if not rows else 0),
        })  # fmt: skip
    return pl.DataFrame(rows, schema=LAUNCHES)


def _users(replies: pl.DataFrame, **sums: pl.Expr) -> pl.DataFrame:
    return (
        replies.group_by("policy", "user_id").agg(replies=pl.len().cast(pl.Float64), **sums).sort("policy", "user_id")
    )


def against_reference(users: pl.DataFrame, policy: str, reference: str, counted: str, confidence: float) -> Estimate:
    """Relative change of a ratio of sums over replies, users of `policy` against users of `reference`."""
    ours, theirs = (
        ratio_of_sums(side[counted].to_numpy(), side["replies"].to_numpy())
        for side in (users.filter(pl.col("policy") == name) for name in (policy, reference))
    )
    if ours is None or theirs is None:
        return Estimate(None, None, None)
    df = welch(ours.variance, theirs.variance, ours.degrees_of_freedom, theirs.degrees_of_freedom)
    return fieller(ours.value, theirs.value, ours.variance, theirs.variance, confidence=confidence, df=df)


def texts_of(replies: pl.LazyFrame, holdout: pl.LazyFrame, exposures: pl.DataFrame) -> pl.DataFrame:
    """Replies of held-out users by arm, each with the prompt it answered and its label: policy, prompt_id, user_id, label,
    prompt, completion.

    All of the holdout counts, none of training: who is held out does not depend on what they did.
    """
    arm_of = replies.select(*MESSAGE_KEY, policy="experiment_arm")
    arms = exposures["arm"].unique().to_list()
    about = pl.col("^(use_case|turn_index)$")  # which tell a matched negative's stratum, where they are known
    held = holdout.select(*MESSAGE_KEY, "user_id", "label", "prompt", "completion", about).collect().lazy()
    texts = held.join(arm_of, on=MESSAGE_KEY).filter(pl.col("policy").is_in(arms))
    prompt_id = pl.concat_str(*MESSAGE_KEY, separator="\n").alias("prompt_id")
    return (
        texts.select("policy", prompt_id, "user_id", "label", "prompt", "completion", about)
        .sort("policy", "prompt_id")
        .collect()
    )


def backtest_arms(launches: pl.DataFrame, scored: pl.DataFrame, config: BacktestConfig, *, seed: int) -> Backtest:
    """Predicted change of the signal against the change that held-out users showed, each arm against the reference.

    scored: `texts_of` with live_probability. The prompts are the arms' own, so nothing is paired: users are the unit, and
    the errors of what was predicted and observed on the same users, and of all arms by their one reference, go together.
    """
    require_columns("replies of logged arms", scored, ("policy", "user_id", "label", "live_probability"))
    require_finite("replies of logged arms", scored, ("live_probability",))
    love = pl.col("label").cast(pl.Float64).sum()
    users = _users(scored, predicted=pl.col("live_probability").sum(), loves=love)
    prompts = dict(scored.group_by("policy").len().iter_rows())
    rows, influences = [], []
    for launch in launches.iter_rows(named=True):
        arm, reference = launch["policy"], launch["reference"]
        row = {"policy": arm, "description": launch["description"], "prompts": prompts.get(arm, 0)}
        for kind, counted in (("predicted", "predicted"), ("observed", "loves")):
            change = against_reference(users, arm, reference, counted, config.confidence)
            row |= {f"{kind}_change": change.value, f"{kind}_ci_low": change.low, f"{kind}_ci_high": change.high}
            influences.append(_influence(users, arm, reference, counted))
        rows.append(row)
    order = [*range(0, len(influences), 2), *range(1, len(influences), 2)]
    errors = np.zeros((0, 0))
    if rows:
        per_row = users.select("user_id").with_columns(pl.Series(str(k), influences[at]) for k, at in enumerate(order))
        errors = covariance_of(per_row.group_by("user_id").agg(pl.all().sum()).drop("user_id").to_numpy())
    left_out = int(launches["left_out"].sum())
    words = ("arm of the logs", "arms of the logs")
    summary = summarise(rows, errors, config, seed=seed, left_out=left_out, what=words)
    return Backtest(pl.DataFrame(rows, schema=POLICIES), summary)


def _influence(users: pl.DataFrame, arm: str, reference: str, counted: str) -> Array:
    """Each user's influence on the relative change of a ratio (rows of `users`); not a number where it is not defined."""
    found = np.zeros(users.height)
    sides = [(users["policy"] == name).to_numpy() for name in (arm, reference)]
    ratios = [ratio_of_sums(users[counted].to_numpy()[side], users["replies"].to_numpy()[side]) for side in sides]
    if ratios[0] is None or ratios[1] is None or ratios[1].value <= 0:
        return np.full(users.height, np.nan)
    found[sides[0]] = ratios[0].influence / ratios[1].value
    found[sides[1]] -= ratios[0].value * ratios[1].influence / ratios[1].value ** 2
    return found
