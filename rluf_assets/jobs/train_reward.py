"""Job `train_reward`: one reward model and its evaluation.

Inputs: `base` (HF folder), `signal_set` (P[signal]) or `preference_pairs` (Bradley-Terry), `previous` (optional: the
model in force, to start from; a P[signal] is compared with it: adoption.json).
Writes the model folder, calibration.json, metrics.json, scores, report.html and, for
P[signal], ensemble.json.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import polars as pl

from rluf_assets.errors import ConfigError
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, read_json, write_json


def run(job: Job) -> Produced:
    """Train, reload what was saved, and evaluate that on the held-out rows."""
    from rluf_assets.distributed import Zero, join
    from rluf_assets.rewards.adoption import compare, score_again
    from rluf_assets.rewards.config import RewardConfig
    from rluf_assets.rewards.evaluation import evaluate_pairs, evaluate_signal, score_pairs, score_signal
    from rluf_assets.rewards.holdout import check_held
    from rluf_assets.rewards.memory import give_back
    from rluf_assets.rewards.report import write_report
    from rluf_assets.rewards.scoring import load_scorer
    from rluf_assets.rewards.set_aside import FILE, told, write_set_aside
    from rluf_assets.rewards.training import train_reward

    config = RewardConfig.model_validate(job.config)
    ranks = join()
    labelled = config.objective == "bce"
    source, held_name = ("signal_set", "holdout") if labelled else ("preference_pairs", "eval")
    if source not in job.spec.inputs:
        raise ConfigError(
            f"{job.spec.name}: objective {config.objective!r} reads input {source!r}, found {sorted(job.spec.inputs)}."
        )
    train = pl.read_parquet(job.input(source) / "train.parquet")
    held = pl.scan_parquet(job.input(source) / f"{held_name}.parquet")
    previous = job.input("previous") if "previous" in job.spec.inputs else None
    started_from = previous if config.adoption.warm_start else None
    check_held(held, config, started_from or job.input("base"), seed=job.seed)
    trained = train_reward(
        job.input("base"),
        train,
        config,
        seed=job.seed,
        out=job.out,
        checkpoints=job.scratch("checkpoints"),
        rates=read_json(str(job.input(source) / "rates.json")) if labelled else None,
        previous=started_from,
        progress=job.progress,
    )
    job.progress(1, 1, f"scoring {held_name}")
    zero = Zero.of_launch(config.dtype)
    load = partial(load_scorer, dtype=config.dtype, zero=zero, ranks=ranks, share_prefixes=config.share_prefixes)
    model = load(job.out)
    give_back()
    scored = (
        score_signal(model, held, config, seed=job.seed) if labelled else score_pairs(model, held.collect(), config)
    )
    asides = (trained.aside, scored.aside)
    compared = labelled and previous is not None
    before = score_again(scored.rows, load(previous)) if compared else None
    if not job.first_rank:
        return Produced(trained.rows)
    evaluate = evaluate_signal if labelled else evaluate_pairs
    evaluation = evaluate(model, trained.learned, held, config, seed=job.seed, held=scored)  # type: ignore[operator]
    verdict = compare(evaluation, before, config, seed=job.seed).to_json() if before is not None else None
    evaluation.metrics["set_aside"] = {aside.name: aside.facts() for aside in asides}
    write_set_aside(job.out / FILE, asides)
    job.log(told(evaluation.metrics["set_aside"]))
    evaluation.scores.write_parquet(job.out / ("holdout_scores.parquet" if labelled else "eval_scores.parquet"))
    write_json(str(job.out / "metrics.json"), {**evaluation.metrics, "training": trained.rows | trained.metrics})
    if evaluation.ensemble is not None:
        evaluation.ensemble.save(job.out)
    figures = _flat(evaluation.metrics)
    if verdict is not None:
        write_json(str(job.out / "adoption.json"), verdict)
        figures |= {"adopted": verdict["adopted"], "verdict": verdict["verdict"], **_flat(verdict)}
    write_report(job.out / "report.html", evaluation, model.calibration, config)
    return Produced(trained.rows, figures)


def _flat(metrics: dict[str, Any]) -> dict[str, Any]:
    """Plain floats for Dagster's metadata; an interval becomes two."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if name.endswith("_ci"):
            flat |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif isinstance(value, int | float):
            flat[name] = value
    return {name: value for name, value in flat.items() if value is not None}


if __name__ == "__main__":
    main(run, every_rank=True)
