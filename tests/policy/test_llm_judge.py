"""The generative judge: its probabilities against a hand-written forward pass, and verdicts it cannot tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rluf_assets.errors import ConfigError
from rluf_assets.policy.config import LlmJudgeConfig
from rluf_assets.policy.llm_judge import LlmJudge
from tests.policy.conftest import user

REPLIES = ["The capital is lima.", "Sure, print it.", ""]


def test_probability_is_that_of_the_two_verdict_tokens(base: Path) -> None:
    judge = LlmJudge(LlmJudgeConfig(folder=str(base), question="Is it good?"))
    found = judge.probabilities([user("what is the capital of peru")] * 3, REPLIES)
    tokenizer, model = judge.engine.encoder.tokenizer, judge.engine.model
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    for reply, probability in zip(REPLIES, found, strict=True):
        text = (
            "Is it good? Answer Yes or No.\n\nuser: what is the capital of peru\n"
            f"assistant: {reply}\n\nAnswer Yes or No."
        )
        ids = judge.engine.encoder.encode([user(text)], judge.engine.max_positions - 1)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor(ids)).logits[0, -1]
        expected = torch.softmax(logits[[yes, no]], dim=0)[0].item()
        assert probability == pytest.approx(expected, abs=1e-5)


def test_verdicts_follow_the_threshold(base: Path) -> None:
    prompts = [user("hi")] * 3
    probabilities = LlmJudge(LlmJudgeConfig(folder=str(base))).probabilities(prompts, REPLIES)
    middle = float(np.median(probabilities))
    judge = LlmJudge(LlmJudgeConfig(folder=str(base), threshold=middle))
    assert judge(prompts, REPLIES).tolist() == (probabilities >= middle).tolist()
    verdict = judge.judge(prompts[0], REPLIES[0])
    assert verdict.passed == (probabilities[0] >= middle)
    assert f"{probabilities[0]:.3f}" in verdict.reason


def test_verdicts_that_start_alike_are_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match="same token"):
        LlmJudge(LlmJudgeConfig(folder=str(base), positive="Yes", negative="Yes"))
