"""The shift undoes upsampling exactly, the temperature over-confidence; broken calibrations are refused."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.drawing import stratum
from rluf_assets.rewards.calibration import (
    Calibration,
    fit_pairs,
    fit_signal,
    load_calibration,
    prior_shift,
    strata_of,
    strata_shifts,
)
from rluf_assets.rewards.metrics import calibration_slope

FIELDS = {"objective": "bce", "signal": "love", "temperature": 1.0, "shift": 0.0, "max_length": 64}


def test_the_papers_upsampling_costs_ln_111():
    # 0.1% -> 10% keeps every positive and 9 negatives for each: q_neg = 9 * 0.001 / 0.999.
    assert prior_shift({"q_pos": 1.0, "q_neg": 9 * 0.001 / 0.999}) == pytest.approx(math.log(111))


@pytest.mark.parametrize("rates", [{}, {"q_pos": 1.0, "q_neg": 0}, {"q_pos": "1", "q_neg": 0.5}, {"q_pos": 1.0}])
def test_impossible_inclusion_probabilities_are_refused(rates):
    with pytest.raises(DataError, match="q_pos and q_neg"):
        prior_shift(rates)


def test_live_probability_has_the_base_rate_of_the_population():
    rng = np.random.default_rng(0)
    true_logits = rng.normal(-6, 1, 400_000)
    love = rng.random(len(true_logits)) < expit(true_logits)
    q_pos, q_neg = 1.0, 0.02
    kept = np.where(love, True, rng.random(len(love)) < q_neg)
    at_training_rate = true_logits + math.log(q_pos / q_neg)
    calibration = Calibration(**{**FIELDS, "shift": prior_shift({"q_pos": q_pos, "q_neg": q_neg})})
    assert calibration.probability(at_training_rate[kept]).mean() == pytest.approx(love[kept].mean(), abs=0.01)
    assert calibration.live_probability(at_training_rate).mean() == pytest.approx(love.mean(), rel=0.05)


@pytest.mark.parametrize("spread", [0.7, 1.0, 1.4, 2.5])
@pytest.mark.parametrize("centre", [-6.0, -2.5, 0.0])
def test_over_confidence_is_taken_out_at_any_base_rate(spread, centre):
    rng = np.random.default_rng(1)
    honest = rng.normal(centre, 1.5, 60_000)
    labels = (rng.random(len(honest)) < expit(honest)).astype(float)
    # Over-fitted logits stretch away from their own centre, not from zero: a temperature alone cannot undo that.
    logits = centre + spread * (honest - centre)
    temperature, offset = fit_signal(logits, labels, np.ones(len(labels)), float(expit(honest).mean()))
    assert temperature == pytest.approx(spread, rel=0.12)
    calibrated = logits / temperature + offset
    assert expit(calibrated).mean() == pytest.approx(expit(honest).mean(), rel=1e-6)
    (_slope, (low, high)), _ = calibration_slope(
        labels, expit(calibrated), np.ones(len(labels)), np.arange(len(labels))
    )
    assert low <= 1 <= high


def test_the_offset_keeps_to_the_rate_that_is_known_not_to_the_validation_rows():
    rng = np.random.default_rng(4)
    honest = rng.normal(-2.5, 1.5, 1_000)
    unlucky = (rng.random(len(honest)) < expit(honest + 0.5)).astype(float)
    temperature, offset = fit_signal(honest, unlucky, np.ones(len(honest)), 0.1)
    assert expit(honest / temperature + offset).mean() == pytest.approx(0.1, rel=1e-6)


def test_temperature_of_pairs_and_of_too_few_examples():
    rng = np.random.default_rng(2)
    honest = rng.normal(0, 2, 20_000)
    honest = np.where(rng.random(len(honest)) < expit(honest), honest, -honest)
    assert fit_pairs(3 * honest) == pytest.approx(3.0, rel=0.05)
    assert fit_pairs(np.array([5.0, -5.0])) == 1.0
    assert fit_signal(np.array([5.0, -5.0]), np.array([1.0, 0.0]), np.ones(2), 0.5) == (1.0, 0.0)


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        json.dumps({**FIELDS, "temperature": 0}),
        json.dumps({**FIELDS, "shift": "nan"}),
        json.dumps({k: v for k, v in FIELDS.items() if k != "shift"}),
        json.dumps({**FIELDS, "surprise": 1}),
        "[]",
    ],
)
def test_corrupt_calibration_is_refused(tmp_path, content):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(DataError, match=r"calibration\.json"):
        load_calibration(tmp_path)


def test_missing_calibration_means_no_finished_model(tmp_path):
    with pytest.raises(ArtifactMissing, match="no finished reward model"):
        load_calibration(tmp_path)
    Calibration(**FIELDS).save(tmp_path)
    assert load_calibration(tmp_path).signal == "love"


def test_matched_sampling_is_undone_stratum_by_stratum():
    """Negatives drawn at ten and at hundred to one: the live rate of each stratum comes back, which one shift misses."""
    rng = np.random.default_rng(5)
    true_rate, q_neg = (
        {"chat / turn 1": 0.05, "coding / turn 9": 0.005},
        {"chat / turn 1": 0.1, "coding / turn 9": 0.01},
    )
    rates = {
        "q_pos": 1.0,
        "q_neg": 0.03,
        "strata": {n: {"q_neg": q} for n, q in q_neg.items()} | {"x": {"q_neg": None}},
    }
    shifts = strata_shifts(rates)
    assert shifts == pytest.approx({name: -np.log(q) for name, q in q_neg.items()})
    calibration = Calibration(**{**FIELDS, "temperature": 1.0, "shift": prior_shift(rates)}, strata_shifts=shifts)
    rows = pl.DataFrame({"use_case": ["chat", "coding"] * 500, "turn_index": [1, 12] * 500})
    strata = strata_of(rows)
    live = np.array([true_rate[name] for name in strata]) * rng.uniform(0.5, 1.5, len(strata))
    at_training = live / (live + (1 - live) * np.array([q_neg[name] for name in strata]))
    logits = np.log(at_training / (1 - at_training))
    np.testing.assert_allclose(calibration.live_probability(logits, strata), live, rtol=1e-9)
    assert np.abs(calibration.live_probability(logits) / live - 1).max() > 0.5
    # The signal set's own names of the strata.
    named = rows.select(stratum(SignalSetConfig(signal="love", negatives="matched"))).to_series()
    assert named.to_list() == strata
    assert strata_of(rows.drop("turn_index")) is None
