"""What the evaluator says about its own limits: the ensemble, the spoilt replies, and the gate that reads them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import OfflineConfig, ReleaseConfig
from rluf_assets.evaluation.decision import Result
from rluf_assets.evaluation.degenerate import spoil, spoilt_sample
from rluf_assets.evaluation.frames import Evaluation, check_evaluation
from rluf_assets.evaluation.trust import assess_trust
from rluf_assets.evaluation.trust_gate import trust_gate
from tests.evaluation.world import LOVE_RATE, completions_of, prompt_frame, scores_of, spoilt_of

CONFIG = OfflineConfig(baseline="a", resamples=200)
PROMPTS = prompt_frame(120)
BACKTEST = {"pearson_r": 0.95, "ci": [0.8, 0.99], "policies": 10}
NEAR = pl.DataFrame(
    {
        "candidate": ["b"],
        "tripwire": ["out_of_distribution"],
        "value": [0.02],
        "value_low": [0.01],
        "value_high": [0.05],
    }
)


def evaluation_of(seed: int, *, love: float = 0.0, spoilt: float | None = 0.1, **options: object) -> Evaluation:
    """A candidate whose spoilt replies score `spoilt` times the love rate."""
    completions = completions_of(PROMPTS, seed=seed)
    control = None if spoilt is None else spoilt_of(completions, seed=0, live=spoilt * LOVE_RATE)
    return check_evaluation(
        "x", Evaluation(completions, scores_of(completions, seed=seed, love=love, **options), control)
    )  # type: ignore[arg-type]


def row_of(candidate: Evaluation, base: Evaluation | None = None) -> dict:
    found = assess_trust({"a": base or evaluation_of(1), "b": candidate}, CONFIG, seed=0)
    return found.row(1, named=True)


def gate_of(candidate: Evaluation, backtest: dict | None = BACKTEST, near: pl.DataFrame = NEAR):  # type: ignore[no-untyped-def]
    trust = assess_trust({"a": evaluation_of(1), "b": candidate}, CONFIG, seed=0)
    return trust_gate("b", backtest, near, trust, ReleaseConfig())


def test_members_that_agree_are_told_apart_from_members_that_do_not() -> None:
    agreed = row_of(evaluation_of(2, love=0.3))
    assert (agreed["members"], agreed["members_agreeing"], agreed["disputed"]) == (3, 3, 0.0)
    assert 0.1 < agreed["change_lowest"] < agreed["change_highest"] < 0.6
    split = row_of(evaluation_of(2, love=0.1, members=(-0.4, 0.0, 0.4)))
    assert split["members_agreeing"] < 3
    assert split["change_lowest"] < 0 < split["change_highest"]
    assert split["disputed"] == 1.0
    assert 0.95 < split["disputed_low"] < split["disputed_high"] == 1.0, (
        "all of 120 prompts, not all that there could be"
    )


def test_spoilt_replies_must_surely_score_below_the_lowest_policy_of_the_run() -> None:
    low = row_of(evaluation_of(2))
    assert low["spoilt_last"]
    assert low["spoilt_high"] < -0.5
    high = row_of(evaluation_of(2, spoilt=2.0))
    assert not high["spoilt_last"]
    assert (high["spoilt_of"], high["spoilt_mean"]) == ("b", pytest.approx(2 * LOVE_RATE, rel=0.05))
    assert not row_of(evaluation_of(2), evaluation_of(1, spoilt=2.0))["spoilt_last"]
    against_a_bad_policy = {"a": evaluation_of(1), "b": evaluation_of(2), "bad": evaluation_of(3, love=-4.0)}
    assert assess_trust(against_a_bad_policy, CONFIG, seed=0)["lowest_policy"].to_list() == ["bad"] * 3


@pytest.mark.parametrize(
    ("candidate", "doubt"),
    [
        (
            evaluation_of(2, love=0.3, members=(-0.3, 0.0, 0.3)),
            "P[love]'s ensemble disagrees: 100.0% (97.0% to 100.0%) of its replies",
        ),
        (evaluation_of(2, love=0.3, members=(-1.0, 0.0, 0.1)), "only 2 of 3 members of the ensemble see"),
        (evaluation_of(2, love=0.3, members=()), "P[love] has no ensemble to check it by"),
        (
            evaluation_of(2, love=0.3, spoilt=2.0),
            "replies spoilt on purpose do not score last (shuffled ones of b 0.20%, a's",
        ),
        (evaluation_of(2, love=0.3, spoilt=None), "no shuffled or truncated replies were scored"),
    ],
)
def test_each_doubt_opens_the_gate_and_says_why(candidate: Evaluation, doubt: str) -> None:
    gate = gate_of(candidate)
    assert gate.result in (Result.NOT_SHOWN, Result.NOT_MEASURED)
    assert doubt in gate.detail


def test_backtest_and_distance_are_doubted_too() -> None:
    good = evaluation_of(2, love=0.3)
    assert gate_of(good).result is Result.PASS
    assert "3 members of the ensemble agree" in gate_of(good).detail
    assert "no backtest" in gate_of(good, None).detail
    assert "may be below" in gate_of(good, {**BACKTEST, "ci": [0.2, 0.99]}).detail
    assert "says nothing" in gate_of(good, {**BACKTEST, "pearson_r": None, "ci": [None, None]}).detail
    far = NEAR.with_columns(value=pl.lit(0.4), value_low=pl.lit(0.3), value_high=pl.lit(0.5))
    assert (
        "40.0% (30.0% to 50.0%) of its replies lie far from the logged ones, more than 20.0%"
        in gate_of(good, near=far).detail
    )
    unsure = NEAR.with_columns(value=pl.lit(0.15), value_high=pl.lit(0.25))
    assert gate_of(good, near=unsure).result is Result.NOT_SHOWN, "judged by its interval, not by its point"
    assert "perhaps more than 20.0%" in gate_of(good, near=unsure).detail
    assert gate_of(good, near=NEAR.with_columns(value_high=pl.lit(float("nan")))).result is Result.NOT_MEASURED
    assert "was not measured" in gate_of(good, near=NEAR.clear()).detail


def test_a_run_without_its_baseline_or_with_broken_controls_is_refused() -> None:
    with pytest.raises(DataError, match="expected the baseline 'baseline'"):
        assess_trust({"b": evaluation_of(2)}, OfflineConfig(), seed=0)
    good = evaluation_of(2)
    assert good.spoilt is not None
    nothing = good.spoilt.with_columns(pl.lit(None, pl.Float64).alias("live_probability"))
    with pytest.raises(DataError, match=r"spoilt: found .* missing or not finite"):
        check_evaluation("b", Evaluation(good.completions, good.scores, nothing))


def test_spoilt_replies_keep_their_words_or_lose_them() -> None:
    texts = pl.DataFrame({"prompt_id": ["a", "b"], "completion": ["one two three four five six", ""]})
    shuffled, empty, truncated, _ = spoil(texts, seed=0)["completion"].to_list()
    assert sorted(shuffled.split()) == ["five", "four", "one", "six", "three", "two"]
    assert shuffled != "one two three four five six"
    assert (empty, truncated) == ("", "one two")


def test_every_candidate_has_the_same_prompts_spoilt() -> None:
    samples = [spoilt_sample(completions_of(PROMPTS, seed=seed), 40, seed=0) for seed in (1, 2)]
    assert samples[0]["prompt_id"].to_list() == samples[1]["prompt_id"].to_list()
    assert samples[0]["prompt_id"].n_unique() == 40
    assert np.all(samples[0]["completion"].str.count_matches(r"\S+").to_numpy() >= 2)
    short = completions_of(PROMPTS, seed=1).with_columns(pl.lit("yes please").alias("completion"))
    assert spoilt_sample(short, 40, seed=0).is_empty()
