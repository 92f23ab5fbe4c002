"""Job: decide on every candidate against the baseline, and write the page people read.

Inputs: `offline_evaluation/<candidate>` and, where they are: `reward_hacking_audit`, `ab_test_readout`,
`ab_exposures/<candidate>`, `offline_online_backtest`, `off_policy_evaluation`, `rewards/<objective>`, `signal_set`.
Run: python -m rluf_assets.jobs.release_report SPEC.json
"""

from __future__ import annotations

from rluf_assets.jobs._folders import folders_of, optional_folder
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json


def run(job: Job) -> Produced:
    """Write `decisions.parquet`, `summary.json`, `offline.parquet`, `pareto.parquet`, `correlations.parquet`,
    `trust.parquet`, `report.html` and a page `candidate-<name>.html` per candidate."""
    from rluf_assets.evaluation.config import ReleaseConfig
    from rluf_assets.evaluation.pages import write_pages
    from rluf_assets.evaluation.release import decisions_frame
    from rluf_assets.evaluation.release_inputs import ReleaseFolders, make_release

    config = ReleaseConfig.model_validate(job.config)
    folders = ReleaseFolders(
        evaluations=folders_of(job, "offline_evaluation"),
        exposures=folders_of(job, "ab_exposures", required=False),
        rewards=folders_of(job, "rewards", required=False),
        audit=optional_folder(job, "reward_hacking_audit"),
        readout=optional_folder(job, "ab_test_readout"),
        backtest=optional_folder(job, "offline_online_backtest"),
        signal_set=optional_folder(job, "signal_set"),
        off_policy=optional_folder(job, "off_policy_evaluation"),
    )
    job.progress(0, 2, "comparing candidates")
    release = make_release(folders, config, seed=job.seed)
    decisions = decisions_frame(release.decisions)
    decisions.write_parquet(job.out / "decisions.parquet")
    offline = release.data.offline
    offline.objectives.write_parquet(job.out / "offline.parquet")
    offline.pareto.write_parquet(job.out / "pareto.parquet")
    offline.correlations.write_parquet(job.out / "correlations.parquet")
    release.data.trust.write_parquet(job.out / "trust.parquet")
    write_json(str(job.out / "summary.json"), release.summary)
    job.progress(1, 2, "drawing the pages")
    write_pages(release, config, job.out)
    job.progress(2, 2, release.summary["conclusion"])
    verdicts = {f"decision: {d.candidate}": d.decision for d in release.decisions}
    return Produced(
        rows={"decisions": len(decisions)}, metrics={"conclusion": release.summary["conclusion"], **verdicts}
    )


if __name__ == "__main__":
    main(run)
