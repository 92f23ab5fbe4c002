"""Job: audit every candidate for reward hacking, against the baseline and the logged replies.

Inputs: `offline_evaluation/<candidate>`, `signal_set`. Run: python -m rluf_assets.jobs.reward_hacking_audit SPEC.json
"""

from __future__ import annotations

from pathlib import Path

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    """Write `tripwires.parquet` and `phrases.parquet`."""
    from rluf_assets.evaluation.config import HackingAuditConfig
    from rluf_assets.evaluation.frames import read_evaluation
    from rluf_assets.evaluation.hacking import LoggedReplies, audit_reward_hacking, logged_sample

    config = HackingAuditConfig.model_validate(job.config)
    folders = folders_of(job, "offline_evaluation")
    evaluations = {name: read_evaluation(name, folder) for name, folder in folders.items()}
    job.progress(0, len(evaluations), "reading logged replies")
    signal_set: Path = job.input("signal_set")
    logged = LoggedReplies(
        reference=logged_sample(signal_set / "train.parquet", config, seed=job.seed),
        recent=logged_sample(signal_set / "holdout.parquet", config, seed=job.seed),
    )
    audit = audit_reward_hacking(evaluations, logged, config, seed=job.seed)
    audit.write(job.out)
    fired = audit.tripwires.filter(audit.tripwires["verdict"] != "ok")
    metrics = {f"fired: {name}": fired.filter(fired["candidate"] == name).height for name in evaluations}
    metrics.pop(f"fired: {config.baseline}")
    job.progress(len(evaluations), len(evaluations), "audited")
    return Produced(rows={"tripwires": len(audit.tripwires), "phrases": len(audit.phrases)}, metrics=metrics)


if __name__ == "__main__":
    main(run)
