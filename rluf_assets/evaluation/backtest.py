"""Offline-online backtest: over past launches, does the evaluator predict what users then did?

Predicted: relative change of the mean live probability of each past policy's texts over the control's, on the same
prompts. Observed: relative change of the love rate in its A/B test. With fewer than four policies it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import BacktestConfig
from rluf_assets.evaluation.frames import prompt_weight, require_columns, require_finite, require_rows
from rluf_assets.evaluation.stats import Array, bootstrap, fieller, finite, pearson

LAUNCH_COLUMNS = (
    "policy", "description", "treatment_users", "treatment_replies", "treatment_loves", "control_users",
    "control_replies", "control_loves",
)  # fmt: skip


@dataclass(frozen=True)
class Backtest:
    """policies: one row per past policy, predicted and observed change. summary: agreement, and a sentence."""

    policies: pl.DataFrame
    summary: dict[str, Any]

    def _repr_html_(self) -> str:
        return f"<p>{self.summary['sentence']}</p>{self.policies._repr_html_()}"


def backtest(
    launches: pl.DataFrame,
    scored: pl.DataFrame,
    config: BacktestConfig,
    *,
    seed: int,
) -> Backtest:
    """Set predicted against observed changes.

    launches: one row per past policy; scored: policy, prompt_id, live_probability (and weight, the prompt's in traffic),
    with the control's texts under `config.control`. Raises DataError for a missing control, a launch without texts, or
    prompts that the control did not answer.
    """
    require_columns("past_launches launches", launches, LAUNCH_COLUMNS)
    require_columns("past_launches texts", scored, ("policy", "prompt_id", "live_probability"))
    require_finite("past_launches texts", scored, ("live_probability",))
    launches = launches.filter(pl.col("policy") != config.control)
    require_rows("past_launches launches", launches)
    control = _per_prompt(scored, config.control)
    rows = [_policy_row(launch, scored, control, config, seed) for launch in launches.iter_rows(named=True)]
    policies = pl.DataFrame(rows, infer_schema_length=None).sort("policy")
    return Backtest(policies, summarise(policies, config))


def _per_prompt(scored: pl.DataFrame, policy: str) -> pl.DataFrame:
    texts = scored.filter(pl.col("policy") == policy)
    if texts.is_empty():
        raise DataError(
            f"past_launches texts: found policies {scored['policy'].unique().sort().to_list()}, expected {policy!r} "
            "among them. Every launch and the control need their texts on the evaluation prompts."
        )
    weight = prompt_weight(texts).first().alias("weight")
    return texts.group_by("prompt_id").agg(pl.col("live_probability").mean(), weight).sort("prompt_id")


def _policy_row(
    launch: dict[str, Any], scored: pl.DataFrame, control: pl.DataFrame, config: BacktestConfig, seed: int
) -> dict[str, Any]:
    name = launch["policy"]
    pairs = _per_prompt(scored, name).join(control, on="prompt_id", suffix="_control")
    if pairs.is_empty():
        raise DataError(
            f"past_launches texts: {name!r} shares no prompt with {config.control!r}, expected the same prompts. "
            "Replay both on the current evaluation prompts."
        )
    table = pairs.select(pl.col("live_probability", "live_probability_control") * pl.col("weight")).to_numpy()
    predicted = bootstrap(table, _relative, resamples=config.resamples, seed=seed, confidence=config.confidence)[0]
    observed = _observed(launch, config)
    return {
        "policy": name,
        "description": launch["description"],
        "prompts": len(pairs),
        "predicted_change": predicted.value,
        "predicted_ci_low": predicted.low,
        "predicted_ci_high": predicted.high,
        **observed,
    }


def _relative(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1] - 1)[..., None]


def _observed(launch: dict[str, Any], config: BacktestConfig) -> dict[str, float | None]:
    """The A/B test's own interval (users as clusters) where it is given; from the counts, as Poisson, where not."""
    given = [launch.get(f"observed_change{part}") for part in ("", "_ci_low", "_ci_high")]
    if all(finite(value) is not None for value in given):
        value, low, high = (finite(v) for v in given)
    else:
        rates = [launch[f"{arm}_loves"] / max(launch[f"{arm}_replies"], 1) for arm in ("treatment", "control")]
        variances = [
            rate / max(launch[f"{arm}_replies"], 1) for rate, arm in zip(rates, ("treatment", "control"), strict=True)
        ]
        estimate = fieller(rates[0], rates[1], variances[0], variances[1], confidence=config.confidence)
        value, low, high = estimate.value, estimate.low, estimate.high
    return {"observed_change": value, "observed_ci_low": low, "observed_ci_high": high}


def summarise(
    policies: pl.DataFrame, config: BacktestConfig, what: tuple[str, str] = ("past launch", "past launches")
) -> dict[str, Any]:
    """Agreement of predicted and observed changes: r (Fisher), rank correlation, leave-one-out, slope, a sentence.

    what: one of the policies and many of them, in words.
    """
    known = policies.drop_nulls(["predicted_change", "observed_change"])
    x, y = known["predicted_change"].to_list(), known["observed_change"].to_list()
    count = len(known)
    summary: dict[str, Any] = {
        "policies": count, "pearson_r": None, "ci": [None, None], "spearman_r": None, "leave_one_out_r": [None, None],
        "calibration_slope": None, "calibration_slope_ci": [None, None], "pairs_right": None, "pairs": None,
    }  # fmt: skip
    if count < config.min_policies:
        summary["sentence"] = (
            f"{count} {what[count != 1]} with a known outcome: at least {config.min_policies} are needed before anything "
            "can be said about how well the evaluator predicts users."
        )
        return summary
    r = pearson(x, y, confidence=config.confidence)
    if r.value is None:
        summary["sentence"] = f"On {count} {what[1]} the predictions or the outcomes do not vary: nothing to compare."
        return summary
    right, pairs = ranked_right(x, y)
    summary |= {
        "pearson_r": r.value, "ci": [r.low, r.high], **_robustness(x, y, config), "pairs_right": right, "pairs": pairs,
    }  # fmt: skip
    summary["sentence"] = f"On {count} {what[1]} the evaluator ranked {right} of {pairs} pairs right."
    return summary


def _robustness(x: Sequence[float], y: Sequence[float], config: BacktestConfig) -> dict[str, Any]:
    from scipy.stats import linregress, spearmanr, t

    left_out = [
        pearson([*x[:i], *x[i + 1 :]], [*y[:i], *y[i + 1 :]], confidence=config.confidence).value for i in range(len(x))
    ]
    known = [value for value in left_out if value is not None]
    line = linregress(x, y)
    half = float(t.ppf(0.5 + config.confidence / 2, len(x) - 2)) * float(line.stderr)
    return {
        "spearman_r": finite(float(spearmanr(x, y).statistic)),
        "leave_one_out_r": [min(known), max(known)] if known else [None, None],
        "calibration_slope": finite(float(line.slope)),
        "calibration_slope_ci": [finite(float(line.slope) - half), finite(float(line.slope) + half)],
    }


def ranked_right(predicted: Sequence[float], observed: Sequence[float]) -> tuple[int, int]:
    """How many pairs of policies the predictions order as the outcomes do, of how many; a tie is not right."""
    pairs = list(combinations(range(len(predicted)), 2))
    right = sum((predicted[i] - predicted[j]) * (observed[i] - observed[j]) > 0 for i, j in pairs)
    return right, len(pairs)
