"""Sampling, log-probabilities and losses on small random models of real architectures: what each does to a token, we do too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPTNeoConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
)

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.policy.base import check_checkpoint, load_checkpoint, reply_loss, save_policy, train_base_policy
from rluf_assets.policy.config import BasePolicyConfig
from rluf_assets.policy.conversations import Example, encode
from rluf_assets.policy.decoding import _choose
from rluf_assets.policy.engine import Completion, TransformersEngine
from rluf_assets.policy.prompts import PromptEncoder
from rluf_assets.policy.reply_tokens import ReplyTokens, all_end_ids, end_ids
from tests.policy.conftest import user
from tests.rewards.conftest import make_tokenizer
from tests.rewards.test_chat_tokens import CHATML, byte_level, wrapped

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": None, "initializer_range": 0.3,
}  # fmt: skip
WINDOW = 12
MIXED = ["sliding_attention", "full_attention"] * 2
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=WINDOW),
    "mistral, no window": MistralConfig(**SHAPE, sliding_window=None),
    "phi3": Phi3Config(**SHAPE, sliding_window=WINDOW),
    "qwen2, windows off": Qwen2Config(**SHAPE, sliding_window=WINDOW, use_sliding_window=False),
    "qwen2": Qwen2Config(**SHAPE, sliding_window=WINDOW, use_sliding_window=True, max_window_layers=2),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=WINDOW, layer_types=MIXED, query_pre_attn_scalar=32,
                           final_logit_softcapping=2.0, attn_logit_softcapping=5.0),
    "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=WINDOW, layer_types=MIXED, query_pre_attn_scalar=32),
    "cohere2": Cohere2Config(**SHAPE, sliding_window=WINDOW, layer_types=MIXED, logit_scale=0.3),
    "granite": GraniteConfig(**SHAPE, logits_scaling=6.0, attention_multiplier=0.2),
}  # fmt: skip
LONG = user("tell me a story " * 6)
PROMPTS = [
    LONG,
    user("hi"),
    user("how do I bake bread " * 4),
    [*LONG, {"role": "assistant", "content": "No."}, *user("go on")],
]


def save(config: PretrainedConfig, folder: Path, *, tokenizer: Any = None, **generation: Any) -> Path:
    tokenizer = tokenizer or make_tokenizer()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(**generation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=CONFIGS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = save(CONFIGS[request.param], tmp_path_factory.mktemp("model"), eos_token_id=1)
    return TransformersEngine(folder)


def alone(engine: TransformersEngine, prompt: list[int], reply: list[int]) -> float:
    """The reply's log-probability by a plain pass over one row, the model's own masks, caps and scales in it."""
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([prompt + reply]), use_cache=False).logits[0]
    steps = torch.log_softmax(logits[len(prompt) - 1 : -1].double(), dim=-1)
    return float(steps.gather(1, torch.tensor(reply)[:, None]).sum())


def test_what_is_sampled_has_the_log_probability_of_a_plain_pass(engine: TransformersEngine) -> None:
    drawn = engine.sample(PROMPTS, n=3, max_new_tokens=16, temperature=1.4, seed=1)
    ids = engine.encoder.encode(PROMPTS, 200)
    assert max(map(len, ids)) > 2 * WINDOW
    expected = [alone(engine, p, c.token_ids) for p, row in zip(ids, drawn, strict=True) for c in row]
    flat = [c for row in drawn for c in row]
    np.testing.assert_allclose([c.logprob for c in flat], expected, atol=2e-3)
    asked = [prompt for prompt in PROMPTS for _ in range(3)]
    np.testing.assert_allclose(engine.logprobs(asked, flat, max_new_tokens=16), expected, atol=2e-3)


def test_greedy_replies_are_those_of_generate(engine: TransformersEngine) -> None:
    for prompt, (completion,) in zip(
        PROMPTS, engine.sample(PROMPTS, n=1, max_new_tokens=16, temperature=0.0, seed=0), strict=True
    ):
        ids = torch.tensor(engine.encoder.encode([prompt], 200))
        expected = engine.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0,
            suppress_tokens=list(engine.tokens.banned),
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        assert completion.token_ids == expected


def test_the_loss_is_that_of_the_models_own_logits(engine: TransformersEngine) -> None:
    talk = [*user("hi"), {"role": "assistant", "content": "Here is what to do."}]
    examples = encode(
        [talk, [*talk, *user("go on"), {"role": "assistant", "content": "It depends."}]], engine.encoder, 99
    )
    total = sum(-learned_logprob(engine, example) for example in examples)
    loss, tokens = reply_loss(engine.model, examples)
    assert tokens == sum(sum(example.learned) for example in examples)
    assert loss == pytest.approx(total / tokens, abs=1e-4)


def learned_logprob(engine: TransformersEngine, example: Example) -> float:
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([example.token_ids]), use_cache=False).logits[0, :-1]
    steps = torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor(example.token_ids[1:])[:, None])[:, 0]
    return float(steps[torch.tensor(example.learned[1:])].sum())


def test_a_window_whose_masks_are_not_made_here_is_refused_where_a_row_is_longer(tmp_path: Path) -> None:
    config = GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=WINDOW,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    engine = TransformersEngine(save(config, tmp_path, eos_token_id=1))
    assert engine.sample([user("hi")], n=2, max_new_tokens=4, seed=0)[0][0].token_ids
    with pytest.raises(ConfigError, match=f"see {WINDOW} back"):
        engine.sample([LONG], n=2, max_new_tokens=4, seed=0)


def test_layers_that_are_no_attention_are_refused(tmp_path: Path) -> None:
    config = Lfm2Config(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        layer_types=["conv", "full_attention"], max_position_embeddings=256, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    engine = TransformersEngine(save(config, tmp_path, eos_token_id=1))
    with pytest.raises(ConfigError, match=r"are no attention.*engine: vllm"):
        engine.sample([user("hi")], n=2, max_new_tokens=4, seed=0)
    # vLLM may sample it: what is learned is read row by row.
    prompt, reply = engine.encoder.encode([user("hi")], 99)[0], [5, 6, 1]
    read = engine.logprobs([user("hi")], [Completion("", reply, True, 0.0)])
    assert read[0] == pytest.approx(alone(engine, prompt, reply), abs=2e-3)
    with pytest.raises(ConfigError, match="are no attention"):
        check_checkpoint(str(tmp_path), shares_prompts=True)


def test_rows_stay_within_the_length_from_which_longrope_turns_all_rows_of_a_pass_otherwise(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 16, "long_factor": [4.0] * 16,
        "original_max_position_embeddings": 48,
    }  # fmt: skip
    config = Phi3Config(**SHAPE, sliding_window=None, rope_parameters=rope, original_max_position_embeddings=48)
    engine = TransformersEngine(save(config, tmp_path, eos_token_id=1))
    drawn = [row[0] for row in engine.sample(PROMPTS, n=1, max_new_tokens=16, seed=1)]
    ids = engine.encoder.encode(PROMPTS, 32)
    expected = [alone(engine, p, c.token_ids) for p, c in zip(ids, drawn, strict=True)]
    np.testing.assert_allclose([c.logprob for c in drawn], expected, atol=2e-3)
    np.testing.assert_allclose(engine.logprobs(PROMPTS, drawn, max_new_tokens=16), expected, atol=2e-3)


@pytest.mark.parametrize(
    "config", [BloomConfig(hidden_size=32, n_layer=1, n_head=2), FalconConfig(hidden_size=64, num_hidden_layers=1,
               num_attention_heads=2, alibi=True)], ids=["bloom", "falcon"]
)  # fmt: skip
def test_positions_by_distance_are_refused(config: PretrainedConfig, tmp_path: Path) -> None:
    folder = save(config, tmp_path / "base", eos_token_id=1)
    for use in (TransformersEngine, lambda folder: take_over(folder, tmp_path / "out")):
        with pytest.raises(ConfigError, match="by distance"):
            use(folder)


def take_over(folder: Path, out: Path, **settings: Any) -> Path:
    config = BasePolicyConfig(checkpoint=str(folder), **settings)
    train_base_policy([], out, config, seed=0, checkpoints=out, report=lambda *_: None)
    return out


def test_ends_that_stand_in_the_models_config_alone_are_kept(tmp_path: Path) -> None:
    """Generation settings may say how to sample and nothing else."""
    config = LlamaConfig(**{**SHAPE, "eos_token_id": [7, 9]})
    out = take_over(save(config, tmp_path / "base", do_sample=True, temperature=0.7), tmp_path / "out")
    assert {7, 9} < TransformersEngine(out).end_ids


def test_an_end_that_only_a_class_of_configs_names_is_no_end_where_it_is_a_word() -> None:
    """2 in every Llama: a vocabulary of one's own has some word there, and each reply would end with it."""
    config = LlamaConfig(**{**SHAPE, "eos_token_id": 2})
    ours = wrapped(byte_level(), CHATML, ("<|im_start|>", "<|im_end|>"))
    encoder = PromptEncoder(ours)
    told = all_end_ids(GenerationConfig(eos_token_id=2), config, encoder)
    guessed = all_end_ids(GenerationConfig.from_model_config(config), config, encoder)
    assert 2 not in encoder.chat.control_ids
    assert told == guessed | {2} and guessed == {ours.convert_tokens_to_ids("<|im_end|>")}


