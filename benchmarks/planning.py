"""Is `rluf plan` right about memory? `python -m benchmarks.planning` trains models on this machine's CPU and compares.

A base policy and reward models of both kinds are trained for a few steps, each in a process of its own, and so is a tiny
one on the same data, which tells what torch, the libraries and the data take. The difference of the two peaks (the
`peak_memory_gb` of a manifest) is laid beside the difference of the two plans.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from resources.launchers.spec import JobResources
from resources.profiles import load_profile
from rluf_assets.planning import Estimate, estimate_base, estimate_reward
from rluf_assets.policy.config import BasePolicyConfig
from rluf_assets.rewards.config import RewardConfig

TINY: dict[str, Any] = {"hidden_size": 64, "layers": 1}
MIDDLE: dict[str, Any] = {"hidden_size": 512, "layers": 6}
LARGE: dict[str, Any] = {"hidden_size": 1024, "layers": 6}
FEW_TOKENS = 512
ROWS = 64


@dataclass(frozen=True)
class Case:
    """A training: the model's shape, tokens at once, and for a reward model what else its config says."""

    name: str
    shape: dict[str, Any]
    tokens: int
    reward: dict[str, Any] | None = None

    def base_config(self) -> BasePolicyConfig:
        small = {"vocab_size": 4096, "max_positions": 512, "steps": 3, "learning_rate": 1e-4}
        return BasePolicyConfig.model_validate({**small, **self.shape, "batch_tokens": self.tokens})

    def reward_config(self) -> RewardConfig:
        short = {"max_length": 256, "max_train_rows": ROWS, "epochs": 1, "share_prefixes": False, "on_too_long": "drop"}
        return RewardConfig.model_validate({**short, "batch_tokens": self.tokens, **(self.reward or {})})

    def plan(self) -> Estimate:
        """The plan's figures on a machine without a GPU."""
        ground = load_profile(Path("nowhere"), "laptop")
        profile = ground.model_copy(update={"base_policy": self.base_config()})
        if self.reward is None:
            return estimate_base(profile, JobResources())
        return estimate_reward("p_love", "p_love", self.reward_config(), profile, JobResources())


BCE = {"objective": "bce"}
CASES = [
    Case("base policy", MIDDLE, 4096),
    Case("base policy", LARGE, 1024),
    Case("P[signal], bfloat16", MIDDLE, 4096, {**BCE, "dtype": "bfloat16"}),
    Case("P[signal], float32", MIDDLE, 4096, {**BCE, "dtype": "float32"}),
    Case("pairs, float32, activations recomputed", LARGE, 4096,
         {"objective": "bradley_terry", "dtype": "float32", "gradient_checkpointing": True}),
]  # fmt: skip


def sentences(count: int) -> list[str]:
    """Made-up texts that fill a context of 256 tokens."""
    rng = Random(0)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4)) for _ in range(2000)]
    return [" ".join(rng.choices(words, k=170)) for _ in range(count)]


def train(case: Case) -> float:
    """Train as the jobs do, and return this process's peak memory in GiB."""
    import resource

    from rluf_assets.policy.base import fit, new_model, save_policy, train_tokenizer
    from rluf_assets.rewards.training import fit_reward

    config, texts = case.base_config(), sentences(4 * ROWS)
    talks = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}] for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        base, out, checkpoints = (Path(folder) / name for name in ("base", "out", "checkpoints"))
        tokenizer = train_tokenizer(talks, config)
        model = new_model(tokenizer, config, 0)
        if case.reward is None:
            fit(model, tokenizer, talks, config, seed=0, checkpoints=checkpoints, report=lambda *done: None)
        else:
            save_policy(model, tokenizer, base)
            del model
            fit_reward(base, rows(talks, case), case.reward_config(), seed=0, out=out, checkpoints=checkpoints)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rows(talks: list[list[dict[str, str]]], case: Case) -> pl.DataFrame:
    """Training rows of either kind."""
    replies = [talk[1:] for talk in talks]
    frame = pl.DataFrame({"prompt": [talk[:1] for talk in talks], "user_id": [str(i) for i in range(len(talks))]})
    if case.reward_config().objective == "bce":
        labels = [i % 2 == 0 for i in range(len(talks))]
        return frame.with_columns(completion=pl.Series(replies), label=pl.Series(labels))
    return frame.with_columns(chosen=pl.Series(replies), rejected=pl.Series(replies[1:] + replies[:1]))


# Freed memory goes back at once: a peak that glibc's heap keeps for later is no need of the training's.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def peak_of(case: Case) -> float:
    """The peak of a fresh process that trains it."""
    given = json.dumps([case.name, case.shape, case.tokens, case.reward])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.planning", given], env={**os.environ, **RETURNED},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{case.name}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(train(Case(*json.loads(sys.argv[1]))))
        return
    print(f"{'training':42} {'million':>8} {'tokens':>7} {'planned':>8} {'used':>8} {'planned/used':>13}")
    for case in CASES:
        floor = Case(case.name, TINY, FEW_TOKENS, case.reward)
        used = peak_of(case) - peak_of(floor)
        planned = case.plan().memory_total - floor.plan().memory_total
        million = case.plan().memory["gradients"] * 2**30 / 4 / 1e6
        print(f"{case.name:42} {million:8.1f} {case.tokens:7} {planned:8.2f} {used:8.2f} {planned / used:13.2f}")


if __name__ == "__main__":
    main()
