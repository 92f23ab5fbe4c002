"""What a chat template leaves to the reply: a thought to end or a turn to begin takes a token that no reply may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig

from resources.profiles import load_profile
from rluf_assets.doctor import Finding, _models
from rluf_assets.errors import ConfigError
from rluf_assets.objectives import REWARDS
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.prompts import PromptEncoder
from rluf_assets.policy.reply_tokens import left_to_reply
from rluf_assets.rewards.chat_tokens import ChatTokens
from tests.policy.conftest import user
from tests.policy.test_architectures import SHAPE, save, take_over
from tests.rewards.test_chat_tokens import CHATML, GEMMA, LLAMA2, LLAMA3, MISTRAL, PHI3, byte_level, wrapped

MARKS = (
    "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|return|>", "<|channel|>", "<|message|>", "<think>", "</think>",
    "[THINK]", "[/THINK]", "<|START_THINKING|>", "<|END_THINKING|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>",
    "<|inner_prefix|>", "<|inner_suffix|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|user|>",
    "<|assistant|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<s>",
)  # fmt: skip
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"


def begins(reply: str, before: str = "") -> str:
    """A template whose prompts end with `reply`, and that writes `before` in front of a reply."""
    role = "{{ '<|im_start|>' + m.role + '\n' + ('BEFORE' if m.role == 'assistant' else '') + m.content + '<|im_end|>\n' }}"
    turns = f"{{% for m in messages %}}{role.replace('BEFORE', before)}{{% endfor %}}"
    return turns + "{% if add_generation_prompt %}<|im_start|>assistant\n" + reply + "{% endif %}"


HYBRID = begins(
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "<|return|>{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
GEMMA4 = (
    "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
LEFT = {
    "R1": (begins("<think>\n"), "</think>"),
    "R1, written in its turns too": (begins("<think>\n", "<think>\n\n</think>\n\n"), "</think>"),
    "brackets": (begins("[THINK]"), "[/THINK]"),
    "words": (begins("<|START_THINKING|>"), "<|END_THINKING|>"),
    "prefix": (begins("<|inner_prefix|>"), "<|inner_suffix|>"),
    "mirror": (GEMMA4.replace("model\n", "model\n<|channel>thought\n"), "<channel|>"),
    "no token of its own": (begins("<reasoning>"), "</reasoning>"),
    "channels": (HARMONY, "<|end|>"),
    "no generation prompt": (TURNS, "before a reply, but ends a prompt with"),
    "a mark before each reply": (begins("", "[INST]"), "[INST]"),
}
NOTHING = {
    "chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "phi3": PHI3, "gemma4": GEMMA4,
    "told not to think": HYBRID, "a thought that is over": begins("<think>\n\n</think>\n\n"),
    "over in its turns too": begins("<think></think>", "<think></think>"), "over from the start": begins("</think>"),
    "a mark": begins("<bot>: "), "wants a system message": "{{ messages[1].role and '' }}" + CHATML,
}  # fmt: skip


RAW = byte_level()


def chat(template: str) -> ChatTokens:
    return ChatTokens(wrapped(RAW, template, MARKS, special=False, eos_token="<eos>", bos_token="<bos>"))


def doctor(home: Path, settings: str) -> list[Finding]:
    """What `rluf doctor` says of the models of a home whose base policy lies in its folder `thinker`."""
    (home / "rluf.yaml").write_text(f"{settings}\nbase_policy: {{checkpoint: thinker}}\n")
    return list(_models(load_profile(home), home))


@pytest.mark.parametrize(("template", "left"), LEFT.values(), ids=LEFT)
def test_what_a_template_leaves_to_the_reply_is_named(template: str, left: str) -> None:
    tokens = chat(template)
    found = left_to_reply(tokens, {tokens.turn_end or "<eos>", "<eos>"})
    assert found is not None and left in found


@pytest.mark.parametrize("template", NOTHING.values(), ids=NOTHING)
def test_a_template_whose_replies_begin_at_once_leaves_nothing(template: str) -> None:
    tokens = chat(template)
    assert left_to_reply(tokens, {tokens.turn_end or "<eos>", "<eos>"}) is None


def test_a_base_that_would_never_come_to_its_answer_is_refused_before_any_work(tmp_path: Path) -> None:
    tokenizer = wrapped(
        RAW, begins("<think>\n"), ("<|im_start|>", "<|im_end|>", "<think>", "</think>"), eos_token="<eos>"
    )
    folder = save(LlamaConfig(**SHAPE), tmp_path / "thinker", tokenizer=tokenizer, eos_token_id=1)
    for use in (lambda: take_over(folder, tmp_path / "out"), lambda: TransformersEngine(folder)):
        with pytest.raises(ConfigError, match=r"thinker.*'</think>' left to the reply.*Copy the folder"):
            use()
    assert not (tmp_path / "out").exists()
    found = {finding.subject: finding for finding in doctor(tmp_path, "profile: laptop")}["base policy"]
    assert (found.state, found.remedy) == ("mend", "mend base_policy.checkpoint")
    assert "'</think>' left to the reply" in found.found


def test_the_doctor_reads_a_checkpoint_before_a_job_does(tmp_path: Path) -> None:
    tokenizer = wrapped(RAW, CHATML, ("<|im_start|>", "<|im_end|>"), eos_token="<eos>")
    save(LlamaConfig(**SHAPE), tmp_path / "thinker", tokenizer=tokenizer, eos_token_id=1)
    assert {finding.state for finding in doctor(tmp_path, "profile: laptop")} == {"ok"}
    reward_models = "".join(f"{name}: {{max_length: 512}}\n" for name in REWARDS.values())
    (found,) = doctor(tmp_path, f"profile: laptop\ncrraft_policy: {{max_new_tokens: 256}}\n{reward_models}")
    assert found.state == "mend" and "256 new tokens leave no room for a prompt in 256 positions" in found.found


def test_a_model_that_may_think_is_told_not_to_in_prompts_and_in_what_is_learned() -> None:
    tokens = chat(HYBRID.replace("'' ", "'<think>\n\n</think>\n\n' ", 1))
    encoder = PromptEncoder(tokens.tokenizer)
    assert encoder.render(user("hi")).endswith("assistant\n<think>\n\n</think>\n\n")
    talk = [*user("hi"), {"role": "assistant", "content": "hello"}]
    assert next(piece.text for piece in tokens.pieces(talk) if piece.reply).startswith("hello")
