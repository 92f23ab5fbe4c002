"""Offline comparison of candidates on the fixed prompts, from completions and scores.

The unit of analysis is the prompt, and every prompt is another user's: completions of one prompt are not independent, and
every candidate answered the same prompts, so intervals resample prompts and comparisons with the baseline are paired by prompt.
Averages weigh each prompt by what it stands for in traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rluf_assets.charts import colours
from rluf_assets.errors import DataError
from rluf_assets.evaluation import plots
from rluf_assets.evaluation.config import OfflineConfig
from rluf_assets.evaluation.frames import ALL, Evaluation, prompt_weight, require_baseline
from rluf_assets.evaluation.stats import Array, benjamini_hochberg, bootstrap, paired_p_value, pearson

if TYPE_CHECKING:
    import plotly.graph_objects as go

OBJECTIVE_SCHEMA: dict[str, Any] = {
    "candidate": pl.String, "objective": pl.String, "segment": pl.String, "prompts": pl.Int64,
    "mean": pl.Float64, "mean_low": pl.Float64, "mean_high": pl.Float64,
    "difference": pl.Float64, "difference_low": pl.Float64, "difference_high": pl.Float64,
    "change": pl.Float64, "change_low": pl.Float64, "change_high": pl.Float64,
    "win_rate": pl.Float64, "win_low": pl.Float64, "win_high": pl.Float64,
    "p_value": pl.Float64, "p_adjusted": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class OfflineComparison:
    """What the offline evaluator says.

    objectives: one row per candidate x objective x segment ("all" or a use case); `change`, the relative change of the
    mean, stands only for love (its live probability is a rate; the others are logits without a zero).
    pareto: one row per candidate: mean per objective and `on_front`.
    correlations: one row per pair of objectives, over completions (per candidate) and over policies.
    love: the objective whose live rate is predicted. references: the baseline, then controls; drawn in greys.
    """

    objectives: pl.DataFrame
    pareto: pl.DataFrame
    correlations: pl.DataFrame
    love: str = "love"
    references: tuple[str, ...] = ("baseline",)

    def row(self, candidate: str, objective: str, segment: str = ALL) -> dict[str, float | None]:
        """Figures of one candidate, objective and segment."""
        same = (pl.col("candidate") == candidate) & (pl.col("objective") == objective) & (pl.col("segment") == segment)
        return self.objectives.filter(same).row(0, named=True)

    @property
    def candidates(self) -> list[str]:
        """All that were compared."""
        return self.pareto["candidate"].to_list()

    @property
    def styles(self) -> dict[str, tuple[str, str]]:
        """Colour and marker of each candidate, the same in every plot."""
        return colours(self.candidates, self.references)

    def plot_trade_off(self) -> go.Figure:
        """One panel per objective: predicted change of love, and shares of comparisons won, with intervals."""
        return plots.trade_off(self, self.love, self.styles).figure

    def plot_pareto(self, against: str) -> go.Figure:
        """What more love costs in another objective."""
        return plots.pareto(self, self.love, against, self.styles).figure

    def plot_use_cases(self) -> go.Figure | None:
        """Predicted change of love by use case; None where no use case has enough prompts."""
        plot = plots.by_use_case(self, self.love, self.references, self.styles)
        return None if plot is None else plot.figure

    def _repr_html_(self) -> str:
        shown = self.objectives.filter(pl.col("segment") == ALL)
        return str(shown._repr_html_())


def compare_offline(evaluations: Mapping[str, Evaluation], config: OfflineConfig, *, seed: int) -> OfflineComparison:
    """Compare every candidate with the baseline.

    Raises DataError for a missing baseline, other prompts or other objectives than the baseline's, or an unknown love
    objective.
    """
    base = require_baseline("offline evaluation", evaluations, config.baseline)
    if config.love_objective not in base.objectives:
        raise DataError(
            f"offline evaluation: found objectives {base.objectives}, expected {config.love_objective!r} among them. "
            "Set love_objective to the signal's objective."
        )
    rows: list[dict[str, object]] = []
    for name, found in evaluations.items():
        require_comparable(name, found, base, config.baseline)
        for objective in base.objectives:
            pairs = paired_scores(found, base, objective, config.love_objective)
            rows += _segments(name, objective, pairs, config, seed)
    objectives = _with_adjusted(pl.DataFrame(rows, schema_overrides=OBJECTIVE_SCHEMA))
    objectives = objectives.select(*OBJECTIVE_SCHEMA)
    tables = objectives, pareto_front(objectives), correlations(evaluations, objectives, config)
    return OfflineComparison(*tables, config.love_objective, (config.baseline,))


def require_comparable(name: str, found: Evaluation, base: Evaluation, baseline: str) -> None:
    """Raise DataError unless a candidate was evaluated on the baseline's prompts and objectives."""
    ours, theirs = set(found.completions["prompt_id"]), set(base.completions["prompt_id"])
    if ours != theirs:
        raise DataError(
            f"offline_evaluation[{name}]: found {len(ours - theirs)} prompts that {baseline!r} was not evaluated on "
            f"and {len(theirs - ours)} missing, expected the same {len(theirs)}. Evaluate both on the current prompts."
        )
    if found.objectives != base.objectives:
        raise DataError(
            f"offline_evaluation[{name}]: found objectives {found.objectives}, expected {base.objectives} as for "
            f"{baseline!r}. Evaluate both with the same reward models."
        )


