"""vLLM's pooling runner gives the raw logits that our own scoring gives, on a reward model as `train_reward` saves it.

vLLM runs in its own environment: the interpreter that RLUF_VLLM_PYTHON names, else `.venv-vllm/bin/python`
(`make vllm-env`). Without one the test skips; RLUF_REQUIRE_VLLM=1 makes that a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rluf_assets.rewards.scoring import RewardModel
from tests.rewards.conftest import labelled_frame, make_tokenizer, small_config
from tests.rewards.test_training import train

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def base_for_vllm(folder: Path) -> Path:
    """As the other tests' base, with heads of 64: vLLM's CPU kernel refuses small ones."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_pooled_logits_equal_ours(vllm_python, tmp_path):
    config = small_config(dtype="float32", lora={"rank": 4})
    train(base_for_vllm(tmp_path / "base"), tmp_path / "model", labelled_frame(240), config)
    model = RewardModel.load(tmp_path / "model")
    fresh = labelled_frame(60, seed=9)
    replies = [reply[0]["content"] for reply in fresh["completion"].to_list()]
    ours = model.score(fresh["prompt"].to_list(), replies)["logit"].to_numpy()
    encoded = model.encoder.encode(fresh["prompt"].to_list(), replies).token_ids
    (tmp_path / "rows.json").write_text(json.dumps([ids.tolist() for ids in encoded]))
    done = subprocess.run(
        [
            vllm_python,
            "-m",
            "tests.rewards.vllm_scores",
            *(str(tmp_path / n) for n in ("model", "rows.json", "out.json")),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    theirs = np.array(json.loads((tmp_path / "out.json").read_text()))
    assert ours.std() > 0.1, "scores that are all alike compare nothing"
    np.testing.assert_allclose(theirs, ours, atol=1e-3)
