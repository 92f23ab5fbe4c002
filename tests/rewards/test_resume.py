"""A killed run (SIGKILL) continues and ends with the very bytes of the uninterrupted one; two processes equal one."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from safetensors.torch import load_file

from rluf_assets.rewards.calibration import load_calibration
from tests.rewards.processes import run

CONFIG = {
    "epochs": 2,
    "batch_tokens": 700,
    "max_length": 128,
    "learning_rate": 3e-3,
    "checkpoint_steps": 3,
    "log_steps": 1,
}


def finished(base, out, config=CONFIG, *, processes=1, **env):
    assert run(base, out, config, processes=processes, **env) == [0] * processes
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    return finished(base, tmp_path_factory.mktemp("whole") / "out")


def steps_of(out):
    return sorted(path.name for path in (out / "checkpoints").glob("checkpoint-*") if (path / "whole").exists())


def test_killed_between_checkpoints_then_resumed_ends_bitwise_equal(base, tmp_path, whole):
    killed = run(base, tmp_path, CONFIG, KILL_AT_STEP=5)
    assert killed == [-signal.SIGKILL]
    assert steps_of(tmp_path) == ["checkpoint-3"]
    # A resumed run that started anew would report step 1 and be killed again.
    again = run(base, tmp_path, CONFIG, KILL_AT_STEP=7)
    assert again == [-signal.SIGKILL]
    assert "checkpoint-6" in steps_of(tmp_path)
    assert finished(base, tmp_path).read_bytes() == whole.read_bytes()


def test_a_checkpoint_cut_short_is_not_resumed_from(base, tmp_path, whole):
    killed = run(base, tmp_path, CONFIG, KILL_IN_CHECKPOINT=6)
    assert killed == [-signal.SIGKILL]
    assert (tmp_path / "checkpoints" / "checkpoint-6" / "trainer_state.json").exists()
    assert steps_of(tmp_path) == ["checkpoint-3"]
    assert finished(base, tmp_path).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("what", [pytest.param("model", marks=pytest.mark.slow), "calibration"])
def test_killed_after_the_last_step_before_the_model_is_whole(base, tmp_path, whole, what):
    assert run(base, tmp_path, CONFIG, KILL_BEFORE=what) == [-signal.SIGKILL]
    assert not (tmp_path / "calibration.json").exists()
    assert finished(base, tmp_path).read_bytes() == whole.read_bytes()
    assert (tmp_path / "calibration.json").read_bytes() == (whole.parent / "calibration.json").read_bytes()


def test_checkpoints_of_another_config_are_not_used(base, tmp_path):
    assert run(base, tmp_path / "mixed", CONFIG, KILL_AT_STEP=5) == [-signal.SIGKILL]
    other = {**CONFIG, "learning_rate": 1e-3}
    mixed, clean = finished(base, tmp_path / "mixed", other), finished(base, tmp_path / "clean", other)
    assert mixed.read_bytes() == clean.read_bytes()


@pytest.mark.parametrize("objective", ["bce", pytest.param("bradley_terry", marks=pytest.mark.slow)])
def test_two_processes_train_the_model_that_one_trains(base, tmp_path, objective):
    config = {
        **CONFIG,
        "objective": objective,
        "epochs": 1,
        "micro_batch_tokens": 350,
        "dtype": "float32",
        "validation_share": 0.4,
    }
    seen = {name: tmp_path / f"seen_{name}" for name in ("one", "two")}
    for folder in seen.values():
        folder.mkdir()
    one = load_file(finished(base, tmp_path / "one", config, SEEN=seen["one"], FIT_FROM=5))
    two = load_file(finished(base, tmp_path / "two", config, processes=2, SEEN=seen["two"], FIT_FROM=5))
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-4, name
    counts = {
        name: Counter(i for file in folder.iterdir() for i in file.read_text().split()) for name, folder in seen.items()
    }
    assert counts["one"] == counts["two"]
    assert set(counts["two"].values()) == {1}
    assert len(list(seen["two"].iterdir())) == 2
    # Calibration rows are scored over the ranks, in shares: the fitted temperature is that of one process.
    fits = [load_calibration(tmp_path / name) for name in ("one", "two")]
    assert fits[0].temperature != 1.0
    assert fits[0].temperature == pytest.approx(fits[1].temperature, rel=1e-2)
    assert fits[0].offset == pytest.approx(fits[1].offset, abs=1e-2)


@pytest.mark.slow
def test_a_killed_two_process_run_resumes(base, tmp_path):
    config = {**CONFIG, "micro_batch_tokens": 350, "dtype": "float32"}
    whole = load_file(finished(base, tmp_path / "whole", config, processes=2))
    ended = run(base, tmp_path / "cut", config, processes=2, KILL_AT_STEP=5)
    # Both are to be killed at step 5; the second may lose its peer in the middle of a sum, and end with that error.
    assert -signal.SIGKILL in ended
    assert 0 not in ended
    assert steps_of(tmp_path / "cut") == ["checkpoint-3"]
    resumed = load_file(finished(base, tmp_path / "cut", config, processes=2))
    for name in whole:
        assert (whole[name] - resumed[name]).abs().max() < 1e-4, name
