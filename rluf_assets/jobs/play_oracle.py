"""The oracle: how well the simulation's truth itself tells love from text on the holdout, the ceiling for P[signal].

python -m rluf_assets.jobs.play_oracle SPEC.json     (input: signal_set)
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.simulation.config import OracleConfig
    from rluf_assets.simulation.oracle import oracle_auroc
    from rluf_assets.simulation.production import ORACLE_STREAM

    config = OracleConfig.model_validate(job.config)
    columns = ["prompt", "completion", "label", "turn_index", "inclusion_probability"]
    holdout = pl.read_parquet(job.input("signal_set") / "holdout.parquet", columns=columns)
    found = oracle_auroc(holdout, config, job.seed, ORACLE_STREAM)
    write_json(str(job.out / "oracle.json"), found)
    low, high = found["auroc_ci"]
    metrics = {"auroc": found["auroc"], "auroc_ci_low": low, "auroc_ci_high": high, "positives": found["positives"]}
    return Produced(rows={"rows": found["rows"]}, metrics=metrics)


if __name__ == "__main__":
    main(run)