def objective_values(found: Evaluation, objective: str, love_objective: str) -> pl.DataFrame:
    """prompt_id, completion_id, use_case, weight, value: live probability for love, the logit for the others."""
    column = "live_probability" if objective == love_objective else "logit"
    scores = found.scores.filter(pl.col("objective") == objective)
    if scores[column].null_count():
        raise DataError(
            f"scores of {objective!r}: found {scores[column].null_count()} missing values of {column!r}, expected one "
            "per completion. The reward model needs a calibration.json with the live rate."
        )
    value = pl.col(column).alias("value")
    return scores.select("prompt_id", "completion_id", "use_case", prompt_weight(scores), value).sort(
        "prompt_id", "completion_id"
    )


def paired_scores(found: Evaluation, base: Evaluation, objective: str, love_objective: str) -> pl.DataFrame:
    """One row per prompt: use_case, mean value of candidate and baseline, win rate over all pairs of completions.

    A tie counts one half; columns prompt_id, use_case, weight (in traffic), value, baseline, win.
    """
    ours = objective_values(found, objective, love_objective)
    theirs = objective_values(base, objective, love_objective)
    duel = ours.join(theirs, on="prompt_id", suffix="_base")
    won = (pl.col("value") > pl.col("value_base")).cast(pl.Float64) + 0.5 * (
        pl.col("value") == pl.col("value_base")
    ).cast(pl.Float64)
    wins = duel.group_by("prompt_id").agg(won.mean().alias("win"))
    # Means per side, not over the duels: a candidate against itself must differ by exactly nothing.
    means = ours.group_by("prompt_id", maintain_order=True).agg(
        pl.col("use_case", "weight").first(), pl.col("value").mean()
    )
    base_means = theirs.group_by("prompt_id", maintain_order=True).agg(pl.col("value").mean().alias("baseline"))
    return means.join(base_means, on="prompt_id").join(wins, on="prompt_id").sort("prompt_id")


def _segments(
    name: str, objective: str, pairs: pl.DataFrame, config: OfflineConfig, seed: int
) -> list[dict[str, object]]:
    rows = [_compared(name, objective, ALL, pairs, config, seed)]
    for (use_case,), part in sorted(pairs.group_by("use_case"), key=lambda item: str(item[0][0])):
        if len(part) >= config.min_use_case_prompts:
            rows.append(_compared(name, objective, str(use_case), part.sort("prompt_id"), config, seed))
    return rows


