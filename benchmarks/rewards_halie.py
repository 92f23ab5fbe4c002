"""Is there a signal in halie's *interestingness*, and who finds it: `python -m benchmarks.rewards_halie --base MINILM`.

189 users marked 2,059 replies, so one split says little: five folds by user, each reply scored by a model that never saw
its user, as a percentile within its fold; intervals resample users. Beside the fine-tuned model: a bag of words, length
alone, and a logistic regression on the reply's frozen features (mean of the base's token vectors), which tells whether
the base's view of the text holds the signal. The last column counts only pairs of replies of one user. Settings are
compared first, on the first fold's training users alone (`--choose`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from benchmarks.rewards_real import SETTINGS, halie_rows
from rluf_assets.rewards.baselines import BagOfWords, length_scores
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.metrics import Clusters, RankStatistics
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.rewards.training import fit_reward

# Settings of all real data; fewer turns of context and more, smaller steps; the same with a higher rate for longer.
CANDIDATES = {
    "256 tokens, 4,096 a step, 5e-5, 2 epochs": {},
    "96 tokens, 1,024 a step, 5e-5, 2 epochs": {"max_length": 96, "batch_tokens": 1024, "micro_batch_tokens": None},
    "96 tokens, 1,024 a step, 1e-4, 3 epochs": {
        "max_length": 96, "batch_tokens": 1024, "micro_batch_tokens": None, "learning_rate": 1e-4, "epochs": 3,
    },
}  # fmt: skip


def user_folds(users: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row; a user's rows are in one."""
    names, codes = np.unique(users, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[codes]


def model_scores(base: Path, learned: pl.DataFrame, held: pl.DataFrame, changes: dict, seed: int) -> np.ndarray:
    config = RewardConfig.model_validate({**SETTINGS, "objective": "bce", **changes})
    with tempfile.TemporaryDirectory() as folder:
        fit_reward(base, learned, config, seed=seed, out=Path(folder), checkpoints=Path(folder) / "checkpoints")
        scored = RewardModel.load(folder).score(held["prompt"].to_list(), held["completion"].to_list())
    return scored["logit"].to_numpy()


@torch.inference_mode()
def frozen_features(base: Path, texts: list[str]) -> np.ndarray:
    """Means of the base's last hidden states over each text's tokens, (texts, width)."""
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
    found = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], padding=True, truncation=True, max_length=128, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        found.append(((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(found)


def within_users(scores: np.ndarray, labels: np.ndarray, users: np.ndarray) -> float:
    """AUROC over pairs of replies that one user marked differently."""
    right = pairs = 0.0
    for user in np.unique(users):
        good, bad = (scores[(users == user) & (labels == side)] for side in (1, 0))
        right += (good[:, None] > bad).sum() + 0.5 * (good[:, None] == bad).sum()
        pairs += len(good) * len(bad)
    return right / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of a pretrained encoder")
    parser.add_argument("--choose", action="store_true", help="compare settings on the first fold's training users")
    parser.add_argument("--settings", type=int, default=0, help="which settings the folds use, or the first to compare")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = halie_rows("interestingness")
    fold = user_folds(rows["user_id"].to_numpy(), options.folds, options.seed)
    if options.choose:
        known = rows.filter(fold != 0)
        inner = user_folds(known["user_id"].to_numpy(), 4, options.seed + 1) == 0
        learned, held = known.filter(~inner), known.filter(inner)
        for name, changes in list(CANDIDATES.items())[options.settings :]:
            scores = model_scores(options.base, learned, held, changes, options.seed)
            auroc = within_fold(scores, held["label"].to_numpy().astype(float))
            print(f"| {name} | {len(learned):,} / {len(held):,} | {auroc:.3f} |", flush=True)
        return
    labels, users = rows["label"].to_numpy().astype(float), rows["user_id"].to_numpy()
    features = frozen_features(options.base, rows["completion"].to_list())
    changes = list(CANDIDATES.values())[options.settings]
    found: dict[str, np.ndarray] = {
        name: np.zeros(len(rows)) for name in ("model", "frozen features", "bag of words", "length only")
    }
    for k in range(options.folds):
        out = fold == k
        learned, held = rows.filter(~out), rows.filter(out)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        scores = {
            "model": model_scores(options.base, learned, held, changes, options.seed),
            "frozen features": probe.fit(features[~out], labels[~out]).decision_function(features[out]),
            "bag of words": BagOfWords().fit_labelled(learned).score_labelled(held),
            "length only": length_scores(learned, held),
        }
        for name, values in scores.items():
            found[name][out] = rankdata(values) / len(held)
        print(
            f"fold {k}: " + ", ".join(f"{n} {within_fold(v, labels[out]):.3f}" for n, v in scores.items()), flush=True
        )
    clusters = Clusters.of(users, np.ones(len(rows)), resamples=1000, confidence=0.95, seed=options.seed)
    print("| scores | AUROC | within one user |\n|---|---|---|")
    for name, values in found.items():
        auroc, (low, high) = clusters.estimate(RankStatistics(values, labels).auroc)
        print(f"| {name} | {auroc:.3f} [{low:.3f}, {high:.3f}] | {within_users(values, labels, users):.3f} |")


def within_fold(values: np.ndarray, labels: np.ndarray) -> float:
    return float(RankStatistics(values, labels).auroc(np.ones((1, len(labels))))[0])


if __name__ == "__main__":
    main()
