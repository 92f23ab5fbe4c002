"""Job: one raw table (messages or reactions) of one day, in canonical columns, as the source gave it.

Rows of users who are to be forgotten (`rluf forget`) are left out.

An input named `source` is the folder that a relative `config.source` lies in. Writes `<table>.parquet`.
Run: `python -m rluf_assets.jobs.ingest SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.feedback.config import IngestConfig
    from rluf_assets.feedback.forgetting import without_forgotten
    from rluf_assets.feedback.ingest import read_table
    from rluf_assets.feedback.sources import structural_errors

    config = IngestConfig.model_validate(job.config)
    if "source" in job.spec.inputs:  # a file named within an input folder: the folder's place is not semantic
        config = config.model_copy(update={"source": str(job.input("source") / config.source)})
    path = job.out / f"{config.table}.parquet"
    with structural_errors(config.source):
        rows_in = without_forgotten(read_table(config), job.spec.output_uri)
        rows_in.sink_parquet(path, maintain_order=True, row_group_size=100_000)
    rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    job.progress(1, 1, f"{rows} {config.table}")
    return Produced(rows={config.table: rows}, metrics={"rows": rows})


if __name__ == "__main__":
    main(run)
