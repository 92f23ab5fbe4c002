"""Job `train_reward`: one reward model and its evaluation.

Inputs: `base` (HF folder), `signal_set` (P[signal]) or `preference_pairs` (Bradley-Terry), `previous` (optional: the
model in force, to start from; a P[signal] is compared with it: adoption.json).
Writes the model folder, calibration.json, metrics.json, scores, report.html and, for
P[signal], ensemble.json.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from rluf_assets.errors import ConfigError
from rluf_assets.jobs._folders import optional_folder
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, read_json


def run(job: Job) -> Produced:
    """Train, reload what was saved, and evaluate that on the held-out rows."""
    from rluf_assets.distributed import join
    from rluf_assets.rewards.config import RewardConfig
    from rluf_assets.rewards.stage import train_reward

    config = RewardConfig.model_validate(job.config)
    join()  # a launch that nothing can run under is refused before anything is read
    labelled = config.objective == "bce"
    source, held_name = ("signal_set", "holdout") if labelled else ("preference_pairs", "eval")
    if source not in job.spec.inputs:
        raise ConfigError(
            f"{job.spec.name}: objective {config.objective!r} reads input {source!r}, found {sorted(job.spec.inputs)}."
        )
    made = train_reward(
        job.input("base"),
        pl.read_parquet(job.input(source) / "train.parquet"),
        pl.scan_parquet(job.input(source) / f"{held_name}.parquet"),
        config,
        out=job.out,
        seed=job.seed,
        rates=read_json(str(job.input(source) / "rates.json")) if labelled else None,
        previous=optional_folder(job, "previous"),
        progress=job.progress,
    )
    if not job.first_rank:
        return Produced(made.rows)
    job.log(made.set_aside)
    figures = _flat({name: value for name, value in made.metrics.items() if name != "training"})
    if (verdict := made.adoption) is not None:
        figures |= {"adopted": verdict["adopted"], "verdict": verdict["verdict"], **_flat(verdict)}
    return Produced(made.rows, figures)


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
