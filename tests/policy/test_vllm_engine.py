"""VLLMEngine beside TransformersEngine on the same weights, and the loop on it: in vLLM's own environment, for real.

The comparison itself is tests/policy/vllm_comparison.py, run by the interpreter that RLUF_VLLM_PYTHON names, else
`.venv-vllm/bin/python` (`make vllm-env`). Without one it skips; RLUF_REQUIRE_VLLM=1 makes that a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rluf_assets.policy.base import train_base_policy
from tests.policy.conftest import TINY

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# Per-token log-probabilities in bfloat16 against float32: eight bits of mantissa, two layers.
MEAN_TOLERANCE, MAX_TOLERANCE = 0.02, 0.25


def run(
    python: str, task: str, base: Path, prompts: Path, scratch: Path, *rewards: Path, launch: Sequence[str] = ("-m",)
) -> dict[str, Any]:
    """Figures of one task of vllm_comparison.py, in a process of its own, or in several by `launch`."""
    out, arguments = scratch / "figures.json", (base, prompts, scratch, *rewards)
    done = subprocess.run(
        [python, *launch, "tests.policy.vllm_comparison", str(out), task, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_both_engines_say_the_same_in_float32_also_after_a_reload(
    vllm_python: str, base: Path, prompts_file: Path, tmp_path: Path
) -> None:
    found = run(vllm_python, "greedy", base, prompts_file, tmp_path)
    assert found["greedy_equal"] == found["greedy_equal_after_reload"] == found["prompts"] == 40
    assert found["changed_by_reload"] > 20, "the reloaded weights are no different"
    assert found["logprob_error"] < 1e-3 and found["logprob_error_after_reload"] < 1e-3
    assert found["same_seed_same_samples"] and found["other_seed_other_samples"]
    assert found["ended"] > 0.5 and found["ends_agree"]
    assert "expected" in found["stale_version_error"]


def test_weights_are_handed_over_in_memory(vllm_python: str, base: Path, prompts_file: Path, tmp_path: Path) -> None:
    found = run(vllm_python, "memory", base, prompts_file, tmp_path)
    assert found["equal"] == found["prompts"] == 40 and found["changed"] > 20
    assert found["logprob_error"] < 1e-3
    assert found["same_weights_same_version"] and found["moved_weights_other_version"]
    stale, older, misnamed = found["refused"]
    assert "expected" in stale and "expected" in older and misnamed
    # Room for the longest prompt and its reply, not for every position of the model.
    assert found["room"] == found["longest"] < found["positions"]


def test_log_probabilities_agree_in_bfloat16(vllm_python: str, base: Path, prompts_file: Path, tmp_path: Path) -> None:
    found = run(vllm_python, "bfloat16", base, prompts_file, tmp_path)
    for when in ("before", "after"):
        assert found[f"mean_error_{when}"] < MEAN_TOLERANCE, found
        assert found[f"max_error_{when}"] < MAX_TOLERANCE, found


def test_the_loop_samples_by_vllm(
    vllm_python: str, base: Path, prompts_file: Path, reward_folders: dict[str, Path], tmp_path: Path
) -> None:
    found = run(vllm_python, "loop", base, prompts_file, tmp_path, *reward_folders.values())
    assert found["iterations"] == 3 and all(learned > 0 for learned in found["learned"])
    # Samples come from the policy as it is: at first the reference itself, later one that moves away from it.
    assert abs(found["kl_mean"][0]) < 0.05 < found["kl_mean"][2]
    assert not found["by_folder"], "the policy went to vLLM through a folder"


def test_a_candidate_is_evaluated_by_vllm(
    vllm_python: str, base: Path, prompts_file: Path, reward_folders: dict[str, Path], tmp_path: Path
) -> None:
    found = run(vllm_python, "evaluation", base, prompts_file, tmp_path, *reward_folders.values())
    assert found["equal"] == found["replies"] == 40 and found["same_verdicts"]
    assert found["logit_difference"] < 1e-4


def test_two_processes_share_a_copy_of_the_policy_or_have_one_each(
    vllm_python: str, logs: list[Path], prompts_file: Path, reward_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"  # with two attention heads, to be split
    base.mkdir()
    config = TINY.model_copy(update={"hidden_size": 64})
    train_base_policy(logs, base, config, seed=0, checkpoints=tmp_path / "checkpoints", report=lambda *_: None)
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(files("resources.profiles.accelerate") / "ddp.yaml"),
    ]
    launch += ["--num_machines", "1", "--num_processes", "2", "--num_cpu_threads_per_process", "1"]
    launch += ["--main_process_port", "0", "--module"]
    found = {}
    for shared in (1, 2):
        folder = tmp_path / f"by_{shared}"
        folder.mkdir()
        task = f"loop_{shared}"
        found[shared] = run(vllm_python, task, base, prompts_file, folder, *reward_folders.values(), launch=launch)
    assert found[1]["learned"] == found[2]["learned"] == [16, 16, 16]
    assert abs(found[2]["kl_mean"][0]) < 1e-3 < found[2]["kl_mean"][2]
    assert found[1]["reward"] == pytest.approx(found[2]["reward"], abs=1e-3)
