"""A model is never better than itself, and every score of a row takes the row's own stratum."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rluf_assets.policy.phases import score_rows
from rluf_assets.rewards.adoption import compare, score_again
from rluf_assets.rewards.calibration import Calibration, strata_of
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.evaluation import evaluate_signal
from rluf_assets.rewards.model import load_network, save_network
from rluf_assets.rewards.scoring import RewardModel
from tests.rewards.conftest import labelled_frame, small_config

SHIFTS = {
    f"{case} / turn {turn}": shift + 0.1 * turn for case, shift in (("chat", 3.2), ("code", 6.2)) for turn in range(10)
}


@pytest.fixture(scope="module")
def matched(base, tmp_path_factory):
    """A reward model whose negatives were matched to positives by use case and turn."""
    folder = tmp_path_factory.mktemp("matched")
    network = load_network(base)
    save_network(network.model, network.tokenizer, folder)
    Calibration(objective="bce", signal="love", temperature=1.0, shift=4.7, strata_shifts=SHIFTS, max_length=96).save(
        folder
    )
    return RewardModel.load(folder)


@pytest.fixture(scope="module")
def held():
    frame = labelled_frame(600, seed=3)
    rng = np.random.default_rng(0)
    return frame.with_columns(
        use_case=pl.Series(rng.choice(["chat", "code"], len(frame))),
        turn_index=pl.Series(rng.integers(0, 12, len(frame)).astype(np.int32)),
    )


def test_the_same_model_against_itself_is_no_change_at_all(matched, held):
    config = RewardConfig.model_validate({**small_config().model_dump(), "evaluation": {"bootstrap_resamples": 50}})
    evaluation = evaluate_signal(matched, held, held.lazy(), config, seed=0)
    verdict = compare(evaluation, score_again(evaluation.rows, matched), config, seed=0)
    assert verdict.auroc_change == 0
    assert verdict.log_loss_change == 0
    assert verdict.log_loss_change_ci == [0, 0]
    assert verdict.adopted and "cannot be told from its predecessor" in verdict.verdict


def test_score_takes_the_shift_of_each_rows_stratum_with_and_without_members(matched, held):
    prompts = held["prompt"].to_list()
    replies = held["completion"].list.first().struct.field("content").to_list()
    strata = strata_of(held)
    scored = matched.score(prompts, replies, strata=strata)
    shifts = np.array([SHIFTS[name] for name in strata])
    assert len(set(shifts)) > 10
    expected = 1 / (1 + np.exp(shifts - scored["logit"].to_numpy()))
    np.testing.assert_allclose(scored["live_probability"], expected, rtol=1e-6)
    with_members = matched.score(prompts, replies, strata=strata, members=True)
    assert with_members["live_probability"].equals(scored["live_probability"])
    # The policy's side: completions with use case and turn are scored by the same strata.
    rows = held.select("use_case", "turn_index", "prompt", prompt_id="message_id", completion=pl.Series(replies))
    by_rows = score_rows(matched, rows)
    np.testing.assert_allclose(by_rows["live_probability"], expected, rtol=1e-4)
    unknown = score_rows(matched, rows.drop("turn_index"))
    np.testing.assert_allclose(
        unknown["live_probability"], 1 / (1 + np.exp(4.7 - unknown["logit"].to_numpy())), rtol=1e-6
    )
