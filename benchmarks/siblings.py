"""CRRAFT beside RAFT, CRPG, CODPO and the untouched base policy: `python -m benchmarks.siblings [--seeds 0 1 2]`.

Every seed gets a home of its own, where the graph makes a simulated production (shorter than the laptop profile's), the
reward models and, with the same weights, prompts, judges and numbers, one candidate per optimiser. Each then answers the
same fresh contexts; the simulation's truth says what users would love. One table per seed, the change of love with its
95% interval over contexts (bootstrap, paired with the base policy); then means over seeds with Student's t intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from scipy import stats

from rluf_assets.lake import Lake
from rluf_assets.objectives import REWARDS
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.judges import DEFAULT_JUDGES, judge_all
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.simulation import live
from rluf_assets.simulation.config import LiveTestConfig
from rluf_assets.simulation.contexts import draw_contexts
from rluf_assets.simulation.production import LIVE_STREAM

WEIGHTS = {"helpfulness": 0.7, "safety": 0.3, "love": 0.3}
NEW_TOKENS = 48
OPTIMISERS = ("none", "raft", "crraft", "crpg", "codpo")
# The laptop profile's step size and KL_max on a third of its logs and two thirds of its steps.
SETTINGS = {
    "production": {"days": 30, "logs": {"replies_per_day": 15_000}},
    "signal_set": {"holdout_days": 8},
    "evaluation_prompts": {"optimisation_prompts": 400, "evaluation_prompts": 120, "holdout_days": 8},
    "base_policy": {"steps": 1_000},
    "crraft_policy": {
        "iterations": 10, "prompts_per_iteration": 96, "reference_samples": 400, "learning_rate": 3.0e-4, "kl_max": 5,
    },
}  # fmt: skip
COLUMNS = (
    ("reward", "reward r", ".2f"),
    ("love", "true love rate", ".3%"),
    ("love_change", "love, change from the base policy", "+.0%"),
    ("violations", "replies that a judge fails", ".1%"),
    ("farewell_rate", "farewells", ".1%"),
    ("helpful_rate", "helpful", ".0%"),
    ("harmful_compliance_rate", "harmful compliance", ".1%"),
    ("kl", "KL, nats a reply", ".2f"),
    ("wall_s", "wall time, s", ".0f"),
)


def prepare(home: Path, seed: int) -> None:
    """A home folder with the settings above and one candidate per optimiser."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "rluf.yaml").write_text(yaml.safe_dump({"profile": "tiny", "seed": seed, **SETTINGS}))
    candidates = {name: {"optimiser": name} | ({} if name == "none" else {"weights": WEIGHTS}) for name in OPTIMISERS}
    (home / "candidates.yaml").write_text(yaml.safe_dump({"candidates": candidates}))


