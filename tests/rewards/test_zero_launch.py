"""What a launch may ask of sharding, before anything is loaded; sharded runs themselves are in test_policy_ranks.py."""

from __future__ import annotations

import pytest

from rluf_assets.errors import ConfigError
from rluf_assets.rewards.zero import Zero


def test_without_deepspeed_nothing_is_sharded() -> None:
    assert Zero.of_launch("float32") is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP, expected ddp, zero2 or zero3"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"},
            "zero_stage 0, expected 1, 2 or 3",
        ),
    ],
)
def test_what_a_policy_cannot_run_under_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        Zero.of_launch("float32")


@pytest.mark.parametrize(("dtype", "bfloat16"), [("float32", False), ("bfloat16", True)])
def test_the_launch_says_the_stage_and_the_job_the_rest(
    monkeypatch: pytest.MonkeyPatch, dtype: str, bfloat16: bool
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "7.0")
    zero = Zero.of_launch(dtype, max_gradient_norm=0.5)
    assert zero is not None and zero.shards_weights
    assert zero.config["bf16"]["enabled"] is bfloat16
    assert zero.config["gradient_clipping"] == 0.5, "the candidate's own, not the launch's"
    assert zero.config["gradient_accumulation_steps"] == 1
