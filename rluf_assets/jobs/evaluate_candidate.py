"""Job: a candidate's replies to the evaluation prompts, judged and scored, on all ranks; some spoilt, as a control.

Inputs `policy`, `evaluation_prompts`, `rewards/<objective>`.
"""

from __future__ import annotations

from rluf_assets.errors import ArtifactMissing
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced
from rluf_assets.policy.config import EvaluationConfig


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.distributed import Zero, join
    from rluf_assets.evaluation.degenerate import spoilt_sample
    from rluf_assets.policy.candidate import evaluate_candidate
    from rluf_assets.rewards.calibration import strata_of
    from rluf_assets.rewards.scoring import load_scorer

    config = EvaluationConfig.model_validate(job.config)
    inputs = [name for name in job.spec.inputs if name.startswith("rewards/")]
    if not inputs:
        raise ArtifactMissing(f"{job.spec.name}: no input rewards/<objective>. Materialise the reward models first.")
    ranks, zero = join(), Zero.of_launch(config.dtype)
    scorers = {name.removeprefix("rewards/"): load_scorer(job.input(name), config.dtype, zero) for name in inputs}
    completions, scores = evaluate_candidate(
        job.input("policy"),
        job.input("evaluation_prompts") / "prompts.parquet",
        scorers,
        config,
        seed=job.seed,
        report=job.progress,
        ranks=ranks,
    )
    written = {"completions": completions, "scores": scores}
    if config.love_objective in scorers and config.spoilt_replies:
        spoilt = spoilt_sample(completions, config.spoilt_replies, seed=job.seed)
        found = scorers[config.love_objective].score(
            spoilt["prompt"].to_list(), spoilt["completion"].to_list(), strata=strata_of(spoilt)
        )
        written["spoilt"] = spoilt.drop("prompt").hstack(found)
    if job.first_rank:
        for name, frame in written.items():
            frame.write_parquet(job.out / f"{name}.parquet")
    weighted = pl.col("logit").dot("weight") / pl.col("weight").sum()
    means = scores.group_by("objective").agg(weighted).sort("objective")
    metrics = {f"mean_logit_{row['objective']}": row["logit"] for row in means.iter_rows(named=True)}
    metrics |= {
        f"failed_{name.removeprefix('judge_')}": 1 - float(completions[name].mean())  # type: ignore[arg-type]
        for name in completions.columns
        if name.startswith("judge_")
    }
    metrics["finished_share"] = float(completions["finished"].mean())  # type: ignore[arg-type]
    return Produced(rows={"completions": completions.height, "scores": scores.height}, metrics=metrics)


if __name__ == "__main__":
    main(run, every_rank=True)
