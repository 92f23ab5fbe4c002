"""The ensemble beside P[signal]: heads that find what is there, agree where data decide, and differ where none do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rluf_assets.errors import DataError
from rluf_assets.rewards.ensemble import ENSEMBLE, Ensemble, fit_ensemble, load_ensemble
from rluf_assets.rewards.metrics import RankStatistics

ROWS, WIDTH, RATE, KEPT = 8000, 12, 0.02, 0.25


def drawn(seed: int = 0) -> dict[str, np.ndarray]:
    """Features, a raw logit that is the truth's direction, labels, weights (negatives sampled) and users."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((4 * ROWS, WIDTH)) * np.linspace(2, 0.2, WIDTH)
    truth = features[:, 0]
    odds = np.log(RATE / (1 - RATE)) + truth
    labels = (rng.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(float)
    kept = (labels > 0) | (rng.random(len(odds)) < KEPT)
    weights = np.where(labels > 0, 1.0, 1 / KEPT)
    users = rng.integers(0, 900, len(odds))
    return {
        "logits": (1.5 * truth - 1)[kept], "features": features[kept], "labels": labels[kept],
        "weights": weights[kept], "users": users[kept], "odds": odds[kept],
    }  # fmt: skip


def fitted(data: dict[str, np.ndarray], members: int = 6, seed: int = 0) -> Ensemble | None:
    given = {k: v for k, v in data.items() if k != "odds"}
    return fit_ensemble(**given, members=members, seed=seed)


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return drawn()


@pytest.fixture(scope="module")
def ensemble(data: dict[str, np.ndarray]) -> Ensemble:
    found = fitted(data)
    assert found is not None
    return found


def test_members_rank_like_the_truth_at_the_live_rate(data: dict[str, np.ndarray], ensemble: Ensemble) -> None:
    fresh = drawn(1)
    odds = ensemble.log_odds(fresh["logits"], fresh["features"])
    live = ensemble.live_probabilities(odds)
    ceiling = RankStatistics(fresh["odds"], fresh["labels"]).auroc(fresh["weights"][None])[0]
    for k in range(odds.shape[1]):
        assert RankStatistics(odds[:, k], fresh["labels"]).auroc(fresh["weights"][None])[0] > ceiling - 0.02
        assert np.average(live[:, k], weights=fresh["weights"]) == pytest.approx(
            np.average(fresh["labels"], weights=fresh["weights"]), rel=0.3
        )


def test_disagreement_is_usual_on_rows_like_these_and_large_far_from_them(ensemble: Ensemble) -> None:
    fresh = drawn(1)
    usual = ensemble.disagreement(ensemble.log_odds(fresh["logits"], fresh["features"]))
    assert np.average(usual > 1, weights=fresh["weights"]) == pytest.approx(0.01, abs=0.01)
    moved = fresh["features"] + 6 * np.linspace(2, 0.2, WIDTH)
    assert (ensemble.disagreement(ensemble.log_odds(fresh["logits"], moved)) > 1).mean() > 0.5


def test_it_is_the_same_again_and_reads_back(data: dict[str, np.ndarray], ensemble: Ensemble, tmp_path: Path) -> None:
    assert fitted(data) == ensemble
    assert fitted(data, seed=1) != ensemble
    assert load_ensemble(tmp_path) is None
    ensemble.save(tmp_path)
    assert load_ensemble(tmp_path) == ensemble


def test_too_few_positives_or_no_members_give_none(data: dict[str, np.ndarray]) -> None:
    few = data["labels"] * (np.cumsum(data["labels"]) <= 19)
    assert fitted({**data, "labels": few}) is None
    assert fitted(data, members=0) is None


def test_a_broken_file_or_another_model_is_named(ensemble: Ensemble, tmp_path: Path) -> None:
    (tmp_path / ENSEMBLE).write_text('{"scales": [1.0, 2.0]}')
    with pytest.raises(DataError, match=r"ensemble\.json: not an ensemble"):
        load_ensemble(tmp_path)
    with pytest.raises(DataError, match="belongs to another model"):
        ensemble.log_odds(np.zeros(3), np.zeros((3, WIDTH + 1)))


@pytest.mark.parametrize("sharing", [True, False])
def test_features_are_what_the_score_head_reads(base: Path, sharing: bool) -> None:
    from rluf_assets.rewards.calibration import Calibration
    from rluf_assets.rewards.model import load_network
    from rluf_assets.rewards.scoring import RewardModel

    network = load_network(base)
    calibration = Calibration(objective="bce", signal="love", temperature=1.0, shift=2.0, max_length=96)
    model = RewardModel(network, calibration, share_prefixes=sharing)
    prompts = [[{"role": "user", "content": f"question {i // 3}"}] for i in range(9)]
    replies = [f"Reply number {i}." * (1 + i % 2) for i in range(9)]
    plain = model.score(prompts, replies, members=True)
    assert plain["disagreement"].null_count() == plain["member_live_probability"].null_count() == 9
    encoded = model.encoder.encode(prompts, replies)
    logits, features = model.read_token_ids(encoded.token_ids)
    head = network.model.score.weight.detach().numpy()
    np.testing.assert_allclose(features @ head[0], logits, atol=1e-5)
    width = features.shape[1]
    model.ensemble = Ensemble(scales=(1.0, 0.5), weights=((0.0,) * width,) * 2, biases=(-2.0, -2.0), spread=0.1)
    scored = model.score(prompts, replies, members=True)
    assert scored["logit"].to_list() == plain["logit"].to_list()
    members = np.array(scored["member_live_probability"].to_list())
    np.testing.assert_allclose(members[:, 0], plain["live_probability"], atol=1e-6)
    np.testing.assert_allclose(scored["disagreement"], np.abs(logits) / 4 / 0.1, rtol=1e-4)