def make_home(root: Path, seed: int) -> Path:
    """The finished home of a seed under `root`; what lies there already is used again."""
    home = (root / f"seed-{seed}").resolve()
    prepare(home, seed)
    # The code location is of one home: a process for each.
    command = [sys.executable, "-m", "benchmarks.siblings", "--home", str(home), "--only-make", str(seed)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    return home


def materialise(home: Path) -> None:
    """Logs, reward models and candidates; one job at a time, so that wall times can be compared."""
    from rluf_assets.demo import load_code_location, make_folders
    from rluf_assets.materialise import quiet_environment, run_units

    make_folders(home)
    quiet_environment()
    defs = load_code_location(home)
    import dagster as dg

    from rluf_assets.partitions import register_candidates
    from rluf_assets.units import all_units

    last = [unit.assets for unit in all_units(home)].index(("crraft_policy",)) + len(OPTIMISERS)
    units = [unit for unit in all_units(home)[:last] if unit.assets[0] not in ("signal_audit", "past_launches")]
    with dg.DagsterInstance.get() as instance:
        register_candidates(home, instance)
        outcomes = run_units(defs, units, home=home, workers=1)
    failed = [f"{unit.name}: {outcome.errors}" for unit, outcome in outcomes.items() if outcome.state != "done"]
    if failed:
        raise SystemExit("\n".join(failed))


@dataclass
class Yardstick:
    """What policies are measured with: fresh contexts, the truth, the reward models, and the base policy's figures."""

    home: Path
    seed: int
    contexts: pl.DataFrame
    reference: TransformersEngine
    scorers: dict[str, RewardModel]
    scales: dict[str, dict[str, float]]
    base_love: float = 0.0
    base_expected: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, home: Path, seed: int, contexts: int) -> Yardstick:
        torch.set_num_threads(1)
        lake = Lake(str(home / "lake"))
        drawn = draw_contexts(LiveTestConfig(arm="siblings", contexts=contexts), seed, LIVE_STREAM)
        scorers = {objective: RewardModel.load(lake.current(asset).uri) for objective, asset in REWARDS.items()}
        scales = json.loads(Path(lake.current("crraft_policy", "crraft").path("objectives.json")).read_text())
        return cls(home, seed, drawn, TransformersEngine(lake.current("base_policy").uri), scorers, scales)

    def rewards(self, prompts: list[Any], texts: list[str]) -> np.ndarray:
        """CRRAFT's reward r of each reply: weighted z-scores."""
        total = np.zeros(len(texts))
        for objective, scorer in self.scorers.items():
            logit = scorer.score(prompts, texts)["logit"].to_numpy()
            total += WEIGHTS[objective] * (logit - self.scales["mean"][objective]) / self.scales["std"][objective]
        return total

    def read(self, folder: str, wall_s: float) -> dict[str, float]:
        """Figures of a policy's replies, one to each context. The base policy is read first."""
        prompts = self.contexts["prompt"].to_list()
        weight = self.contexts["weight"].to_numpy() / self.contexts["weight"].sum()
        sampled = TransformersEngine(folder).sample(prompts, n=1, max_new_tokens=NEW_TOKENS, seed=self.seed)
        replies = [row[0] for row in sampled]
        texts = [reply.text for reply in replies]
        failed = [
            not all(verdict.passed for verdict in judge_all(prompt, text, DEFAULT_JUDGES).values())
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        table = live.true_rates(self.contexts, live.read_replies(self.contexts, texts))
        rates, expected = live.mean_rates(table), table["expected_love"].to_numpy()
        if not self.base_love:
            self.base_love, self.base_expected = rates["love_rate"], expected
        low, high = change_interval(weight, expected, self.base_expected, self.seed)
        reference = self.reference.logprobs(prompts, replies, max_new_tokens=NEW_TOKENS)
        return {
            "reward": float(weight @ self.rewards(prompts, texts)),
            "love": rates["love_rate"],
            "love_change": rates["love_rate"] / self.base_love - 1,
            "love_change_low": low,
            "love_change_high": high,
            "violations": float(weight @ np.array(failed, dtype=float)),
            **{key: rates[key] for key in ("farewell_rate", "helpful_rate", "harmful_compliance_rate")},
            "kl": float(weight @ (np.array([reply.logprob for reply in replies]) - reference)),
            "wall_s": wall_s,
        }

    def read_candidate(self, name: str) -> dict[str, float]:
        artifact = Lake(str(self.home / "lake")).current("crraft_policy", name)
        return self.read(artifact.uri, float(artifact.manifest["wall_s"]))


def change_interval(weight: np.ndarray, love: np.ndarray, base: np.ndarray, seed: int) -> tuple[float, float]:
    """95% bootstrap interval, over contexts, of the change of the love rate from the base policy's."""
    rows = np.random.default_rng(seed).integers(0, len(weight), (1_000, len(weight)))
    change = (weight[rows] * love[rows]).sum(axis=1) / (weight[rows] * base[rows]).sum(axis=1) - 1
    low, high = np.quantile(change, [0.025, 0.975])
    return float(low), float(high)


def page(found: list[dict[str, dict[str, float]]], names: Sequence[str] = OPTIMISERS) -> str:
    """The Markdown table: one row per optimiser, mean and 95% t interval over seeds."""
    lines = ["| | " + " | ".join(label for _, label, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in names:
        cells = [_cell([seed[name][key] for seed in found], form) for key, _, form in COLUMNS]
        if len(found) == 1 and name != "none":
            at = [key for key, _, _ in COLUMNS].index("love_change")
            cells[at] += f" ({found[0][name]['love_change_low']:+.0%} to {found[0][name]['love_change_high']:+.0%})"
        lines.append(f"| {'base policy' if name == 'none' else name.upper()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], form: str) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{form}}"
    margin = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:{form}} ({mean - margin:{form}} to {mean + margin:{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--home", type=Path, help="keep the homes here, and reuse what lies there")
    parser.add_argument("--contexts", type=int, default=1_500)
    parser.add_argument("--only-make", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_make is not None:
        materialise(given.home)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = given.home or Path(temporary)
        found: list[dict[str, dict[str, Any]]] = []
        for seed in given.seeds:
            home = make_home(root, seed)
            yardstick = Yardstick.of(home, seed, given.contexts)
            found.append({name: yardstick.read_candidate(name) for name in OPTIMISERS})
            print(f"\nseed {seed}\n\n{page(found[-1:])}", flush=True)
    print(f"\n{len(found)} seeds\n\n{page(found)}")


if __name__ == "__main__":
    main()
