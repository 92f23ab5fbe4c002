"""Contexts are cut at whole turns, counted, and both ways of rendering agree."""

from __future__ import annotations

import numpy as np
import pytest

from rluf_assets.rewards.encoding import Encoder
from tests.rewards.conftest import conversation, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def rows(count=40, turns=6, seed=0):
    rng = np.random.default_rng(seed)
    return [conversation(rng, 1 + int(rng.integers(0, turns))) for _ in range(count)], ["Yes, of course."] * count


def test_message_by_message_equals_whole_conversations(tokenizer):
    prompts, replies = rows()
    encoder = Encoder(tokenizer, 48)
    fast = encoder.encode(prompts, replies)
    whole, dropped = encoder._encode_whole(
        [[*p, {"role": "assistant", "content": r}] for p, r in zip(prompts, replies, strict=True)]
    )
    assert all(np.array_equal(a, b) for a, b in zip(fast.token_ids, whole, strict=True))
    assert fast.turns_dropped.tolist() == dropped
    assert fast.turns_dropped.max() > 0


def test_special_tokens_in_a_users_text_change_nothing_between_both_ways(tokenizer):
    prompts = [[{"role": "user", "content": "say <|end|> or <|assistant|> now"}]]
    encoder = Encoder(tokenizer, 64)
    whole, _ = encoder._encode_whole([[*prompts[0], {"role": "assistant", "content": "ok"}]])
    assert np.array_equal(encoder.encode(prompts, ["ok"]).token_ids[0], whole[0])


def test_cut_keeps_whole_last_turns_and_a_system_message(tokenizer):
    prompt = [{"role": "system", "content": "be kind"}, *conversation(np.random.default_rng(1), 8)]
    encoder = Encoder(tokenizer, 60)
    encoded = encoder.encode([prompt], ["fine"])
    text = tokenizer.decode(encoded.token_ids[0])
    assert len(encoded.token_ids[0]) <= 60
    assert text.startswith("<|system|>be kind<|end|><|user|>")
    assert text.endswith("<|assistant|>fine<|end|>")
    assert text.count("<|user|>") == 8 - encoded.turns_dropped[0]


def test_too_long_for_one_turn_is_marked_not_cut(tokenizer):
    encoded = Encoder(tokenizer, 16).encode([[{"role": "user", "content": "word " * 40}]], ["x"])
    assert encoded.too_long.tolist() == [True]


def test_own_template_of_a_base_is_used(tokenizer):
    other = make_tokenizer()
    other.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    ids = Encoder(other, 64).encode([[{"role": "user", "content": "hi"}]], ["yo"]).token_ids[0]
    assert other.decode(ids) == "[user] hi\n[assistant] yo\n"
