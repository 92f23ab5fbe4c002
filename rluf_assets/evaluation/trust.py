"""How far offline figures can be believed: what the evaluator itself says about its limits, per candidate.

Three things beside the backtest and the distance from the logs: does an ensemble of P[signal] agree on the replies and
on the sign of the predicted change, and do replies spoilt on purpose score below every real policy of the run?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.config import OfflineConfig
from rluf_assets.evaluation.degenerate import KINDS
from rluf_assets.evaluation.frames import Evaluation, prompt_weight, require_baseline
from rluf_assets.evaluation.rare_events import clustered_share
from rluf_assets.evaluation.stats import Array, bootstrap, finite

TRUST_SCHEMA: dict[str, Any] = {
    "candidate": pl.String, "members": pl.Int64, "members_agreeing": pl.Int64, "change_lowest": pl.Float64,
    "change_highest": pl.Float64, "disputed": pl.Float64, "disputed_low": pl.Float64, "disputed_high": pl.Float64,
    "spoilt_kind": pl.String, "spoilt_of": pl.String, "spoilt_mean": pl.Float64, "lowest_policy": pl.String,
    "lowest_mean": pl.Float64, "spoilt_change": pl.Float64, "spoilt_low": pl.Float64, "spoilt_high": pl.Float64,
    "spoilt_last": pl.Boolean,
}  # fmt: skip


def assess_trust(evaluations: Mapping[str, Evaluation], config: OfflineConfig, *, seed: int) -> pl.DataFrame:
    """One row per candidate (TRUST_SCHEMA); what was not scored is null.

    members_agreeing: ensemble members that see the predicted change's own sign; change_lowest and change_highest: over
    members. disputed: share of replies on which members differ more than on 99% of logged replies, with an interval
    over prompts. spoilt_*: of the candidate's and the baseline's replies, shuffled and truncated, the best-scoring
    kind against the run's lowest-scoring policy on the same prompts; spoilt_last if surely below it.
    Raises DataError for a missing baseline.
    """
    base = require_baseline("trust", evaluations, config.baseline)
    real = {name: _per_prompt(_love(found, config)) for name, found in evaluations.items()}
    rows = []
    for name, found in evaluations.items():
        rows.append(
            {
                "candidate": name,
                **_agreement(_love(found, config), _love(base, config)),
                **_disputed(_love(found, config), config),
                **_spoilt({name: found, config.baseline: base}, real, config, seed),
            }
        )
    return pl.DataFrame(rows, schema=TRUST_SCHEMA)


def _love(found: Evaluation, config: OfflineConfig) -> pl.DataFrame:
    return found.scores.filter(pl.col("objective") == config.love_objective)


def _per_prompt(scores: pl.DataFrame) -> pl.DataFrame:
    return scores.group_by("prompt_id").agg(pl.col("live_probability").mean()).sort("prompt_id")


def _mean(scores: pl.DataFrame, *values: pl.Expr) -> Array:
    """Means over prompts, each weighed by what it stands for in traffic, of means over a prompt's replies."""
    per_prompt = scores.group_by("prompt_id").agg(
        prompt_weight(scores).first().alias("weight"), *(one.mean().alias(str(k)) for k, one in enumerate(values))
    )
    table = per_prompt.sort("prompt_id").drop("prompt_id").to_numpy().astype(np.float64)
    return np.average(table[:, 1:], axis=0, weights=table[:, 0])


def _agreement(ours: pl.DataFrame, theirs: pl.DataFrame) -> dict[str, Any]:
    """Each member's predicted change of the mean live rate, and how many see the sign that P[signal] sees."""
    levels = [_member_means(frame) for frame in (ours, theirs)]
    if levels[0] is None or levels[1] is None or len(levels[0]) != len(levels[1]):
        return {}
    changes = levels[0] / levels[1] - 1
    mean, base = (float(_mean(frame, pl.col("live_probability"))[0]) for frame in (ours, theirs))
    return {
        "members": len(changes),
        "members_agreeing": int((np.sign(changes) == np.sign(mean - base)).sum()),
        "change_lowest": finite(float(changes.min())),
        "change_highest": finite(float(changes.max())),
    }


def _member_means(scores: pl.DataFrame) -> Array | None:
    """Mean live probability of each member over prompts; None where a reply was not scored by an ensemble."""
    column = "member_live_probability"
    if column not in scores.columns or scores[column].null_count():
        return None
    members = range(int(scores[column].list.len()[0]))
    return _mean(scores, *(pl.col(column).list.get(k) for k in members))


def _disputed(scores: pl.DataFrame, config: OfflineConfig) -> dict[str, Any]:
    if "disagreement" not in scores.columns or scores["disagreement"].null_count():
        return {}
    weight, disputed = prompt_weight(scores).first().alias("weight"), (pl.col("disagreement") > 1).mean()
    share = scores.group_by("prompt_id").agg(weight, disputed.alias("disputed")).sort("prompt_id")
    table = share.select(pl.col("disputed") * pl.col("weight"), "weight").to_numpy()
    found = clustered_share(table[:, 0], table[:, 1], config.confidence)
    return {"disputed": found.value, "disputed_low": found.low, "disputed_high": found.high}


def _spoilt(
    sources: Mapping[str, Evaluation], real: Mapping[str, pl.DataFrame], config: OfflineConfig, seed: int
) -> dict[str, Any]:
    """The best-scoring kind of spoilt replies against the lowest-scoring policy of the run, paired by prompt.

    Whether the evaluator reads is asked of it, not of traffic: every prompt tells that equally well, and weighs the same.
    """
    found = []
    for source, evaluation in sources.items():
        if evaluation.spoilt is None or evaluation.spoilt.is_empty():
            return {}
        for kind in KINDS:
            own = _per_prompt(evaluation.spoilt.filter(pl.col("kind") == kind))
            found += [_against(source, kind, own, policy, frame) for policy, frame in real.items()]
    worst = max(found, key=lambda pair: pair[0]["spoilt_mean"] / max(pair[0]["lowest_mean"], 1e-300))
    row, table = worst
    change = bootstrap(table, _relative, resamples=config.resamples, seed=seed, confidence=config.confidence)[0]
    return {
        **row,
        "spoilt_change": change.value,
        "spoilt_low": change.low,
        "spoilt_high": change.high,
        "spoilt_last": change.high is not None and change.high < 0,
    }


def _against(
    source: str, kind: str, spoilt: pl.DataFrame, policy: str, frame: pl.DataFrame
) -> tuple[dict[str, Any], Array]:
    pairs = spoilt.join(frame, on="prompt_id", suffix="_real").sort("prompt_id")
    table = pairs.select("live_probability", "live_probability_real").to_numpy()
    means = table.mean(axis=0)
    row = {"spoilt_kind": kind, "spoilt_of": source, "spoilt_mean": float(means[0])}
    return {**row, "lowest_policy": policy, "lowest_mean": float(means[1])}, table


def _ratio(totals: Array) -> Array:
    return np.asarray(totals[..., 0] / totals[..., 1])[..., None]


def _relative(totals: Array) -> Array:
    return _ratio(totals) - 1
