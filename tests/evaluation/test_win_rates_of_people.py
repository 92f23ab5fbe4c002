"""Win rates on real pairs: people's choices between two replies, read as two policies that answered the same prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rluf_assets.evaluation.config import OfflineConfig
from rluf_assets.evaluation.frames import Evaluation, check_evaluation
from rluf_assets.evaluation.offline import OfflineComparison, compare_offline
from rluf_assets.feedback.config import PairsConfig
from rluf_assets.feedback.pairs import build_pairs
from rluf_assets.rewards.baselines import BagOfWords

CONFIG = OfflineConfig(baseline="rejected", love_objective="helpfulness", resamples=500)


def side_of(pairs: pl.DataFrame, side: str, margin: np.ndarray) -> Evaluation:
    """All chosen, or all rejected, replies as one policy's; the score of a pair stands on its chosen side."""
    completions = pairs.select(
        pl.col("pair_id").alias("prompt_id"),
        pl.lit(0).alias("completion_id"),
        pl.col("use_case").fill_null("help"),
        "prompt",
        pl.col(side).list.last().struct.field("content").alias("completion"),
        pl.lit(True).alias("finished"),
    )
    logit = margin if side == "chosen" else np.zeros(len(margin))
    live = 1 / (1 + np.exp(-logit))
    scores = completions.select("prompt_id", "completion_id", "use_case").with_columns(
        pl.lit("helpfulness").alias("objective"),
        *(
            pl.Series(name, values)
            for name, values in (("logit", logit), ("probability", live), ("live_probability", live))
        ),
    )
    return check_evaluation(side, Evaluation(completions, scores))


@pytest.fixture(scope="module")
def pairs(public_data: Path) -> pl.DataFrame:
    """Held-out pairs of people's choices with `margin`: chosen minus rejected, of a bag of words fitted on the others."""
    if not (public_data / "hh_rlhf").is_dir():
        pytest.skip("needs shared/data/hh_rlhf")
    source = f"{public_data}/hh_rlhf/helpful-*.jsonl.gz"
    built = build_pairs(PairsConfig(format="transcripts", source=source), seed=0)
    train, held = (
        part.with_columns(
            pl.col(side).list.last().struct.field("content").alias(side) for side in ("chosen", "rejected")
        )
        for part in (built.train, built.eval)
    )
    margin = BagOfWords().fit_pairs(train).score_pairs(held)
    return built.eval.with_columns(pl.Series("margin", margin))


def compared(pairs: pl.DataFrame) -> OfflineComparison:
    margin = pairs["margin"].to_numpy()
    return compare_offline({side: side_of(pairs, side, margin) for side in ("rejected", "chosen")}, CONFIG, seed=0)


def test_the_win_rate_is_the_share_of_choices_that_the_evaluator_shares(pairs: pl.DataFrame) -> None:
    row = compared(pairs).row("chosen", "helpfulness")
    margin = pairs["margin"].to_numpy()
    assert row["win_rate"] == pytest.approx(np.mean(np.where(margin == 0, 0.5, margin > 0)))
    assert 0.5 < row["win_low"] < row["win_rate"] < row["win_high"] < 0.8  # type: ignore[operator]
    half = 1.96 * np.sqrt(row["win_rate"] * (1 - row["win_rate"]) / len(pairs))  # type: ignore[operator]
    assert row["win_high"] - row["win_low"] == pytest.approx(2 * half, rel=0.15)  # type: ignore[operator]
    assert row["p_value"] < 0.001  # type: ignore[operator]


def test_an_evaluator_that_knows_nothing_wins_half_and_ties_count_half(pairs: pl.DataFrame) -> None:
    coin = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], len(pairs))
    row = compared(pairs.with_columns(pl.Series("margin", coin))).row("chosen", "helpfulness")
    assert row["win_low"] < 0.5 < row["win_high"]  # type: ignore[operator]
    tied = compared(pairs.with_columns(pl.lit(0.0).alias("margin"))).row("chosen", "helpfulness")
    assert (tied["win_rate"], tied["win_low"], tied["win_high"]) == (0.5, 0.5, 0.5)
