"""Sampling and log-probabilities: against transformers' own generate, the batch, the seed, and the exact distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rluf_assets.chat import CHAT_TEMPLATE, Message
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.policy.decoding import _choose
from rluf_assets.policy.engine import Completion, TransformersEngine, token_logprobs
from rluf_assets.rewards.attention import FLOAT32
from tests.policy.conftest import FACTS, user

PROMPTS: list[list[Message]] = [
    user("what is the capital of peru"),
    [*user("tell me a story"), {"role": "assistant", "content": "A small cat."}, *user("how do I bake bread")],
    user("hi"),
]


@pytest.fixture(scope="module")
def engine(base: Path) -> TransformersEngine:
    return TransformersEngine(base)


@pytest.fixture(scope="module")
def pretrained(public_data: Path) -> TransformersEngine:
    """A real pretrained Llama without a chat template."""
    return TransformersEngine(public_data / "stories260K")


@pytest.mark.parametrize("which", ["engine", "pretrained"])
def test_greedy_text_is_that_of_generate(which: str, request: pytest.FixtureRequest) -> None:
    engine: TransformersEngine = request.getfixturevalue(which)
    found = engine.sample(PROMPTS, n=2, max_new_tokens=24, temperature=0.0, seed=0)
    for prompt, completions in zip(PROMPTS, found, strict=True):
        ids = torch.tensor(engine.encoder.encode([prompt], 100))
        expected = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=list(engine.tokens.banned),
        )[0, ids.shape[1] :].tolist()
        assert completions[0].token_ids == completions[1].token_ids == expected


def test_greedy_logprobs_are_those_of_a_full_forward_pass(engine: TransformersEngine) -> None:
    for prompt, (completion,) in zip(
        PROMPTS, engine.sample(PROMPTS, n=1, max_new_tokens=24, temperature=0.0, seed=0), strict=True
    ):
        ids = engine.encoder.encode([prompt], 100)[0]
        with torch.inference_mode():
            logits = engine.model(input_ids=torch.tensor([ids + completion.token_ids])).logits[0]
        steps = torch.log_softmax(logits[len(ids) - 1 : -1].double(), dim=-1)
        expected = steps.gather(1, torch.tensor(completion.token_ids)[:, None]).sum().item()
        assert completion.logprob == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("which", ["engine", "pretrained"])
def test_logprobs_of_samples_are_those_they_were_drawn_with(which: str, request: pytest.FixtureRequest) -> None:
    engine: TransformersEngine = request.getfixturevalue(which)
    rows = [
        (prompt, completion)
        for prompt, completions in zip(
            PROMPTS, engine.sample(PROMPTS, n=4, max_new_tokens=20, temperature=1.3, seed=3), strict=True
        )
        for completion in completions
    ]
    found = engine.logprobs([p for p, _ in rows], [c for _, c in rows], max_new_tokens=20, batch_tokens=200)
    np.testing.assert_allclose(found, [c.logprob for _, c in rows], atol=1e-3)


def test_in_bfloat16_too_logprobs_are_those_of_sampling_and_near_those_of_float32(
    base: Path, engine: TransformersEngine
) -> None:
    half = TransformersEngine(base, autocast=True)
    prompts = [*PROMPTS, [*PROMPTS[0], {"role": "assistant", "content": "Yes. " * 12}, *user("tell me a story")]]
    rows = half.sample(prompts, n=2, max_new_tokens=20, seed=3)
    asked, drawn = [p for p in prompts for _ in range(2)], [c for row in rows for c in row]
    sampled = [c.logprob for c in drawn]
    # In one batch, prompts of unlike length. Eight bits of mantissa, two layers, 20 tokens.
    np.testing.assert_allclose(half.logprobs(asked, drawn, max_new_tokens=20), sampled, atol=0.3)
    np.testing.assert_allclose(engine.logprobs(asked, drawn, max_new_tokens=20), sampled, atol=0.3)


def test_attention_runs_in_float32_only_where_it_is_learned_from(base: Path) -> None:
    half, plain = TransformersEngine(base, autocast=True), TransformersEngine(base, autocast=True)
    plain.model.set_attn_implementation("sdpa")
    assert half.model.config._attn_implementation == FLOAT32
    pairs = half.encode_pairs([user("tell me a story")], [Completion("", [5, 6, 7, 8], True, 0.0)])
    with half.precision():
        with torch.inference_mode():
            torch.testing.assert_close(
                token_logprobs(half.model, pairs), token_logprobs(plain.model, pairs), rtol=0, atol=0
            )
        learned = token_logprobs(half.model, pairs)
    learned.sum().backward()
    torch.testing.assert_close(learned, token_logprobs(TransformersEngine(base).model, pairs), atol=0.1, rtol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in half.model.parameters())


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(base: Path, engine: TransformersEngine) -> None:
    together = engine.sample(PROMPTS, n=4, max_new_tokens=20, seed=5)
    alone = [engine.sample([prompt], n=4, max_new_tokens=20, seed=5)[0] for prompt in PROMPTS]
    small = TransformersEngine(base, batch_tokens=64).sample(PROMPTS, n=4, max_new_tokens=20, seed=5)
    reversed_ = engine.sample(PROMPTS[::-1], n=4, max_new_tokens=20, seed=5)[::-1]
    for other in (alone, small, reversed_):
        assert [[c.text for c in row] for row in other] == [[c.text for c in row] for row in together]


def test_more_completions_begin_with_the_fewer(engine: TransformersEngine) -> None:
    few = engine.sample(PROMPTS, n=2, max_new_tokens=20, seed=5)
    many = engine.sample(PROMPTS, n=5, max_new_tokens=20, seed=5)
    assert [[c.text for c in row] for row in few] == [[c.text for c in row[:2]] for row in many]


def test_seeds_and_repeated_prompts_get_other_numbers(engine: TransformersEngine) -> None:
    prompt = user("tell me a story")
    first, second = engine.sample([prompt, prompt], n=8, max_new_tokens=20, seed=0)
    (other,) = engine.sample([prompt], n=8, max_new_tokens=20, seed=1)
    assert [c.text for c in first] != [c.text for c in second]
    assert [c.text for c in first] != [c.text for c in other]


def test_tokens_are_drawn_from_the_model_distribution() -> None:
    logits = torch.log(torch.tensor([0.1, 0.0, 0.6, 0.3])).expand(1, 20_000, -1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, 20_000)))
    tokens, logprobs = _choose(logits, uniforms, 1.0)
    shares = np.bincount(tokens[0].numpy(), minlength=4) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.0, 0.6, 0.3], atol=0.012)
    assert logprobs[0, tokens[0] == 2][0].item() == pytest.approx(np.log(0.6), abs=1e-6)
    cold, _ = _choose(logits, uniforms, 0.5)
    squared = np.array([0.01, 0.0, 0.36, 0.09])
    np.testing.assert_allclose(np.bincount(cold[0].numpy(), minlength=4) / 20_000, squared / squared.sum(), atol=0.012)


def test_replies_that_end_are_finished_and_lose_the_end_token_in_text(engine: TransformersEngine) -> None:
    end = engine.encoder.tokenizer.eos_token_id
    rows = engine.sample([user(q) for q in FACTS], n=6, max_new_tokens=60, seed=0)
    finished = [c for row in rows for c in row if c.finished]
    assert len(finished) > 10
    assert all(c.token_ids[-1] == end and c.token_ids.count(end) == 1 and "<|end|>" not in c.text for c in finished)
    cut = engine.sample([user("tell me a story")], n=2, max_new_tokens=3, seed=0)[0]
    assert all(not c.finished and len(c.token_ids) == 3 for c in cut)


def test_long_contexts_lose_their_oldest_turns(engine: TransformersEngine) -> None:
    turn = [*user("how do I bake bread"), {"role": "assistant", "content": FACTS["how do I bake bread"]}]
    long = [*turn * 12, *user("tell me a story")]
    room = engine.max_positions - 30
    (ids,) = engine.encoder.encode([long], room)
    (cut,) = engine.encoder.encode([long[-len(turn) * 2 - 1 :]], room)
    assert len(ids) <= room
    assert ids[-len(cut) :] == cut
    assert ids[0] == engine.encoder.tokenizer.convert_tokens_to_ids("<|user|>")
    assert engine.sample([long], n=1, max_new_tokens=30, seed=0)[0][0].text


def test_one_message_longer_than_the_model_keeps_its_end(engine: TransformersEngine) -> None:
    (ids,) = engine.encoder.encode([user("word " * 300 + "tell me a story")], 50)
    assert len(ids) == 50
    assert ids[-6:] == engine.encoder.encode([user("tell me a story")], 50)[0][-6:]


def test_no_room_for_a_prompt_is_an_error(engine: TransformersEngine) -> None:
    with pytest.raises(ConfigError, match="leave no room"):
        engine.sample(PROMPTS, n=1, max_new_tokens=engine.max_positions, seed=0)
    with pytest.raises(DataError, match="without tokens"):
        engine.logprobs(PROMPTS[:1], [Completion("", [], True, 0.0)], max_new_tokens=4)


def test_empty_calls(engine: TransformersEngine) -> None:
    assert engine.sample([], n=2, max_new_tokens=4, seed=0) == []
    assert engine.logprobs([], []).shape == (0,)


def test_template_is_the_models_own_or_the_toolkits(pretrained: TransformersEngine, engine: TransformersEngine) -> None:
    assert pretrained.encoder.tokenizer.chat_template is None
    assert pretrained.encoder.render(user("hi")) == "<|user|>hi<|end|><|assistant|>"
    assert engine.encoder.tokenizer.chat_template == CHAT_TEMPLATE
