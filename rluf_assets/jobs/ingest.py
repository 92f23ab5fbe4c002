"""Job: one raw table (messages or reactions) of one day, in canonical columns, as the source gave it.

What the files hold beside the day's rows is named and counted: rows of another day, or without a readable time, rows
of users who are to be forgotten (`rluf forget`), records with nothing in them for this table.

An input named `source` is the folder that a relative `config.source` lies in. Writes `<table>.parquet`.
Run: `python -m rluf_assets.jobs.ingest SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    from rluf_assets.feedback.config import IngestConfig
    from rluf_assets.feedback.reading import read_day, told

    config = IngestConfig.model_validate(job.config)
    if "source" in job.spec.inputs:  # a file named within an input folder: the folder's place is not semantic
        config = config.model_copy(update={"source": str(job.input("source") / config.source)})
    found = read_day(config, job.out / f"{config.table}.parquet", job.spec.output_uri)
    metrics = found.metrics()
    for line in [*told(metrics, config.table), *found.unreadable]:
        job.log(f"{job.spec.name}: {line}")
    job.progress(1, 1, f"{found.rows} {config.table} of {found.records} records")
    return Produced(rows={config.table: found.rows}, metrics=metrics)


if __name__ == "__main__":
    main(run)
