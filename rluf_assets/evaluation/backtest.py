"""Offline-online backtest: over past launches, does the evaluator predict what users then did?

Predicted: relative change of the mean live probability of each past policy's texts over the control's, on the same
prompts. Observed: relative change of the love rate in its A/B test. Both have errors, and what is said of their agreement
takes them in (`calibration_slope`); beside it stands what one would say who is blind to them. With fewer than four
policies it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.evaluation.calibration_slope import Launches, calibration_slope, naive_slope
from rluf_assets.evaluation.config import BacktestConfig
from rluf_assets.evaluation.frames import prompt_weight, require_columns, require_finite, require_rows
from rluf_assets.evaluation.plots import backtest_plot
from rluf_assets.evaluation.stats import Array, Estimate, critical_value, fieller, finite, pearson

if TYPE_CHECKING:
    import plotly.graph_objects as go

LAUNCH_COLUMNS = (
    "policy", "description", "treatment_users", "treatment_replies", "treatment_loves", "control_users",
    "control_replies", "control_loves",
)  # fmt: skip
POLICIES: dict[str, Any] = {
    "policy": pl.String, "description": pl.String, "prompts": pl.Int64,
    **{f"{kind}_{part}": pl.Float64 for kind in ("predicted", "observed") for part in ("change", "ci_low", "ci_high")},
}  # fmt: skip


@dataclass(frozen=True)
class Backtest:
    """policies: one row per past policy, predicted and observed change. summary: agreement, and a sentence."""

    policies: pl.DataFrame
    summary: dict[str, Any]

    def plot(self, love: str = "love") -> go.Figure:
        """Predicted against observed change of every past launch."""
        return backtest_plot(self.policies, self.summary, love).figure

    def _repr_html_(self) -> str:
        return f"<p>{self.summary['sentence']}</p>{self.policies._repr_html_()}"


def backtest(
    launches: pl.DataFrame,
    scored: pl.DataFrame,
    config: BacktestConfig,
    *,
    seed: int,
    left_out: int = 0,
) -> Backtest:
    """Set predicted against observed changes.

    launches: one row per past policy; scored: policy, prompt_id, live_probability (and weight, the prompt's in traffic),
    with the control's texts under `config.control`; left_out: texts that are not there, for P[signal] trained on them.
    Raises DataError for a missing control, a launch without texts, or prompts that the control did not answer.
    """
    require_columns("past_launches launches", launches, LAUNCH_COLUMNS)
    require_columns("past_launches texts", scored, ("policy", "prompt_id", "live_probability"))
    require_finite("past_launches texts", scored, ("live_probability",))
    launches = launches.filter(pl.col("policy") != config.control)
    require_rows("past_launches launches", launches)
    if scored.is_empty() and left_out:
        return Backtest(
            pl.DataFrame(schema=POLICIES), summarise([], np.zeros((0, 0)), config, seed=seed, left_out=left_out)
        )
    control = _per_prompt(scored, config.control)
    found = [_policy_row(launch, scored, control, config) for launch in launches.iter_rows(named=True)]
    found.sort(key=lambda pair: str(pair[0]["policy"]))
    rows = [row for row, _ in found]
    errors = _errors(rows, found, config)
    return Backtest(pl.DataFrame(rows, schema=POLICIES), summarise(rows, errors, config, seed=seed, left_out=left_out))


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
    launch: dict[str, Any], scored: pl.DataFrame, control: pl.DataFrame, config: BacktestConfig
) -> tuple[dict[str, Any], pl.DataFrame]:
    """A policy's row, and each prompt's influence on its predicted change (prompt_id, and a column named by it)."""
    name = launch["policy"]
    pairs = _per_prompt(scored, name).join(control, on="prompt_id", suffix="_control")
    if pairs.is_empty():
        raise DataError(
            f"past_launches texts: {name!r} shares no prompt with {config.control!r}, expected the same prompts. "
            "Replay both on the current evaluation prompts."
        )
    ours, theirs = (
        pairs["live_probability" + side].to_numpy() * pairs["weight"].to_numpy() for side in ("", "_control")
    )
    ratio = float(ours.sum() / theirs.sum()) if theirs.sum() > 0 else math.nan
    influence = (ours - ratio * theirs) / theirs.sum() if theirs.sum() > 0 else np.full(len(pairs), math.nan)
    error = math.sqrt(float(covariance_of(influence[:, None])[0, 0])) if len(pairs) > 1 else math.nan
    half = critical_value(config.confidence, max(len(pairs) - 1, 1)) * error
    row = {
        "policy": name,
        "description": launch["description"],
        "prompts": len(pairs),
        "predicted_change": finite(ratio - 1),
        "predicted_ci_low": finite(ratio - 1 - half),
        "predicted_ci_high": finite(ratio - 1 + half),
        **_observed(launch, config),
    }
    return row, pairs.select("prompt_id", pl.Series(name, influence))


def covariance_of(influences: Array) -> Array:
    """Of estimates, from each cluster's influences on them (the delta method)."""
    clusters = len(influences)
    return np.asarray(influences.T @ influences * clusters / max(clusters - 1, 1))


def _errors(rows: Sequence[dict[str, Any]], found: Sequence[tuple[Any, pl.DataFrame]], config: BacktestConfig) -> Array:
    """Covariance of all predicted changes (policies answer the same prompts, beside one control), then of the observed."""
    table = pl.concat([frame for _, frame in found], how="align").drop("prompt_id").fill_null(0.0).to_numpy()
    count, errors = len(rows), np.zeros((2 * len(rows), 2 * len(rows)))
    errors[:count, :count] = covariance_of(table) if len(table) > 1 else math.nan
    z = critical_value(config.confidence)
    for k, row in enumerate(rows):
        low, high = row["observed_ci_low"], row["observed_ci_high"]
        errors[count + k, count + k] = math.nan if low is None or high is None else ((high - low) / 2 / z) ** 2
    return errors


def _observed(launch: dict[str, Any], config: BacktestConfig) -> dict[str, float | None]:
    """The A/B test's own interval (users as clusters) where it is given; from the counts, as Poisson, where not."""
    given = [launch.get(f"observed_change{part}") for part in ("", "_ci_low", "_ci_high")]
    counts = {name: finite(launch[name]) for name in LAUNCH_COLUMNS[2:]}
    value, low, high = None, None, None
    if all(finite(value) is not None for value in given):
        value, low, high = (finite(v) for v in given)
    elif all(count is not None for count in counts.values()):
        replies = [max(counts[f"{arm}_replies"] or 0.0, 1.0) for arm in ("treatment", "control")]
        rates = [(counts[f"{arm}_loves"] or 0.0) / n for n, arm in zip(replies, ("treatment", "control"), strict=True)]
        estimate = fieller(
            rates[0], rates[1], rates[0] / replies[0], rates[1] / replies[1], confidence=config.confidence
        )
        value, low, high = estimate.value, estimate.low, estimate.high
    return {"observed_change": value, "observed_ci_low": low, "observed_ci_high": high}


def summarise(
    rows: Sequence[dict[str, Any]], errors: Array, config: BacktestConfig, *, seed: int, left_out: int = 0,
    what: tuple[str, str] = ("past launch", "past launches"),
) -> dict[str, Any]:  # fmt: skip
    """Agreement of predicted and observed changes: r, rank correlation, leave-one-out, slope, range, a sentence.

    rows: of `POLICIES`; errors: covariance of the predicted changes, then of the observed ones. A launch whose change or
    whose error is not known says nothing. left_out: replies that P[signal] had trained on. what: one policy and many, in
    words.
    """
    x, y = (np.array([_number(row[f"{kind}_change"]) for row in rows]) for kind in ("predicted", "observed"))
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(np.diag(errors).reshape(2, -1)).all(axis=0))
    both = np.concatenate([known, known + len(rows)])
    launches = Launches(x[known], y[known], errors[np.ix_(both, both)])
    count = len(known)
    summary: dict[str, Any] = {
        "policies": count, "left_out": left_out, "pearson_r": None, "ci": [None, None], "naive_ci": [None, None],
        "spearman_r": None, "leave_one_out_r": [None, None], "calibration_slope": None,
        "calibration_slope_ci": [None, None], "naive_slope": None, "naive_slope_ci": [None, None],
        "predicted_range": [None, None], "pairs_right": None, "pairs": None,
    }  # fmt: skip
    if count < config.min_policies:
        aside = f" ({left_out:,} replies were left out that P[signal] may have trained on)" if left_out else ""
        summary["sentence"] = (
            f"{count} {what[count != 1]} with a known outcome{aside}: at least {config.min_policies} are needed before "
            "anything can be said about how well the evaluator predicts users."
        )
        return summary
    naive = pearson(launches.x.tolist(), launches.y.tolist(), confidence=config.confidence)
    if naive.value is None:
        summary["sentence"] = f"On {count} {what[1]} the predictions or the outcomes do not vary: nothing to compare."
        return summary
    r = widened(naive, launches, config, seed)
    right, pairs = ranked_right(launches.x.tolist(), launches.y.tolist())
    slope, blind = (
        calibration_slope(launches, config.confidence),
        naive_slope(launches.x, launches.y, config.confidence),
    )
    summary |= {
        "pearson_r": r.value, "ci": [r.low, r.high], "naive_ci": [naive.low, naive.high],
        **_robustness(launches.x.tolist(), launches.y.tolist(), config),
        "calibration_slope": slope.value, "calibration_slope_ci": [slope.low, slope.high],
        "naive_slope": blind.value, "naive_slope_ci": [blind.low, blind.high],
        "predicted_range": [float(launches.x.min()), float(launches.x.max())], "pairs_right": right, "pairs": pairs,
    }  # fmt: skip
    summary["sentence"] = f"On {count} {what[1]} the evaluator ranked {right} of {pairs} pairs right."
    return summary


