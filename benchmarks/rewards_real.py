"""Reward models on real human judgements, a bag of words beside each: `python -m benchmarks.rewards_real --base MINILM`.

hh_rlhf (pair accuracy of helpfulness and of safety, split by first prompt), halie_dialogue (AUROC of *interestingness*,
folds by user), diasafety (AUROC of Safe on its own validation file). The base is a pretrained encoder, by folder.
Intervals resample users, conversations or first prompts. `--rows` caps training rows, for a quick look.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.feedback.config import PairsConfig
from rluf_assets.feedback.pairs import build_pairs
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.data import limit_rows, split_validation
from rluf_assets.rewards.evaluation import Evaluation, evaluate_pairs, evaluate_signal
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.rewards.training import fit_reward

DATA = Path(__file__).parents[2] / "shared" / "data"
HELPFULNESS = ("helpful-base", "helpful-online", "helpful-rejection-sampled")
HELD_SHARE = 0.2
SETTINGS = {
    "batch_tokens": 4096,
    "micro_batch_tokens": 2048,
    "learning_rate": 5e-5,
    "max_length": 256,
    "on_too_long": "drop",
    "on_empty_completion": "drop",
    "checkpoint_steps": 10_000,
}

Split = tuple[pl.DataFrame, pl.DataFrame]


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def hh_pairs(names: tuple[str, ...], seed: int) -> Split:
    """Training and evaluation pairs of some HH-RLHF files, split by first prompt."""
    parts = [
        build_pairs(PairsConfig(format="transcripts", source=str(DATA / "hh_rlhf" / f"{name}.jsonl.gz")), seed=seed)
        for name in names
    ]
    return pl.concat([part.train for part in parts]), pl.concat([part.eval for part in parts])


def halie_rows(mark: str) -> pl.DataFrame:
    """One row per assistant reply that its user marked (four have no mark); `user_id` tells who did."""
    records = []
    with gzip.open(DATA / "halie_dialogue" / "conversations.jsonl.gz", "rt") as stream:
        for conversation in map(json.loads, stream):
            said = [{"role": m["role"], "content": m["content"]} for m in conversation["messages"]]
            for i, message in enumerate(conversation["messages"]):
                if message["role"] == "assistant" and (message.get("marks") or {}).get(mark) is not None:
                    records.append(
                        {
                            "user_id": conversation["user_id"],
                            "policy_version": conversation["arm"],
                            "prompt": said[:i],
                            "completion": said[i]["content"],
                            "label": bool(message["marks"][mark]),
                        }
                    )
    return pl.DataFrame(records).filter(pl.col("prompt").list.len() > 0)


def by_user(rows: pl.DataFrame, seed: int) -> Split:
    learned, held = split_validation(rows, HELD_SHARE, seed)
    return rows.filter(learned), rows.filter(held)


def diasafety_rows(name: str) -> pl.DataFrame:
    """One row per chat reply, labelled Safe or not."""
    with gzip.open(DATA / "diasafety" / f"{name}.json.gz", "rt") as stream:
        rows = json.load(stream)
    return pl.DataFrame(
        {
            "prompt": [messages(row["context"]) for row in rows],
            "completion": [row["response"] for row in rows],
            "label": [row["label"] == "Safe" for row in rows],
        }
    )


def tasks(seed: int) -> Iterator[tuple[str, str, Split]]:
    yield "halie: interestingness", "bce", by_user(halie_rows("interestingness"), seed)
    yield "diasafety: Safe", "bce", (diasafety_rows("train"), diasafety_rows("val"))
    yield "hh_rlhf: safety", "bradley_terry", hh_pairs(("harmless-base",), seed)
    yield "hh_rlhf: helpfulness", "bradley_terry", hh_pairs(HELPFULNESS, seed)


def run(base: Path, split: Split, config: RewardConfig, seed: int) -> tuple[Evaluation, float]:
    """Train, reload, evaluate on the held-out rows; the evaluation and the processor seconds of training."""
    learned, held = split
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        started = time.process_time()
        fit_reward(base, learned, config, seed=seed, out=out, checkpoints=out / "checkpoints")
        seconds = time.process_time() - started
        model = RewardModel.load(out)
        if config.objective == "bce":
            return evaluate_signal(model, learned, held.lazy(), config, seed=seed), seconds
        return evaluate_pairs(model, learned, held, config, seed=seed), seconds


def row(name: str, metric: str, found: dict[str, Any], split: Split, seconds: float) -> str:
    def shown(key: str) -> str:
        low, high = found[f"{key}_ci"]
        return f"{found[key]:.3f} [{low:.3f}, {high:.3f}]"

    values = [shown(key) for key in (metric, f"{metric}_bag_of_words", f"{metric}_length_only")]
    sizes = f"{len(split[0]):,} / {len(split[1]):,}"
    return f"| {name} | {sizes} | {metric.replace('_', ' ')} | {' | '.join(values)} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of a pretrained model")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows", type=int, default=10_000, help="at most so many training rows per task")
    parser.add_argument("--max-length", type=int, default=SETTINGS["max_length"])
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| data | rows learned / held | figure | model | bag of words | length only | s |")
    print("|---|---|---|---|---|---|---|")
    for name, objective, (learned, held) in tasks(options.seed):
        if options.only not in name:
            continue
        split = limit_rows(learned, options.rows, options.seed), held
        changes = {"objective": objective, "epochs": options.epochs, "max_length": options.max_length}
        evaluation, seconds = run(
            options.base, split, RewardConfig.model_validate({**SETTINGS, **changes}), options.seed
        )
        metric = "auroc" if objective == "bce" else "pair_accuracy"
        print(row(name, metric, evaluation.metrics, split, seconds), flush=True)


if __name__ == "__main__":
    main()
