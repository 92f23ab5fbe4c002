"""Job: read the A/B tests of all candidates against the baseline's arm.

Inputs: `ab_exposures/<candidate>`, or `logged_arms`: the logs' own arms, where no candidate was live.
Run: python -m rluf_assets.jobs.ab_test_readout SPEC.json
"""

from __future__ import annotations

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    """Write `readout.parquet` (one row per candidate x metric x segment), `checks.parquet` (of the test itself),
    `by_day.parquet` (goal metrics by day since first exposure) and `plan.json` (the plan it was read under)."""
    import polars as pl

    from rluf_assets.evaluation.config import ReadoutConfig
    from rluf_assets.evaluation.frames import read_parquet
    from rluf_assets.evaluation.readout import no_readout, read_out, write_readout

    config = ReadoutConfig.model_validate(job.config)
    folders = folders_of(job, "ab_exposures", required=False)
    exposures = {name: read_parquet(folder / "exposures.parquet") for name, folder in folders.items()}
    if "logged_arms" in job.spec.inputs:
        table = read_parquet(job.input("logged_arms") / "exposures.parquet")
        exposures = {str(part["arm"][0]): part for part in table.partition_by("arm", maintain_order=True)}
    logs = {name: folder / "exposed_replies.parquet" for name, folder in folders.items()}
    replies = {name: read_parquet(path) for name, path in logs.items() if path.exists()}
    job.progress(0, len(exposures), "reading exposures")
    readout = read_out(exposures, config, replies=replies) if exposures else no_readout()
    write_readout(readout, config, job.out)
    goals = readout.metrics.filter((pl.col("role") == "goal") & (pl.col("segment") == "all"))
    metrics = {f"{r['metric']} lift: {r['candidate']}": r["lift"] for r in goals.iter_rows(named=True)}
    job.progress(len(exposures), len(exposures), "read out")
    return Produced(
        rows={"readout": len(readout.metrics), "checks": len(readout.checks)},
        metrics={k: v for k, v in metrics.items() if v is not None},
    )


if __name__ == "__main__":
    main(run)
