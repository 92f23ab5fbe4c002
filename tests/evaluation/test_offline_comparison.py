"""Comparing candidates on fixed prompts: planted effects, pairing, ties, and inputs that do not belong together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.evaluation.config import OfflineConfig
from rluf_assets.evaluation.frames import Evaluation, check_evaluation, read_evaluation
from rluf_assets.evaluation.offline import OfflineComparison, compare_offline, paired_scores
from tests.evaluation.world import completions_of, prompt_frame, scores_of, write_evaluation

CONFIG = OfflineConfig(resamples=500)


def evaluation(seed: int, prompts: int = 300, per_prompt: int = 2, **shifts: float) -> Evaluation:
    completions = completions_of(prompt_frame(prompts), seed=seed, per_prompt=per_prompt)
    return check_evaluation("x", Evaluation(completions, scores_of(completions, seed=seed, **shifts)))


@pytest.fixture(scope="module")
def comparison() -> OfflineComparison:
    found = {
        "baseline": evaluation(1),
        "same": evaluation(2),
        "warm": evaluation(3, love=0.3, helpfulness=-0.4),
        "worse": evaluation(4, love=-1.0, helpfulness=-1.0, safety=-1.0),
    }
    return compare_offline(found, CONFIG, seed=0)


def test_planted_effects_are_found(comparison: OfflineComparison) -> None:
    warm = comparison.row("warm", "love")
    assert warm["change_low"] < math.exp(0.3) - 1 < warm["change_high"]  # type: ignore[operator]
    helpful = comparison.row("warm", "helpfulness")
    assert helpful["difference_low"] < -0.4 < helpful["difference_high"]  # type: ignore[operator]
    assert helpful["win_high"] < 0.5  # type: ignore[operator]
    assert helpful["change"] is None  # a logit has no zero: no relative change of it


def test_baseline_against_itself_is_exactly_even(comparison: OfflineComparison) -> None:
    row = comparison.row("baseline", "love")
    assert (row["difference"], row["change"], row["change_low"], row["change_high"]) == (0.0, 0.0, 0.0, 0.0)
    assert (row["win_rate"], row["p_value"]) == (0.5, 1.0)


def test_pareto_front(comparison: OfflineComparison) -> None:
    front = dict(comparison.pareto.select("candidate", "on_front").iter_rows())
    assert front["warm"]
    assert not front["worse"]


def test_use_cases_are_corrected_for_their_number(comparison: OfflineComparison) -> None:
    cases = comparison.objectives.filter((pl.col("segment") != "all") & (pl.col("candidate") == "same"))
    assert cases["segment"].n_unique() == 6
    assert (cases["p_adjusted"] >= cases["p_value"] - 1e-12).all()
    assert cases.filter(pl.col("p_adjusted") < 0.05).height <= 1
    warm = comparison.objectives.filter((pl.col("segment") != "all") & (pl.col("candidate") == "warm"))
    assert warm.filter((pl.col("objective") == "helpfulness") & (pl.col("p_adjusted") < 0.05)).height >= 5


def test_a_prompt_counts_as_often_as_it_stands_for_replies() -> None:
    """Weighing three prompts of four as three equals asking each of them three times; the logged weight decides the sign."""
    base, warm = evaluation(1, prompts=80), evaluation(3, prompts=80, love=0.3)
    weights = base.completions.select("prompt_id").unique().sort("prompt_id")
    weights = weights.with_columns(weight=pl.when(pl.int_range(pl.len()) % 4 > 0).then(3.0).otherwise(1.0))

    def weighted(found: Evaluation) -> Evaluation:
        both = [
            frame.join(weights, on="prompt_id", maintain_order="left") for frame in (found.completions, found.scores)
        ]
        return check_evaluation("x", Evaluation(*both))

    row = compare_offline({"baseline": weighted(base), "warm": weighted(warm)}, CONFIG, seed=0).row("warm", "love")
    pairs = paired_scores(weighted(warm), weighted(base), "love", "love")
    often = pairs.select(pl.exclude("weight").repeat_by(pl.col("weight").cast(pl.Int64)).explode())
    assert row["mean"] == pytest.approx(often["value"].mean())
    assert row["change"] == pytest.approx(often["value"].mean() / often["baseline"].mean() - 1)
    assert row["win_rate"] == pytest.approx(often["win"].mean())
    assert row["mean_low"] < row["mean"] < row["mean_high"] and row["mean"] != pytest.approx(pairs["value"].mean())


def test_ties_count_one_half() -> None:
    base = evaluation(1, prompts=12)
    tied = Evaluation(base.completions, base.scores.with_columns(pl.lit(1.0).alias("logit")))
    pairs = paired_scores(tied, tied, "safety", "love")
    assert (pairs["win"] == 0.5).all()


def test_coverage_of_the_paired_interval() -> None:
    """The change of a mean over prompts, with very unequal prompts: 95% intervals hold the truth."""
    rng = np.random.default_rng(0)
    prompts = prompt_frame(120)
    completions = completions_of(prompts, seed=1, per_prompt=1)
    covered, runs = 0, 200
    config = OfflineConfig(resamples=400, min_use_case_prompts=1000)
    scores = scores_of(completions, seed=1)
    love_only = scores.filter(pl.col("objective") == "love")
    for run in range(runs):
        level = rng.gamma(1.0, 0.001, 120)
        sides = [level * factor * np.exp(0.2 * rng.standard_normal(120)) for factor in (1.0, 1.1)]
        base, arm = (Evaluation(completions, love_only.with_columns(pl.Series("live_probability", s))) for s in sides)
        row = compare_offline({"baseline": base, "b": arm}, config, seed=run).row("b", "love")
        covered += row["change_low"] <= 0.1 <= row["change_high"]  # type: ignore[operator]
    assert abs(covered / runs - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / runs)


def test_correlations_are_within_prompts() -> None:
    """Prompts that every objective likes must not make objectives agree; replies that both like must."""
    base = evaluation(1, per_prompt=3)
    keys = ["prompt_id", "completion_id"]
    rng = np.random.default_rng(0)
    level = pl.col("prompt_id").rank("dense").over("objective") * 1.0
    shared = base.completions.select(keys).with_columns(pl.Series("shared", rng.standard_normal(len(base.completions))))
    scores = base.scores.join(shared, on=keys, maintain_order="left")
    own = pl.Series("own", rng.standard_normal(len(scores)))
    apart = Evaluation(base.completions, scores.with_columns((level + own).alias("logit")))
    together = Evaluation(base.completions, scores.with_columns((pl.col("shared") + 0.1 * own).alias("logit")))

    def correlation(found: Evaluation) -> float:
        table = compare_offline({"baseline": found}, CONFIG, seed=0).correlations
        pair = (
            (pl.col("objective") == "helpfulness") & (pl.col("other") == "safety") & (pl.col("level") == "completions")
        )
        return float(table.filter(pair)["r"][0])

    assert abs(correlation(apart)) < 0.15
    assert correlation(together) > 0.9


def test_same_inputs_and_seed_give_the_same_bytes(comparison: OfflineComparison, tmp_path: Path) -> None:
    found = {"baseline": evaluation(1), "warm": evaluation(3, love=0.3)}
    for name in ("a", "b"):
        compare_offline(found, CONFIG, seed=7).objectives.write_parquet(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_candidates_evaluated_differently_are_refused() -> None:
    base = evaluation(1)
    with pytest.raises(DataError, match="60 missing, expected the same 300"):
        compare_offline({"baseline": base, "b": evaluation(2, prompts=240)}, CONFIG, seed=0)
    unsafe = Evaluation(base.completions, base.scores.filter(pl.col("objective") != "safety"))
    with pytest.raises(DataError, match="Evaluate both with the same reward models"):
        compare_offline({"baseline": base, "b": unsafe}, CONFIG, seed=0)
    with pytest.raises(DataError, match="expected the baseline 'baseline'"):
        compare_offline({"b": base}, CONFIG, seed=0)
    with pytest.raises(DataError, match="expected 'thumbs' among them"):
        compare_offline({"baseline": base}, OfflineConfig(love_objective="thumbs"), seed=0)


def test_scores_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    base = evaluation(1, prompts=12)
    diverged = base.scores.with_columns(pl.lit(float("nan")).alias("logit"))
    with pytest.raises(DataError, match="missing or not finite"):
        check_evaluation("b", Evaluation(base.completions, diverged))
    with pytest.raises(DataError, match="expected all 24"):
        check_evaluation("b", Evaluation(base.completions, base.scores.head(len(base.scores) - 1)))
    with pytest.raises(DataError, match="found a completion twice"):
        check_evaluation("b", Evaluation(pl.concat([base.completions, base.completions]), base.scores))
    uncalibrated = base.scores.with_columns(pl.lit(None, pl.Float64).alias("live_probability"))
    with pytest.raises(DataError, match=r"calibration\.json"):
        compare_offline({"baseline": Evaluation(base.completions, uncalibrated)}, CONFIG, seed=0)
    with pytest.raises(ArtifactMissing, match=r"completions\.parquet"):
        read_evaluation("b", tmp_path)


def test_verdicts_may_come_as_a_struct(tmp_path: Path) -> None:
    base = evaluation(1, prompts=12)
    verdicts = pl.struct(unsafe_compliance="judge_unsafe_compliance", false_refusal="judge_false_refusal").alias(
        "verdicts"
    )
    packed = base.completions.with_columns(verdicts).drop("judge_unsafe_compliance", "judge_false_refusal")
    found = read_evaluation("b", write_evaluation(tmp_path, packed, base.scores))
    assert found.judges == ["unsafe_compliance", "false_refusal"]