def test_a_checkpoint_taken_over_is_the_same_bytes_again_its_new_tokens_too(tmp_path: Path) -> None:
    tokenizer = wrapped(byte_level(), None, (), eos_token="<eos>")
    base = save(LlamaConfig(**SHAPE), tmp_path / "base", tokenizer=tokenizer, eos_token_id=1)
    first, second = (take_over(base, tmp_path / name) / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_every_end_token_is_kept_and_stops_a_reply(tmp_path: Path) -> None:
    """A turn's end that stands only in generation_config (as Gemma's, Phi-3's, the first Llama 3's did)."""
    tokenizer = make_tokenizer()
    chat = save(LlamaConfig(**SHAPE), tmp_path / "chat", tokenizer=tokenizer, eos_token_id=[7, 9])
    ours = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end_ids(chat, PromptEncoder(tokenizer)) == {7, 9, ours}
    train_base_policy(
        [],
        tmp_path / "out",
        BasePolicyConfig(checkpoint=str(chat)),
        seed=0,
        checkpoints=tmp_path,
        report=lambda *_: None,
    )
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == sorted({7, 9, ours})
    engine = TransformersEngine(tmp_path / "out")
    replies = [c for row in engine.sample(PROMPTS, n=40, max_new_tokens=60, temperature=2.0, seed=0) for c in row]
    ended = [c.token_ids[-1] for c in replies if c.finished]
    assert {7, 9} <= set(ended) <= {7, 9, ours}
    assert all(engine.end_ids.isdisjoint(c.token_ids[:-1]) for c in replies)
    again = load_checkpoint(str(tmp_path / "out"))
    save_policy(*again, tmp_path / "again")
    assert (tmp_path / "again" / "generation_config.json").read_text() == (
        tmp_path / "out" / "generation_config.json"
    ).read_text()


def test_the_turns_end_of_the_template_counts_where_no_setting_names_it(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    folder = save(LlamaConfig(**{**SHAPE, "eos_token_id": None}), tmp_path, tokenizer=tokenizer)
    assert TransformersEngine(folder).end_ids == {tokenizer.convert_tokens_to_ids("<|end|>")}


def test_a_model_that_nothing_ends_or_an_end_beyond_its_vocabulary_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token, tokenizer.chat_template = (
        None,
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}",
    )
    folder = save(LlamaConfig(**{**SHAPE, "eos_token_id": None}), tmp_path / "endless", tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="end tokens none"):
        TransformersEngine(folder)
    with pytest.raises(ConfigError, match="endless: end tokens none"):
        take_over(folder, tmp_path / "out")
    beyond = save(LlamaConfig(**SHAPE), tmp_path / "beyond", eos_token_id=[1, 5000])
    with pytest.raises(ConfigError, match="5000"):
        TransformersEngine(beyond)


def test_a_template_that_refuses_a_prompt_is_named(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no chats today') }}"
    folder = save(LlamaConfig(**SHAPE), tmp_path / "base", tokenizer=tokenizer, eos_token_id=1)
    for use in (TransformersEngine, lambda folder: take_over(folder, tmp_path / "out")):
        with pytest.raises(ConfigError, match=r"base: .*no chats today"):
            use(folder)
    refuses = "{% if m.role == 'system' %}{{ raise_exception('no orders') }}{% endif %}"
    tokenizer.chat_template = f"{{% for m in messages %}}{refuses}[{{{{ m.content }}}}]{{% endfor %}}"
    engine = TransformersEngine(save(LlamaConfig(**SHAPE), tmp_path / "chat", tokenizer=tokenizer, eos_token_id=1))
    with pytest.raises(DataError, match="no orders"):
        engine.sample([[{"role": "system", "content": "go"}, *user("hi")]], n=1, max_new_tokens=4, seed=0)


def test_control_tokens_and_rows_without_a_token_are_never_sampled(tmp_path: Path) -> None:
    """A random model likes them as much as any other token; log-probabilities stay those of the model itself."""
    tokenizer = wrapped(byte_level(), None, tuple(f"<|reserved_{i}|>" for i in range(150)), eos_token="<eos>")
    folder = save(LlamaConfig(**SHAPE), tmp_path / "base", tokenizer=tokenizer, eos_token_id=1)
    model, loaded = load_checkpoint(str(folder))
    assert model.get_input_embeddings().num_embeddings % 64 == 0 and model.config.vocab_size > len(loaded)
    save_policy(model, loaded, tmp_path / "policy")
    engine = TransformersEngine(tmp_path / "policy")
    control = set(loaded.convert_tokens_to_ids([f"<|reserved_{i}|>" for i in range(150)]))
    assert control | set(range(len(loaded), model.config.vocab_size)) <= set(engine.tokens.banned)
    for temperature in (0.0, 1.0, 2.0):
        for row in engine.sample(PROMPTS, n=24, max_new_tokens=16, temperature=temperature, seed=0):
            for completion in row:
                assert set(engine.tokens.banned).isdisjoint(completion.token_ids) and not completion.control
    reference = TransformersEngine(tmp_path / "policy")
    drawn = engine.sample([LONG], n=8, max_new_tokens=16, seed=0)[0]
    ratio = np.array([c.logprob for c in drawn]) - reference.logprobs([LONG] * 8, drawn, max_new_tokens=16)
    np.testing.assert_allclose(ratio, 0, atol=2e-3)


def test_a_control_token_in_a_reply_is_seen_wherever_it_stands() -> None:
    tokens = ReplyTokens(frozenset({1, 7}), (3, 4))
    assert [tokens.controls(ids) for ids in ([5, 6, 1], [5, 3, 1], [5, 6], [5, 7, 6, 1], [5, 4], [1])] == [
        False, True, False, True, True, False,
    ]  # fmt: skip


def test_a_banned_token_is_not_drawn_even_where_all_probability_is_on_it() -> None:
    logits = torch.tensor([[[0.0, 200.0, 1.0]], [[0.0, 0.0, 0.0]]])
    uniforms = torch.tensor([[1.0 - 1e-17], [1.0 - 1e-17]], dtype=torch.float64)
    tokens, logprobs = _choose(logits, uniforms, 1.0, torch.tensor([1]))
    assert tokens.tolist() == [[2], [2]] and logprobs[0, 0].item() == pytest.approx(-199.0)
    tokens, _ = _choose(logits, uniforms, 1.0, torch.tensor([1, 2]))
    assert tokens.tolist() == [[0], [0]]
