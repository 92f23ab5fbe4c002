"""Training learns what is planted, moves every weight, and gives the same bytes twice."""

from __future__ import annotations

import contextlib
import hashlib
import resource

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from rluf_assets.errors import ConfigError, DataError, TrainingError
from rluf_assets.rewards.calibration import load_calibration
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.rewards.training import fit_reward
from tests.rewards.conftest import labelled_frame, pair_frame, small_config


def train(base, out, frame, config, **options):
    out.mkdir(exist_ok=True)
    return fit_reward(base, frame, config, seed=1, out=out, checkpoints=out / "checkpoints", **options)


def assert_same_scores(a, b):
    """Adam turns a gradient of nearly nothing into a full step of either sign, so scores are compared, not weights."""
    fresh = labelled_frame(100, seed=9)
    replies = [reply[0]["content"] for reply in fresh["completion"].to_list()]
    scores = [
        RewardModel.load(folder).score(fresh["prompt"].to_list(), replies)["logit"].to_numpy() for folder in (a, b)
    ]
    np.testing.assert_allclose(*scores, atol=1e-3)


def weights_hash(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_planted_signal_is_learned_and_calibrated(base, tmp_path):
    rates = {"signal": "love", "q_pos": 1.0, "q_neg": 0.1, "base_rate": 0.05}
    train(base, tmp_path / "out", labelled_frame(1500), small_config(epochs=3), rates=rates)
    calibration = load_calibration(tmp_path / "out")
    assert calibration.shift == pytest.approx(np.log(10))
    assert calibration.signal == "love"
    fresh = labelled_frame(600, seed=9)
    replies = [reply[0]["content"] for reply in fresh["completion"].to_list()]
    scored = RewardModel.load(tmp_path / "out").score(fresh["prompt"].to_list(), replies)
    labels = fresh["label"].to_numpy()
    # The oracle knows only whether a reply is warm; its AUROC is the ceiling.
    warm = np.array(["!" in reply for reply in replies])
    assert roc_auc_score(labels, scored["logit"]) > roc_auc_score(labels, warm) - 0.02
    assert scored["probability"].mean() == pytest.approx(labels.mean(), abs=0.08)


def test_bradley_terry_learns_the_experts_choice(base, tmp_path):
    train(base, tmp_path / "out", pair_frame(600), small_config(objective="bradley_terry", epochs=3))
    fresh = pair_frame(200, seed=5)
    model = RewardModel.load(tmp_path / "out")
    sides = [
        model.score(fresh["prompt"].to_list(), [r[0]["content"] for r in fresh[side].to_list()])["logit"]
        for side in ("chosen", "rejected")
    ]
    assert (sides[0] > sides[1]).mean() > 0.85


def test_same_inputs_same_bytes_and_another_seed_others(base, tmp_path, labelled):
    for name in ("a", "b"):
        train(base, tmp_path / name, labelled, small_config())
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b")
    assert (tmp_path / "a" / "calibration.json").read_bytes() == (tmp_path / "b" / "calibration.json").read_bytes()
    (tmp_path / "c").mkdir()
    fit_reward(base, labelled, small_config(), seed=2, out=tmp_path / "c", checkpoints=tmp_path / "c" / "checkpoints")
    assert weights_hash(tmp_path / "a") != weights_hash(tmp_path / "c")


def test_every_parameter_moves(base, tmp_path, labelled):
    train(base, tmp_path / "out", labelled, small_config(dtype="float32"))
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert set(before) - {"lm_head.weight"} == set(after) - {"score.weight"}
    for name in set(after) - {"score.weight"}:
        assert not before[name].equal(after[name]), name


@pytest.mark.parametrize("objective", ["bce", "bradley_terry"])
def test_sharing_prefixes_changes_the_speed_not_the_model(base, tmp_path, objective):
    frame = labelled_frame(120) if objective == "bce" else pair_frame(80)
    for share in (True, False):
        # One step on everything: batches are the same, whatever the rows' lengths.
        config = small_config(objective=objective, share_prefixes=share, batch_tokens=100_000, dtype="float32")
        train(base, tmp_path / str(share), frame, config)
    assert_same_scores(tmp_path / "True", tmp_path / "False")


def test_accumulation_rounds_do_not_change_the_step(base, tmp_path, labelled):
    for micro in (1024, 256):
        train(base, tmp_path / str(micro), labelled, small_config(micro_batch_tokens=micro, dtype="float32"))
    assert_same_scores(tmp_path / "1024", tmp_path / "256")


def test_weights_of_zero_silence_rows(base, tmp_path):
    good, bad = labelled_frame(400, strength=6.0), labelled_frame(400, seed=3, strength=6.0)
    bad = bad.with_columns(label=~pl.col("label"))
    both = pl.concat([good.with_columns(sample_weight=1.0), bad.with_columns(sample_weight=0.0)])
    train(base, tmp_path / "out", both, small_config(epochs=3))
    fresh = labelled_frame(300, seed=9, strength=6.0)
    replies = [reply[0]["content"] for reply in fresh["completion"].to_list()]
    scored = RewardModel.load(tmp_path / "out").score(fresh["prompt"].to_list(), replies)
    assert roc_auc_score(fresh["label"], scored["logit"]) > 0.8


def test_lora_and_gradient_checkpointing_train_and_save_plain_models(base, tmp_path, labelled):
    config = small_config(lora={"rank": 4}, gradient_checkpointing=True)
    train(base, tmp_path / "out", labelled, config)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert not any("lora" in name for name in after)
    assert before["model.embed_tokens.weight"].equal(after["model.embed_tokens.weight"])
    assert not before["model.layers.0.self_attn.q_proj.weight"].equal(after["model.layers.0.self_attn.q_proj.weight"])


def test_warm_start_begins_with_the_previous_models_head(base, tmp_path, labelled):
    train(base, tmp_path / "first", labelled, small_config(epochs=3))
    config = small_config(learning_rate=1e-9, dtype="float32")
    train(base, tmp_path / "second", labelled, config, previous=tmp_path / "first")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    np.testing.assert_allclose(first["score.weight"], second["score.weight"], atol=1e-6)
    with pytest.raises(ConfigError, match="objective"):
        train(
            base, tmp_path / "x", pair_frame(60), small_config(objective="bradley_terry"), previous=tmp_path / "first"
        )


def test_cut_contexts_and_dropped_rows_are_counted(base, tmp_path, labelled):
    counts = train(base, tmp_path / "out", labelled, small_config(max_length=40)).rows
    assert counts["contexts_cut"] > 0
    assert counts["train"] + counts["validation"] == 240
    with pytest.raises(DataError, match="of 240 rows: too_long - prompt and reply do not fit max_length"):
        train(base, tmp_path / "x", labelled, small_config(max_length=18))
    assert not list((tmp_path / "x").glob("*.safetensors"))
    dropped = train(base, tmp_path / "y", labelled, small_config(max_length=18, on_too_long="drop")).rows
    assert dropped["dropped_too_long"] + dropped["train"] + dropped["validation"] == 240


def test_a_loss_that_is_no_number_stops_training(base, tmp_path, labelled):
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        train(base, tmp_path / "out", labelled, small_config(learning_rate=1e30, log_steps=1, epochs=3))
    assert not (tmp_path / "out" / "calibration.json").exists()


@contextlib.contextmanager
def files_of_at_most(size):
    """A disk that takes no larger file: the kernel fails the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("checkpoint_steps", [1, 1000])
def test_a_full_disk_is_named_and_leaves_nothing_that_looks_whole(base, tmp_path, labelled, checkpoint_steps):
    config = small_config(checkpoint_steps=checkpoint_steps)
    with files_of_at_most(60_000), pytest.raises(TrainingError, match=r"cannot be written.*Free some disk space"):
        train(base, tmp_path / "out", labelled, config)
    assert not (tmp_path / "out" / "calibration.json").exists()
    assert not list((tmp_path / "out").glob("checkpoints/*/whole"))
    train(base, tmp_path / "out", labelled, config)
    train(base, tmp_path / "clean", labelled, config)
    assert weights_hash(tmp_path / "out") == weights_hash(tmp_path / "clean")


def test_later_rows_of_new_users_calibrate_and_every_row_is_accounted_for(base, tmp_path):
    frame = labelled_frame(400)
    hours = pl.duration(hours=pl.int_range(400, eager=True))
    frame = frame.with_columns(created_at=pl.lit("2026-01-01").str.to_datetime(time_zone="UTC") + hours)
    known = frame.with_columns(user_id=pl.when(pl.int_range(400) % 5 == 0).then(pl.lit("again")).otherwise("user_id"))
    counts = train(base, tmp_path / "out", known, small_config(validation_share=0.2)).rows
    assert counts["left_out"] == 16
    assert counts["train"] + counts["validation"] + counts["left_out"] == counts["rows"] == 400
    calibration = load_calibration(tmp_path / "out")
    assert calibration.validation_rows == 64
    assert calibration.trained_until == "2026-01-14T07:00:00+00:00"
    # A warm start takes what came after, the validation rows of the first round among it.
    again = train(base, tmp_path / "b", known, small_config(replay_share=0.0, validation_share=0.1),
                  previous=tmp_path / "out").rows  # fmt: skip
    assert again["train"] == 40


@pytest.mark.parametrize(
    "settings",
    [
        {"micro_batch_tokens": 9999, "batch_tokens": 100},
        {"use_margin": True},
        {"centering": 0.1},
        {"objective": "bradley_terry", "soft_labels": True},
        {"epochs": 0},
        {"unknown": 1},
    ],
)
def test_contradictory_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"."):
        RewardConfig.model_validate(settings)
