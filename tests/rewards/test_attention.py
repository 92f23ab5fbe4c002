"""Models whose attention has a window: found wherever the config hides it, and never switched off by sharing prefixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Starcoder2Config,
)

from rluf_assets.rewards.attention import attention_window
from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.model import load_network
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.rewards.training import fit_reward
from tests.rewards.conftest import labelled_frame, make_tokenizer

WINDOWS = [
    (LlamaConfig(), None),
    (BertConfig(), None),
    (MistralConfig(sliding_window=16), 16),
    (MistralConfig(sliding_window=None), None),
    (Starcoder2Config(sliding_window=32), 32),
    (Qwen2Config(sliding_window=64), None),  # use_sliding_window is off
    (Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=1), 64),
    (Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=99), None),
    (Gemma2Config(sliding_window=24), 24),
    (Gemma3Config(text_config={"sliding_window": 48}), 48),
    (GptOssConfig(), 128),
    (Qwen3NextConfig(), 0),
    (Lfm2Config(), 0),
    (JambaConfig(), 0),
    ({"layer_types": ["full_attention", "full_attention"], "sliding_window": 8}, None),
    ({"layer_types": ["full_attention", "chunked_attention"], "attention_chunk_size": 8192}, 8192),
    ({"sliding_window": [None, 512, 256]}, 256),
    ({"attention_window": {"0": 128, "1": 512}}, 128),
    ({"llm_config": {"num_hidden_layers": 2, "sliding_window": 77}, "sliding_window": None}, 77),
    ({"vision_config": {"num_hidden_layers": 2, "window_size": 7}, "num_hidden_layers": 2}, None),
    ({"use_sliding_window": False, "sliding_window": 4096}, None),
    ({"layer_types": ["full_attention", "an_attention_of_tomorrow"]}, 0),
]


@pytest.mark.parametrize(("config", "window"), WINDOWS)
def test_the_window_is_found_wherever_the_config_hides_it(config, window):
    assert attention_window(config) == window


SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "sliding_window": 12,
}  # fmt: skip
MODELS = {
    "mistral": (MistralConfig, MistralForCausalLM, {}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"use_sliding_window": True, "max_window_layers": 1}),
}


def windowed(name, folder):
    config, network, more = MODELS[name]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    network(config(vocab_size=len(tokenizer) + 8, **SIZES, **more, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_replies_that_share_a_prompt_score_as_the_model_itself_scores_them(name, tmp_path):
    network = load_network(windowed(name, tmp_path))
    prompt = [{"role": "user", "content": "tell me a story about a trip to rome " * 3}]
    replies = ["It depends.", "You take the first one.", "I am so glad you asked!"]
    calibration = Calibration(objective="bce", signal="love", temperature=1, shift=0, max_length=200)
    model = RewardModel(network, calibration)
    scored = model.score([prompt] * 3, replies)["logit"].to_numpy()
    ids = model.encoder.encode([prompt] * 3, replies).token_ids
    assert min(map(len, ids)) > 2 * SIZES["sliding_window"]
    with torch.no_grad():
        own = [network.model(torch.from_numpy(row[None].astype(np.int64))).logits.item() for row in ids]
    np.testing.assert_allclose(scored, own, atol=2e-5)
    short = Calibration(objective="bce", signal="love", temperature=1, shift=0, max_length=12)
    assert not model.share_prefixes and RewardModel(network, short).share_prefixes, "within the window sharing is right"


KERNELS = {
    "gemma3_text": {"use_bidirectional_attention": True},  # as EmbeddingGemma has it
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1},  # attention without PyTorch's kernel, as the next
    "deberta-v2": {"num_key_value_heads": None, "head_dim": None},
}


def save_classifier(name, folder):
    tokenizer = make_tokenizer()
    sizes = {**SIZES, "sliding_window": 200, "pad_token_id": tokenizer.pad_token_id, **KERNELS[name]}
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), num_labels=1, initializer_range=0.3, **sizes)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("name", KERNELS)
def test_attention_both_ways_or_by_a_kernel_of_its_own_scores_a_row_alike_in_any_batch(name, tmp_path):
    save_classifier(name, tmp_path)
    model = RewardModel(
        load_network(tmp_path), Calibration(objective="bce", signal="love", temperature=1, shift=0, max_length=90)
    )
    prompts = [[{"role": "user", "content": text}] for text in ("hi", "hi", "tell me a story about a trip")]
    replies = ["It depends.", "You take the first one.", "I am so glad you asked!"]
    together = model.score(prompts, replies)["logit"].to_list()
    single = [model.score([p], [r])["logit"][0] for p, r in zip(prompts, replies, strict=True)]
    np.testing.assert_allclose(together, single, atol=2e-5)
    assert not model.share_prefixes and np.std(together) > 1e-3


@pytest.mark.parametrize("name", ["gpt_oss", "deberta-v2"])
def test_bfloat16_on_a_cpu_takes_attention_of_its_own_as_it_is(name, tmp_path):
    """There attention that is learned from is computed in float32, by a kernel that these have no place for."""
    save_classifier(name, tmp_path)
    half, whole = load_network(tmp_path, dtype="bfloat16"), load_network(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.autocast("cpu", torch.bfloat16):
        score = half.model(ids).logits
    score.float().sum().backward()
    torch.testing.assert_close(score.float(), whole.model(ids).logits, atol=0.2, rtol=0.1)
    assert all(torch.isfinite(p.grad).all() for p in half.model.parameters() if p.grad is not None)


def test_training_keeps_the_window_too(tmp_path):
    config = RewardConfig(epochs=1, max_length=64, dtype="float32")
    base, out = windowed("mistral", tmp_path / "base"), tmp_path / "out"
    out.mkdir()
    told = []
    trained = fit_reward(
        base, labelled_frame(60), config, seed=1, out=out, checkpoints=tmp_path / "checkpoints",
        progress=lambda step, steps, message, **figures: told.append(message),
    )  # fmt: skip
    assert trained.metrics["tokens"] == trained.metrics["tokens_without_sharing"]
    assert any("mistral: its attention has a window" in message for message in told)
