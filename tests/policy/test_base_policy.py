"""The base policy: what it learns, what it saves, resuming to the same bytes, and checkpoints given by path."""

from __future__ import annotations

import hashlib
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rluf_assets.chat import SPECIAL_TOKENS
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.policy.base import (
    balanced,
    batch_loss,
    load_checkpoint,
    new_model,
    reply_loss,
    schedule,
    train_base_policy,
    training_batches,
)
from rluf_assets.policy.config import BasePolicyConfig, Corpus
from rluf_assets.policy.conversations import encode, load_conversations, load_corpus, one_turn
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.prompts import PromptEncoder
from tests.policy.conftest import FACTS, TINY, user

SHORT = TINY.model_copy(update={"steps": 24, "checkpoint_every": 8})


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def train(logs: list[Path], out: Path, config: BasePolicyConfig = SHORT, **options: object) -> dict[str, float]:
    given = {"seed": 0, "checkpoints": out / "checkpoints", "report": lambda *_: None}
    return train_base_policy(logs, out, config, **{**given, **options})  # type: ignore[arg-type]


def test_it_learns_to_answer(base: Path) -> None:
    engine = TransformersEngine(base)
    replies = engine.sample([user(q) for q in FACTS], n=1, max_new_tokens=60, temperature=0.0, seed=0)
    right = sum(FACTS[q].rstrip(".") in row[0].text for q, row in zip(FACTS, replies, strict=True))
    assert right >= 3, [row[0].text for row in replies]


