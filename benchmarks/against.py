"""Is this tree slower than an earlier one? `python -m benchmarks.against REF [--rounds 5]`, REF a commit or a tag.

The earlier tree is checked out beside this one and both run the same work in turn, each time in a process of its own:
one CRRAFT iteration by phases (`benchmarks.policy`), training a reward model and scoring with it (`benchmarks.rewards`),
each tree through its own benchmark's functions. Processor seconds on one thread, so that other work on the machine
counts little; a ratio of each round compares the two trees as they ran next to each other, and the table gives the
median ratio with the 95% interval of a bootstrap over rounds. Above 1: this tree is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

HERE = Path(__file__).resolve().parents[1]
DTYPE = "float32"
PROMPTS, N, NEW_TOKENS = 16, 4, 48
PAIRS, CONVERSATIONS = 64, 6


def measure() -> dict[str, float]:
    """Processor seconds of each kind of work in the tree that PYTHONPATH names."""
    import torch

    from benchmarks import policy, rewards
    from rluf_assets.rewards.config import RewardConfig

    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        texts = policy.read_prompts(PROMPTS)
        (root / "policy").mkdir()
        policy.make_models(root / "policy", texts, 256, 4, 512)  # as many ids as tokens, else earlier trees sample none
        phases = iteration(policy, root / "policy", texts)
        found["one CRRAFT iteration"] = phases["processor"]
        for name in ("sample", "score"):
            found[f"- {name} (wall seconds)"] = phases[f"seconds_{name}"]
        every = rewards.hh_pairs().head(4 * PAIRS)
        base = root / "base"
        rewards.make_base(base, [m["content"] for row in every["prompt"].to_list() for m in row], 256, 4)
        pairs, tokens = rewards.fitting(base, every, PAIRS)
        config = RewardConfig.model_validate(
            {
                "objective": "bradley_terry", "epochs": 1, "max_length": rewards.MAX_LENGTH, "learning_rate": 1e-4,
                "checkpoint_steps": 100_000, "dtype": DTYPE, "gradient_checkpointing": True,
                "batch_tokens": round(rewards.BATCH * tokens),
            }
        )  # fmt: skip
        found["training a reward model"] = len(pairs) / rewards.our_rate("", base, pairs, root, config, None)
        begin = time.process_time()
        rewards.scoring(root, CONVERSATIONS)
        found["scoring ten-turn conversations, both ways"] = time.process_time() - begin
    return found


def iteration(policy: Any, root: Path, texts: list[str]) -> dict[str, float]:
    """`benchmarks.policy.crraft` in float32: bfloat16 passes take twenty times as long on a CPU that has no such units."""
    optimisation, load = policy.OptimisationConfig, policy.RewardModel.load
    with (
        patch.object(policy, "OptimisationConfig", lambda **given: optimisation(**{**given, "dtype": DTYPE})),
        patch.object(policy.RewardModel, "load", lambda folder, dtype: load(folder, dtype=DTYPE)),
    ):
        phases: dict[str, float] = policy.crraft(root, texts, N, NEW_TOKENS)
    return phases


def run_tree(tree: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(HERE / "benchmarks" / "against.py"), "--measure"],
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"The work failed in {tree}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(reference: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "tree"
        subprocess.run(["git", "-C", str(HERE), "worktree", "add", "-q", "--detach", str(other), reference], check=True)
        # The benchmarks read public data that lies beside the project.
        (Path(folder) / "shared").symlink_to(HERE.parent / "shared")
        try:
            before, after = [], []
            for round_ in range(rounds):
                # Whoever runs first changes from round to round.
                for tree in (other, HERE) if round_ % 2 else (HERE, other):
                    (after if tree == HERE else before).append(run_tree(tree))
                    print(f"round {round_ + 1} of {rounds}, {'this tree' if tree == HERE else reference}", flush=True)
        finally:
            subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", str(other)], check=False)
    random = np.random.default_rng(0)
    print(f"\n| processor seconds | {reference} | this tree | ratio, median of {rounds} rounds |\n|---|---|---|---|")
    for name in before[0]:
        old, new = (np.array([row[name] for row in rows]) for rows in (before, after))
        drawn = np.median((new / old)[random.integers(rounds, size=(2000, rounds))], axis=1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        print(
            f"| {name} | {np.median(old):.2f} | {np.median(new):.2f} | {np.median(new / old):.3f} ({low:.3f} to {high:.3f}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", nargs="?", help="a commit or tag of this repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure()))
    elif given.reference is None:
        print("benchmarks.against needs a commit to compare with, e.g. python -m benchmarks.against HEAD~10: left out.")
    else:
        compare(given.reference, given.rounds)


if __name__ == "__main__":
    main()