def widened(naive: Estimate, launches: Launches, config: BacktestConfig, seed: int) -> Estimate:
    """Fisher's interval of r, widened by what the errors of both changes alone move r by (parametric bootstrap).

    The errors are in r's own scatter too, so it is rather too wide than too narrow.
    """
    if naive.value is None or abs(naive.value) >= 1:
        return Estimate(naive.value, None, None)
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(launches.errors)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = np.concatenate([launches.x, launches.y]) + rng.standard_normal((config.resamples, len(root))) @ root.T
    centred = drawn.reshape(config.resamples, 2, -1)
    centred = centred - centred.mean(axis=2, keepdims=True)
    across = (centred[:, 0] * centred[:, 1]).sum(axis=1)
    r = across / np.sqrt((centred**2).sum(axis=2).prod(axis=1))
    z = math.atanh(naive.value)
    moved = float(np.mean((np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) - z) ** 2))
    half = critical_value(config.confidence) * math.sqrt(1 / (len(launches.x) - 3) + moved)
    return Estimate(naive.value, finite(math.tanh(z - half)), finite(math.tanh(z + half)))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _robustness(x: Sequence[float], y: Sequence[float], config: BacktestConfig) -> dict[str, Any]:
    from scipy.stats import spearmanr

    left_out = [
        pearson([*x[:i], *x[i + 1 :]], [*y[:i], *y[i + 1 :]], confidence=config.confidence).value for i in range(len(x))
    ]
    known = [value for value in left_out if value is not None]
    return {
        "spearman_r": finite(float(spearmanr(x, y).statistic)),
        "leave_one_out_r": [min(known), max(known)] if known else [None, None],
    }


def ranked_right(predicted: Sequence[float], observed: Sequence[float]) -> tuple[int, int]:
    """How many pairs of policies the predictions order as the outcomes do, of how many; a tie is not right."""
    pairs = list(combinations(range(len(predicted)), 2))
    right = sum((predicted[i] - predicted[j]) * (observed[i] - observed[j]) > 0 for i, j in pairs)
    return right, len(pairs)
