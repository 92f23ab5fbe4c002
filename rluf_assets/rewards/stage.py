"""The stage: train one reward model, read back what was saved, and evaluate that on held-out rows.

    reward = rluf.train_reward(base, train, held_out, rluf.RewardConfig(), out="love", rates=signal_set.rates)
    reward.metrics["auroc"], reward.plot_reliability()

The job `train_reward` and the command `rluf train-reward` are this function behind a file.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.distributed import Zero, join
from rluf_assets.lake import read_json, write_json
from rluf_assets.progress import Progress, printed, silent
from rluf_assets.rewards.adoption import compare, score_again
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.evaluation import evaluate_pairs, evaluate_signal, score_pairs, score_signal
from rluf_assets.rewards.holdout import check_held
from rluf_assets.rewards.memory import give_back
from rluf_assets.rewards.report import write_report
from rluf_assets.rewards.reward import PAIR_SCORES, SIGNAL_SCORES, Reward
from rluf_assets.rewards.scoring import load_scorer
from rluf_assets.rewards.set_aside import FILE, told, write_set_aside
from rluf_assets.rewards.trainer import named_writes
from rluf_assets.rewards.training import fit_reward

ADOPTION = "adoption.json"


@dataclass(frozen=True)
class TrainedReward(Reward):
    """A reward model just trained; `rows` counts what it learned from."""

    rows: dict[str, int] = field(default_factory=dict)

    @property
    def adoption(self) -> dict[str, Any] | None:
        """The comparison with the model in force before, where there was one."""
        path = self.folder / ADOPTION
        return dict(read_json(str(path))) if path.exists() else None

    @property
    def set_aside(self) -> str:
        """How many rows could be neither learned from nor evaluated on, in a line."""
        return told(self.metrics["set_aside"])


def train_reward(
    base: str | Path,
    train: pl.DataFrame,
    held_out: pl.DataFrame | pl.LazyFrame,
    config: RewardConfig,
    *,
    out: str | Path,
    seed: int = 0,
    rates: dict[str, Any] | None = None,
    previous: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainedReward:
    """Train on rows prompt, completion, label (a signal) or prompt, chosen, rejected (pairs), and evaluate on others.

    `base`: folder or hub id of the model to start from. `rates`: a signal set's, for probabilities at the live rate.
    `previous`: the model in force, which a signal's is compared with and, where `config.adoption` says so, started from.
    Writes the model folder, calibration.json, metrics.json, scores and report.html to `out`. Killed, the same call goes on from
    its last whole checkpoint. Under `accelerate launch` all ranks call it. All checks come before the first step.
    """
    out, held = Path(out), held_out.lazy()
    ranks, labelled = join(), config.objective == "bce"
    line = progress or (printed("reward model") if ranks.first else silent)
    started_from = previous if config.adoption.warm_start else None
    check_held(held, config, started_from or base, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    trained = fit_reward(
        base, train, config, seed=seed, out=out, checkpoints=out / "checkpoints", rates=rates, previous=started_from,
        progress=line,
    )  # fmt: skip
    line(1, 1, "scoring held-out rows")
    zero = Zero.of_launch(config.dtype)
    load = partial(load_scorer, dtype=config.dtype, zero=zero, ranks=ranks, share_prefixes=config.share_prefixes)
    model = load(out)
    give_back()
    scored = (
        score_signal(model, held, config, seed=seed)
        if labelled
        else score_pairs(model, held.collect(), config, seed=seed)
    )
    before = score_again(scored.rows, load(Path(previous))) if labelled and previous is not None else None
    name = str(rates["signal"]) if rates and "signal" in rates else config.objective
    made = TrainedReward(name, out, trained.rows)
    if not ranks.first:
        return made
    evaluate = evaluate_signal if labelled else evaluate_pairs
    evaluation = evaluate(model, trained.learned, held, config, seed=seed, held=scored)  # type: ignore[operator]
    asides = (trained.aside, scored.aside)
    evaluation.metrics["set_aside"] = {aside.name: aside.facts() for aside in asides}
    with named_writes(out):
        write_set_aside(out / FILE, asides)
        evaluation.scores.write_parquet(out / (SIGNAL_SCORES if labelled else PAIR_SCORES))
        write_json(str(out / "metrics.json"), {**evaluation.metrics, "training": trained.rows | trained.metrics})
        if evaluation.ensemble is not None:
            evaluation.ensemble.save(out)
        if before is not None:
            write_json(str(out / ADOPTION), compare(evaluation, before, config, seed=seed).to_json())
        write_report(out / "report.html", evaluation, model.calibration, config)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return made
