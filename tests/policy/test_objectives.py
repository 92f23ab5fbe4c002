"""Mixing objectives: hand-computed rewards, scales, and scores that say nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.policy.loop import reference_draws
from rluf_assets.policy.objectives import Normalisation, add_rewards, calibrated_reward

SCORES = pl.DataFrame(
    {
        "prompt_id": ["a", "a", "a"],
        "logit_love": [1.0, 3.0, 5.0],
        "logit_safety": [0.0, 0.0, 3.0],
        "probability_love": [0.1, 0.2, 0.4],
        "probability_safety": [0.5, 0.5, 0.9],
    }
)
OBJECTIVES = ("love", "safety")
SCALES = Normalisation({"love": 3.0, "safety": 1.0}, {"love": 2.0, "safety": 0.5})


def test_zscores_are_weighted_and_summed_by_name() -> None:
    mixed = add_rewards(SCORES, {"safety": 0.5, "love": 0.2}, OBJECTIVES, SCALES, "zscore")
    np.testing.assert_allclose(mixed["value_love"], [-1, 0, 1])
    np.testing.assert_allclose(mixed["value_safety"], [-2, -2, 4])
    np.testing.assert_allclose(mixed["reward"], [0.2 * -1 + 0.5 * -2, 0.5 * -2, 0.2 + 0.5 * 4])
    assert mixed["logit_love"].to_list() == [1.0, 3.0, 5.0]


def test_weights_are_not_renormalised() -> None:
    once = add_rewards(SCORES, {"love": 0.3}, OBJECTIVES, SCALES, "zscore")["reward"]
    twice = add_rewards(SCORES, {"love": 0.6}, OBJECTIVES, SCALES, "zscore")["reward"]
    np.testing.assert_allclose(twice, 2 * once)


@pytest.mark.parametrize(("mixing", "expected"), [("raw", [1.0, 3.0, 5.0]), ("probability", [0.1, 0.2, 0.4])])
def test_other_mixings(mixing: str, expected: list[float]) -> None:
    mixed = add_rewards(SCORES, {"love": 1.0}, OBJECTIVES, SCALES, mixing)
    np.testing.assert_allclose(mixed["reward"], expected)


def test_nan_in_a_weighted_objective_shows_and_in_an_unweighted_one_does_not() -> None:
    broken = SCORES.with_columns(logit_love=pl.Series([1.0, float("nan"), 5.0]))
    weighted = add_rewards(broken, {"love": 0.1, "safety": 1.0}, OBJECTIVES, SCALES, "zscore")["reward"]
    assert weighted.is_nan().to_list() == [False, True, False]
    without = add_rewards(broken, {"love": 0.0, "safety": 1.0}, OBJECTIVES, SCALES, "zscore")["reward"]
    assert not without.is_nan().any()


def test_scales_are_those_among_replies_to_one_prompt() -> None:
    scales = Normalisation.fit(SCORES, OBJECTIVES)
    assert scales.mean["love"] == pytest.approx(3.0)
    assert scales.std["love"] == pytest.approx(2.0)
    # Two prompts far apart: what decides an argmax is the spread of 1 and 3 about their own means, not the distance.
    apart = pl.DataFrame({"prompt_id": ["a", "a", "b", "b", "c"], "logit_love": [0.0, 2.0, 100.0, 106.0, 900.0]})
    scales = Normalisation.fit(apart, ("love",))
    assert scales.std["love"] == pytest.approx(((1 + 1 + 9 + 9) / 2) ** 0.5)
    assert scales.mean["love"] == pytest.approx(1108 / 5)


def test_one_reply_to_each_prompt_has_no_scale() -> None:
    with pytest.raises(DataError, match="0 degrees of freedom"):
        Normalisation.fit(pl.DataFrame({"prompt_id": ["a", "b"], "logit_love": [0.0, 2.0]}), ("love",))


@pytest.mark.parametrize(
    ("prompts", "samples", "expected"), [(1920, 512, (256, 2)), (96, 96, (48, 2)), (30, 512, (30, 8)), (5, 1, (1, 2))]
)
def test_reference_replies_are_two_to_a_prompt_or_more_where_prompts_are_few(
    prompts: int, samples: int, expected: tuple[int, int]
) -> None:
    assert reference_draws(prompts, samples) == expected


def test_scales_leave_nan_out_and_refuse_a_constant_score() -> None:
    broken = SCORES.with_columns(logit_love=pl.Series([1.0, float("nan"), 5.0]))
    assert Normalisation.fit(broken, ("love",)).mean["love"] == pytest.approx(3.0)
    with pytest.raises(DataError, match=r"'safety'.*without any spread"):
        Normalisation.fit(SCORES.with_columns(logit_safety=pl.lit(0.4)), OBJECTIVES)


@pytest.mark.parametrize("size", [0.03, 3.0, 700.0])
def test_what_float32_rounds_away_is_no_spread(size: float) -> None:
    """A constant reward, its last bits as a batch's order leaves them, would become noise of unit variance."""
    noise = np.random.default_rng(0).integers(-3, 4, 64) * np.spacing(np.float32(size))
    rows = pl.DataFrame({"prompt_id": np.arange(64) // 4, "logit_love": np.float32(size) + noise})
    with pytest.raises(DataError, match="without any spread but rounding"):
        Normalisation.fit(rows, ("love",))
    told = rows.with_columns(logit_love=pl.col("logit_love") + size * 1e-4 * np.arange(64))
    assert Normalisation.fit(told, ("love",)).std["love"] > 0


def test_calibrated_reward_is_the_chance_to_beat_the_baseline() -> None:
    np.testing.assert_allclose(
        calibrated_reward(np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.0, 2.0])),
        [0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))],
    )
    assert calibrated_reward(np.array([-900.0, 900.0]), np.zeros(2)).tolist() == [0.0, 1.0]
