"""Two processes under DeepSpeed ZeRO (gloo, CPU), launched as the packaged Accelerate configurations say.

One process and two train the same model (1 x 8 = 2 x 4), every row is seen once, states are really sharded, and what
is saved is whole. DeepSpeed compiles a small library on its first run: that needs a C++ compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rluf_assets.rewards.calibration import load_calibration
from rluf_assets.rewards.scoring import RewardModel
from tests.rewards.processes import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = {
    "epochs": 1,
    "batch_tokens": 700,
    "micro_batch_tokens": 350,
    "max_length": 128,
    "learning_rate": 3e-3,
    "checkpoint_steps": 3,
    "log_steps": 1,
    "dtype": "float32",
}


def launch(stage: str, base: Path, out: Path, config: dict, **env: object) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of two processes with the packaged configuration `stage`, as a launcher's job starts."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(files("resources.profiles.accelerate") / f"{stage}.yaml")]
    command += ["--num_machines", "1", "--num_processes", "2", "--num_cpu_threads_per_process", "1"]
    command += ["--main_process_port", "0", "--module", "tests.rewards.processes", str(base), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in env.items()}}
    return subprocess.run(
        [*command, json.dumps(config)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def finished(stage: str, base: Path, out: Path, config: dict, **env: object) -> dict:
    done = launch(stage, base, out, config, **env)
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(out / "model.safetensors")


def seen(folder: Path) -> list[Counter[str]]:
    """Examples by rank, and how often each was given."""
    return [Counter(path.read_text().split()) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(("stage", "objective"), [("zero2", "bce"), ("zero2", "bradley_terry"), ("zero3", "bce")])
def test_two_sharded_processes_train_the_model_that_one_trains(base, tmp_path, stage, objective):
    config = {**CONFIG, "objective": objective}
    folders = {name: tmp_path / f"seen_{name}" for name in ("one", "two")}
    for folder in folders.values():
        folder.mkdir()
    assert run(base, tmp_path / "one", config, SEEN=folders["one"]) == [0]
    one = load_file(tmp_path / "one" / "model.safetensors")
    two = finished(stage, base, tmp_path / "two", config, SEEN=folders["two"])
    assert set(one) == set(two)
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-4, name
    (all_rows,), ranks = seen(folders["one"]), seen(folders["two"])
    assert len(ranks) == 2
    assert set(ranks[0]).isdisjoint(ranks[1])
    assert ranks[0] + ranks[1] == all_rows
    assert set(all_rows.values()) == {1}
    # Adam's moments and the float32 weights lie in two parts, one per rank, in each checkpoint that is kept.
    kept = list((tmp_path / "two" / "checkpoints").glob("checkpoint-*/global_step*"))
    assert kept and all(len(list(folder.glob("*_optim_states.pt"))) == 2 for folder in kept)
    fits = [load_calibration(tmp_path / name) for name in ("one", "two")]
    assert fits[0].validation_rows == fits[1].validation_rows
    assert fits[0].temperature == pytest.approx(fits[1].temperature, rel=1e-3)


def test_no_process_holds_the_whole_base_under_zero3(base, tmp_path):
    """Of eight 70B processes on a node each would need 280 GB. A base without pad token, template and head, so that all
    that loading adds is in parts too."""
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(bare)
    (tmp_path / "held").mkdir()
    config = {**CONFIG, "dtype": "bfloat16"}
    weights = finished("zero3", bare, tmp_path / "out", config, HELD=tmp_path / "held")
    ranks = [json.loads((tmp_path / "held" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for held in ranks:
        assert set(held) == set(weights)
        for name, (whole, part, all_of_it) in held.items():
            assert whole == 0, name
            assert part == -(-all_of_it // 2), name
    assert weights["score.weight"].abs().max() > 0


def test_bfloat16_adapters_under_zero3_are_merged_saved_as_float32_and_score(base, tmp_path):
    config = {**CONFIG, "dtype": "bfloat16", "lora": {"rank": 4}}
    weights = finished("zero3", base, tmp_path / "out", config)
    assert not any("lora" in name for name in weights)
    before = load_file(base / "model.safetensors")
    assert before["model.embed_tokens.weight"].equal(weights["model.embed_tokens.weight"])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not before[name].equal(weights[name])
    assert {str(w.dtype) for w in weights.values()} == {"torch.float32"}
    scored = RewardModel.load(tmp_path / "out").score([[{"role": "user", "content": "tell me a story"}]], ["No."])
    assert scored["logit"].is_finite().all()


def test_a_killed_sharded_run_resumes(base, tmp_path):
    stage = "zero3"  # shards what zero2 shards, and the weights
    whole = finished(stage, base, tmp_path / "whole", CONFIG)
    cut = launch(stage, base, tmp_path / "cut", CONFIG, KILL_AT_STEP=5)
    assert cut.returncode != 0
    assert [p.parent.name for p in (tmp_path / "cut" / "checkpoints").glob("*/whole")] == ["checkpoint-3"]
    resumed = finished(stage, base, tmp_path / "cut", CONFIG)
    for name in whole:
        assert (whole[name] - resumed[name]).abs().max() < 1e-4, name
