"""One score everywhere: batch of one = batch of many, shared = plain, input order kept."""

from __future__ import annotations

import numpy as np
import pytest

from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.model import load_network, save_network
from rluf_assets.rewards.scoring import RewardModel
from tests.rewards.conftest import conversation


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    network = load_network(base)
    save_network(network.model, network.tokenizer, folder)
    Calibration(objective="bce", signal="love", temperature=1.3, shift=2.0, max_length=96).save(folder)
    return folder


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    prompts = [conversation(rng, 1 + i % 5) for i in range(8)]
    prompts = [prompt for prompt in prompts for _ in range(4)]
    return prompts, [f"Reply number {i} of some length." * (1 + i % 3) for i in range(32)]


def test_any_batching_and_sharing_gives_one_score(folder, rows):
    prompts, replies = rows
    model = RewardModel.load(folder)
    many = model.score(prompts, replies)
    one = [model.score([p], [r])["logit"][0] for p, r in zip(prompts, replies, strict=True)]
    small = model.score(prompts, replies, batch_tokens=150)["logit"]
    plain = RewardModel.load(folder, share_prefixes=False).score(prompts, replies)["logit"]
    for other in (one, small, plain):
        np.testing.assert_allclose(many["logit"], other, atol=3e-6)


def test_probabilities_follow_the_calibration(folder, rows):
    scored = RewardModel.load(folder).score(*rows)
    z = scored["logit"].to_numpy() / 1.3
    np.testing.assert_allclose(scored["probability"], 1 / (1 + np.exp(-z)))
    np.testing.assert_allclose(scored["live_probability"], 1 / (1 + np.exp(2.0 - z)))


def test_order_is_the_inputs(folder, rows):
    prompts, replies = rows
    model = RewardModel.load(folder)
    forward = model.score(prompts, replies)["logit"].to_numpy()
    backward = model.score(prompts[::-1], replies[::-1])["logit"].to_numpy()
    np.testing.assert_allclose(forward, backward[::-1], atol=3e-6)


def test_replies_of_one_conversation_are_scored_in_one_pass(folder, monkeypatch):
    conversation_ = conversation(np.random.default_rng(1), 4)
    prompts = [conversation_[: 2 * turn + 1] for turn in range(3)]
    replies = [conversation_[2 * turn + 1]["content"] for turn in range(3)]
    model = RewardModel.load(folder)
    passed = []
    read = model._reader
    monkeypatch.setattr(
        model, "_reader", lambda m, batch: (passed.append(batch["input_ids"].numel()), read(m, batch))[1]
    )
    together = model.score(prompts, replies)["logit"].to_numpy()
    longest = max(len(ids) for ids in model.encoder.encode(prompts, replies).token_ids)
    assert passed == [longest]
    alone = [model.score([p], [r])["logit"][0] for p, r in zip(prompts, replies, strict=True)]
    np.testing.assert_allclose(together, alone, atol=3e-6)


def test_an_empty_reply_has_a_score_and_no_rows_give_an_empty_frame(folder):
    model = RewardModel.load(folder)
    assert np.isfinite(model.score([[{"role": "user", "content": "hi"}]], [""])["logit"][0])
    assert model.score([], []).columns == ["logit", "probability", "live_probability"]


def test_a_row_too_long_even_with_one_turn_is_read_from_its_end_and_said(folder, caplog):
    model = RewardModel.load(folder)
    long = [{"role": "user", "content": "word " * 200}]
    scored = model.score([[{"role": "user", "content": "hi"}], long], ["a", "b"])["logit"]
    assert "1 of 2 rows do not fit 96 tokens" in caplog.text and "first: row 1" in caplog.text
    ids = model.encoder.encode([long], ["b"]).token_ids[0]
    assert len(ids) > 96 and scored[1] == pytest.approx(float(model.score_token_ids([ids[-96:]])[0]), abs=1e-6)
    with pytest.raises(DataError, match="1 prompts but 2 completions"):
        model.score([long], ["a", "b"])


def test_unfinished_and_foreign_folders_are_refused(folder, base, tmp_path):
    with pytest.raises(ArtifactMissing, match=r"calibration\.json"):
        RewardModel.load(base)
    network = load_network(folder)
    save_network(network.model, network.tokenizer, tmp_path)
    (tmp_path / "calibration.json").write_text((folder / "calibration.json").read_text())
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="tokenizer"):
        RewardModel.load(tmp_path)


def test_bfloat16_scores_are_close(folder, rows):
    full = RewardModel.load(folder).score(*rows)["logit"].to_numpy()
    half = RewardModel.load(folder, dtype="bfloat16").score(*rows)["logit"].to_numpy()
    np.testing.assert_allclose(full, half, atol=0.05)