def _compared(
    name: str, objective: str, segment: str, pairs: pl.DataFrame, config: OfflineConfig, seed: int
) -> dict[str, object]:
    weights, values, base, wins = (pairs[c].to_numpy() for c in ("weight", "value", "baseline", "win"))
    table = weights[:, None] * np.column_stack([np.ones(len(pairs)), values, base, wins])

    def statistic(totals: Array) -> Array:
        n, ours, theirs, won = np.moveaxis(np.asarray(totals), -1, 0)
        return np.stack([ours / n, (ours - theirs) / n, ours / theirs - 1, won / n], axis=-1)

    mean, difference, change, win = bootstrap(
        table, statistic, resamples=config.resamples, seed=seed, confidence=config.confidence
    )
    is_love = objective == config.love_objective
    return {
        "candidate": name, "objective": objective, "segment": segment, "prompts": len(pairs),
        "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high,
        "difference": difference.value, "difference_low": difference.low, "difference_high": difference.high,
        "change": change.value if is_love else None,
        "change_low": change.low if is_love else None,
        "change_high": change.high if is_love else None,
        "win_rate": win.value, "win_low": win.low, "win_high": win.high,
        "p_value": paired_p_value(weights * (values - base)),
    }  # fmt: skip


def _with_adjusted(objectives: pl.DataFrame) -> pl.DataFrame:
    """Benjamini-Hochberg over a candidate's use cases and objectives; the overall rows stand as they are."""
    parts = []
    for _, part in objectives.group_by("candidate", pl.col("segment") == ALL, maintain_order=True):
        adjust = part["segment"][0] != ALL
        adjusted = benjamini_hochberg(part["p_value"].to_list()) if adjust else part["p_value"].to_list()
        parts.append(part.with_columns(pl.Series("p_adjusted", adjusted, dtype=pl.Float64)))
    return pl.concat(parts)


def pareto_front(objectives: pl.DataFrame) -> pl.DataFrame:
    """candidate, mean per objective, on_front: no other candidate is as good everywhere and better once."""
    overall = objectives.filter(pl.col("segment") == ALL)
    wide = overall.pivot(on="objective", index="candidate", values="mean", maintain_order=True)
    points = wide.drop("candidate").to_numpy()
    dominated = [bool(np.any(np.all(points >= point, axis=1) & np.any(points > point, axis=1))) for point in points]
    return wide.with_columns(pl.Series("on_front", [not d for d in dominated]))


def correlations(
    evaluations: Mapping[str, Evaluation], objectives: pl.DataFrame, config: OfflineConfig
) -> pl.DataFrame:
    """Pearson's r of each pair of objectives over completions (level "completions", per candidate) and over policies.

    Over completions the values are centred by prompt first: the question is whether, of two replies to one prompt, both
    objectives like the same one better.
    """
    rows: list[dict[str, object]] = []
    for name, found in evaluations.items():
        wide = _wide_centred(found, config.love_objective)
        rows += _pairs_of("completions", name, wide, config)
    overall = objectives.filter(pl.col("segment") == ALL)
    policies = overall.pivot(on="objective", index="candidate", values="mean", maintain_order=True)
    rows += _pairs_of("policies", ALL, policies, config)
    schema = {"level": pl.String, "candidate": pl.String, "objective": pl.String, "other": pl.String, "r": pl.Float64}
    return pl.DataFrame(rows, schema_overrides={**schema, "r_low": pl.Float64, "r_high": pl.Float64})


def _wide_centred(found: Evaluation, love_objective: str) -> pl.DataFrame:
    wide: pl.DataFrame | None = None
    for objective in found.objectives:
        values = objective_values(found, objective, love_objective).select(
            "prompt_id", "completion_id", pl.col("value").alias(objective)
        )
        wide = values if wide is None else wide.join(values, on=["prompt_id", "completion_id"])
    assert wide is not None
    several = wide.filter(pl.len().over("prompt_id") > 1)
    if several.is_empty():  # one completion per prompt: nothing to centre by
        return wide
    return several.with_columns(pl.col(o) - pl.col(o).mean().over("prompt_id") for o in found.objectives)


def _pairs_of(level: str, candidate: str, wide: pl.DataFrame, config: OfflineConfig) -> list[dict[str, object]]:
    names = [c for c in wide.columns if wide.schema[c] == pl.Float64]
    rows: list[dict[str, object]] = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            r = pearson(wide[a].to_list(), wide[b].to_list(), confidence=config.confidence)
            rows.append(
                {
                    "level": level, "candidate": candidate, "objective": a, "other": b, "n": len(wide),
                    "r": r.value, "r_low": r.low, "r_high": r.high,
                }
            )  # fmt: skip
    return rows