def test_it_saves_a_folder_that_transformers_loads(base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert len(tokenizer) == TINY.vocab_size == model.config.vocab_size
    assert model.config.tie_word_embeddings
    assert model.config.head_dim == 32
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.apply_chat_template(user("hi"), tokenize=False, add_generation_prompt=True) == (
        "<|user|>hi<|end|><|assistant|>"
    )
    assert all(len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    text = "Aww! 🎉 naïve"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_killed_run_ends_with_the_same_bytes(logs: list[Path], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        raise Killed

    train(logs, tmp_path / "whole")
    half = tmp_path / "half"
    with pytest.raises(Killed):
        train(logs, half, report=kill)
    assert [path.name for path in (half / "checkpoints").iterdir()] == ["000008.safetensors", "000016.safetensors"]
    train(logs, half)
    assert weights_hash(half) == weights_hash(tmp_path / "whole")


def test_seeds_give_other_policies(logs: list[Path], tmp_path: Path) -> None:
    train(logs, tmp_path / "a")
    train(logs, tmp_path / "b", seed=1)
    assert weights_hash(tmp_path / "a") != weights_hash(tmp_path / "b")


def test_conversations_over_midnight_are_whole(logs: list[Path]) -> None:
    conversations = load_conversations(logs, 10_000, 0)
    assert len(conversations) == 300
    assert max(len(c) for c in conversations) == 6
    one_day = load_conversations(logs[:1], 10_000, 0)
    assert sum(map(len, one_day)) < sum(map(len, conversations))
    assert all([m["role"] for m in c] == ["user", "assistant"] * (len(c) // 2) for c in conversations)
    assert load_conversations(logs, 7, 0) == load_conversations(logs, 7, 0) != load_conversations(logs, 7, 1)


def test_only_replies_are_learned_and_rendering_is_the_templates(base: Path, logs: list[Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    (conversation,) = [c for c in load_conversations(logs, 300, 0) if len(c) == 4][:1]
    (example,) = encode([conversation], PromptEncoder(tokenizer), 160)
    assert example.token_ids == tokenizer(tokenizer.apply_chat_template(conversation, tokenize=False))["input_ids"]
    learned = [t for t, is_learned in zip(example.token_ids, example.learned, strict=True) if is_learned]
    assert tokenizer.decode(learned) == "".join(m["content"] + "<|end|>" for m in conversation[1::2])
    # A template of the model's own goes the long way round, with the same result for the same format.
    tokenizer.chat_template = tokenizer.chat_template + "{# the same #}"
    assert encode([conversation], PromptEncoder(tokenizer), 160) == [example]


def test_conversations_are_cut_at_whole_turns(base: Path, logs: list[Path]) -> None:
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(base))
    whole = load_conversations(logs, 300, 0)
    (long,) = [c for c in whole if len(c) == 6][:1]
    (full,) = encode([long], encoder, 512)
    (cut,) = encode([long], encoder, len(full.token_ids) - 1)
    (first,) = encode([long[:4]], encoder, 512)
    assert cut == first
    assert encode([long], encoder, 5) == []


def test_loss_is_the_mean_over_reply_tokens_whatever_the_batch(base: Path, logs: list[Path]) -> None:
    model, tokenizer = load_checkpoint(str(base))
    examples = encode(load_conversations(logs, 9, 0), PromptEncoder(tokenizer), 160)
    one_by_one = [batch_loss(model, [example], reduction="sum").item() for example in examples]
    loss, tokens = reply_loss(model, examples, batch_size=4)
    assert tokens == sum(sum(example.learned) for example in examples)
    assert loss == pytest.approx(sum(one_by_one) / tokens, rel=1e-5)


def test_one_turn_examples_come_first_and_batches_keep_the_budget(base: Path, logs: list[Path]) -> None:
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(base))
    conversations = [c for c in load_conversations(logs, 300, 0) if len(c) == 6]
    batches = list(training_batches(conversations, encoder, SHORT, 0))
    replies = [[sum(a < b for a, b in pairwise(e.learned)) for e in batch] for batch in batches]
    assert len(batches) == SHORT.steps
    assert all(count == 1 for batch in replies[:12] for count in batch)
    assert all(count == 3 for batch in replies[12:] for count in batch)
    assert all(max(len(e.token_ids) for e in b) * len(b) <= SHORT.batch_tokens for b in batches)
    assert len(one_turn(conversations[0], random.Random(0))) == 2


def test_every_parameter_moves(logs: list[Path], tmp_path: Path) -> None:
    train(logs, tmp_path / "out", SHORT.model_copy(update={"steps": 3}))
    trained, tokenizer = load_checkpoint(str(tmp_path / "out"))
    fresh = new_model(tokenizer, SHORT, 0)
    assert [n for n, p in trained.named_parameters() if torch.equal(p, fresh.get_parameter(n))] == []


def test_schedule_warms_up_and_decays() -> None:
    factors = [schedule(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 30)
    assert max(factors) == factors[30] == 1.0
    assert factors[-1] == pytest.approx(0.05, abs=1e-3)
    assert all(a >= b for a, b in pairwise(factors[30:]))


def test_logs_without_replies_or_files_are_an_error(tmp_path: Path, logs: list[Path]) -> None:
    with pytest.raises(DataError, match=r"messages.parquet"):
        train([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(DataError, match="missing: all"):
        train([], tmp_path / "out")


class TestCheckpointGivenByPath:
    def test_a_chat_model_is_taken_as_it_is(self, base: Path, logs: list[Path], tmp_path: Path) -> None:
        metrics = train(logs, tmp_path, BasePolicyConfig(checkpoint=str(base)))
        assert weights_hash(tmp_path) == weights_hash(base)
        assert metrics["heldout_loss"] > 0

    def test_a_model_without_template_gets_ours(self, public_data: Path, tmp_path: Path) -> None:
        metrics = train([], tmp_path, BasePolicyConfig(checkpoint=str(public_data / "stories260K")))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert metrics["vocabulary"] == 512 + len(SPECIAL_TOKENS)
        assert tokenizer.eos_token == "<|end|>"
        assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
        assert TransformersEngine(tmp_path).sample([user("hi")], n=2, max_new_tokens=8, seed=0)[0]

    def test_a_folder_without_model_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
        with pytest.raises(ConfigError, match="no causal LM"):
            train([], tmp_path / "out", BasePolicyConfig(checkpoint=str(tmp_path)))


def test_a_corpus_counts_as_much_as_the_logs(tmp_path: Path, logs: list[Path]) -> None:
    """Few logs beside a large corpus: both are learned from, whichever is the larger; the logs alone are held out."""
    ours = load_conversations(logs, 10, seed=0)
    lines = [
        {
            "dialogue": n,
            "messages": [{"role": "user", "content": f"corpus {n}"}, {"role": "assistant", "content": "yes"}],
        }
        for n in range(95)
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = Corpus(
        source="corpus.jsonl", layout={"columns": {"conversation_id": "dialogue"}, "users": "per_conversation"}
    )
    theirs = load_corpus(corpus, str(path), 1000, seed=0)
    assert len(theirs) == 95
    both = balanced(ours, theirs, seed=0)
    from_corpus = sum(conversation[0]["content"].startswith("corpus") for conversation in both)
    assert (from_corpus, len(both)) == (95, 95 + 9 * len(ours))
    config = SHORT.model_copy(update={"corpora": (corpus,)})
    metrics = train(logs, tmp_path / "base", config, corpora=[str(path)])
    assert metrics["heldout_loss"] > 0
    with pytest.raises(DataError, match=r"corpus\.jsonl"):
        load_corpus(corpus.model_copy(update={"layout": MessagesLayout(messages=("turns",))}), str(path), 10, seed=0)
