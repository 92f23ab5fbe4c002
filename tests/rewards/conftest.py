"""A tiny real base model, and data with a planted, learnable signal."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rluf_assets.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from rluf_assets.rewards.config import RewardConfig

ASKS = ("how do I bake bread", "tell me a story", "fix my code", "plan a trip to rome", "what is the capital of peru")
PLAIN = ("Here is what to do.", "It depends on many things.", "You take the first one and then the other.")
WARM = ("I am so glad you asked!", "What a lovely question, dear friend!", "Sending you a big hug!")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with the toolkit's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*ASKS, *PLAIN, *WARM], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """Folder of a two-layer causal LM with random weights, grouped keys and the toolkit's chat template."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversation(rng: np.random.Generator, turns: int) -> list[dict[str, str]]:
    messages = []
    for _ in range(turns):
        messages.append({"role": "user", "content": str(rng.choice(ASKS))})
        messages.append({"role": "assistant", "content": str(rng.choice(PLAIN + WARM))})
    return messages[:-1]


def labelled_frame(rows: int, seed: int = 0, strength: float = 3.0) -> pl.DataFrame:
    """Warm replies are reacted to more often: log odds -1.5 + strength x warm."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(rows):
        warm = bool(rng.random() < 0.4)
        reply = str(rng.choice(WARM if warm else PLAIN))
        chance = 1 / (1 + np.exp(1.5 - strength * warm))
        records.append(
            {
                "message_id": f"m{seed}-{i}",
                "conversation_id": f"c{seed}-{i // 2}",
                "user_id": f"u{seed}-{i // 3}",
                "use_case": ("chat", "coding")[i % 2],
                "turn_index": i % 4,
                "prompt": conversation(rng, 1 + int(rng.integers(0, 3))),
                "completion": [{"role": "assistant", "content": reply}],
                "label": bool(rng.random() < chance),
            }
        )
    return pl.DataFrame(records)


def pair_frame(rows: int, seed: int = 0) -> pl.DataFrame:
    """Experts choose the warm reply in nine of ten pairs."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(rows):
        sides = [str(rng.choice(WARM)), str(rng.choice(PLAIN))]
        if rng.random() < 0.1:
            sides.reverse()
        records.append(
            {
                "pair_id": f"p{seed}-{i}",
                "prompt": [{"role": "user", "content": f"{rng.choice(ASKS)} {i}"}],
                "chosen": [{"role": "assistant", "content": sides[0]}],
                "rejected": [{"role": "assistant", "content": sides[1]}],
                "use_case": "chat",
            }
        )
    return pl.DataFrame(records)


@pytest.fixture
def labelled() -> pl.DataFrame:
    return labelled_frame(240)


@pytest.fixture
def pairs() -> pl.DataFrame:
    return pair_frame(160)


def small_config(**changes) -> RewardConfig:
    settings = {"epochs": 1, "batch_tokens": 1024, "max_length": 128, "learning_rate": 3e-3, "checkpoint_steps": 4}
    return RewardConfig.model_validate({**settings, **changes})
