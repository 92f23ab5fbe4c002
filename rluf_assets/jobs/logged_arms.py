"""Job: the arms that the logs name, as an A/B test that was run and as past launches to test the evaluator on.

Inputs `validated_replies/<day>`, `signal_set`. Writes `exposures.parquet` (one row per user, arm and use case),
`launches.parquet` and `texts.parquet` as a production's past launches have them: each arm against the baseline's, on the
replies of held-out users, which P[signal] has not seen. Logs with fewer than two arms give empty tables.
Run: `python -m rluf_assets.jobs.logged_arms SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.evaluation.logged_arms import ArmsConfig, exposures_of, launches_of, texts_of
    from rluf_assets.feedback.sources import structural_errors
    from rluf_assets.feedback.splits import scan_days

    config = ArmsConfig.model_validate(job.config)
    with structural_errors(job.spec.name):
        replies = scan_days(list(folders_of(job, "validated_replies").values()), "replies")
        exposures = exposures_of(replies, config)
        held = texts_of(replies, pl.scan_parquet(job.input("signal_set") / "holdout.parquet"), exposures)
        tables = {"exposures": exposures, "launches": launches_of(exposures, held, config), "texts": held}
    for name, table in tables.items():
        table.write_parquet(job.out / f"{name}.parquet")
    arms = exposures["arm"].unique().sort().to_list()
    job.progress(1, 1, f"{len(arms)} arms: {', '.join(arms) or 'none that could be compared'}")
    return Produced(rows={name: table.height for name, table in tables.items()}, metrics={"arms": len(arms)})


if __name__ == "__main__":
    main(run)
