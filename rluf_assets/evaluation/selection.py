"""What if other weights chose? The best reply per prompt under given weights, from replies that are already scored.

    picks = {f"love {w}": best_of(evaluations, {"helpfulness": 0.7, "safety": 0.3, "love": w}) for w in (0.0, 0.1, 0.3)}
    compare_offline(picks, OfflineConfig(baseline="love 0.0"), seed=0)      # the predicted trade-off, with intervals

A choice among what candidates already say, not a trained policy: it shows the direction and the price of a weight, and
training goes further the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.evaluation.frames import Evaluation


def best_of(
    evaluations: Mapping[str, Evaluation], weights: Mapping[str, float], *, judges: Sequence[str] = ()
) -> Evaluation:
    """One reply per prompt: of all candidates' replies, the one with the largest sum of weight x z-scored logit.

    Logits are z-scored over all replies. Replies that one of `judges` fails are left out where another one passes.
    Raises ConfigError for a weight that is negative or of an unknown objective, DataError without evaluations.
    """
    if not evaluations:
        raise DataError("best_of: found no evaluations, expected at least one candidate's. Materialise some.")
    objectives = next(iter(evaluations.values())).objectives
    wrong = {name: weight for name, weight in weights.items() if name not in objectives or not weight >= 0}
    if wrong or not any(weights.values()):
        raise ConfigError(
            f"weights {dict(weights)}: expected non-negative numbers, not all zero, for some of {objectives}."
        )
    keys = ["candidate", "prompt_id", "completion_id"]
    named = {name: pl.lit(name).alias("candidate") for name in evaluations}
    completions = pl.concat([found.completions.with_columns(named[name]) for name, found in evaluations.items()])
    scores = pl.concat([found.scores.with_columns(named[name]) for name, found in evaluations.items()])
    logit = pl.col("logit")
    z = ((logit - logit.mean()) / logit.std()).over("objective").fill_nan(0.0)
    weight = pl.col("objective").replace_strict(dict(weights), default=0.0, return_dtype=pl.Float64)
    worth = scores.with_columns((z * weight).alias("worth")).group_by(keys).agg(pl.col("worth").sum())
    passed = pl.all_horizontal(pl.col(f"judge_{judge}").fill_null(True) for judge in judges) if judges else pl.lit(True)
    chosen = (
        completions.select(*keys, passed.alias("passed"))
        .join(worth, on=keys)
        .sort("passed", "worth", "candidate", "completion_id", descending=[True, True, False, False])
        .unique("prompt_id", keep="first", maintain_order=True)
        .select(keys)
    )
    picked = [
        frame.join(chosen, on=keys).drop("candidate").with_columns(completion_id=pl.lit(0, pl.Int32)).sort("prompt_id")
        for frame in (completions, scores)
    ]
    return Evaluation(*picked)
