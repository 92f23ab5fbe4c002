"""Play past launches: ten past policies' texts for the evaluation prompts, and their A/B counts.

python -m rluf_assets.jobs.play_past_launches SPEC.json     (input: evaluation_prompts)
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.simulation.config import LaunchesConfig
    from rluf_assets.simulation.launches import play_launches, write_texts
    from rluf_assets.simulation.production import LAUNCH_STREAM

    config = LaunchesConfig.model_validate(job.config)
    prompts = pl.read_parquet(job.input("evaluation_prompts") / "prompts.parquet").filter(
        pl.col("split") == "evaluation"
    )
    texts = write_texts(prompts, job.seed, LAUNCH_STREAM)
    texts.write_parquet(job.out / "texts.parquet", compression="zstd")
    launches = play_launches(config, job.seed, LAUNCH_STREAM, job.progress)
    launches.write_parquet(job.out / "launches.parquet", compression="zstd")
    observed = launches["observed_change"].drop_nulls().to_list()
    return Produced(
        rows={"launches": len(launches), "texts": len(texts)},
        metrics={"smallest_change": min(observed, default=0.0), "largest_change": max(observed, default=0.0)},
    )


if __name__ == "__main__":
    main(run)
