"""Job: one row per signal: volume, correlation with returning, purity, adversarial share, and a recommendation.

Inputs `validated_replies/<day>`. Writes `audit.parquet`, `by_use_case.parquet`, `by_day.parquet`, `report.html`.
Run: `python -m rluf_assets.jobs.signal_audit SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    from rluf_assets.feedback.audit import audit_signals
    from rluf_assets.feedback.config import SignalAuditConfig
    from rluf_assets.feedback.sources import structural_errors
    from rluf_assets.feedback.splits import scan_days

    config = SignalAuditConfig.model_validate(job.config)
    days = list(folders_of(job, "validated_replies").values())
    with structural_errors(job.spec.name):
        audit = audit_signals(
            scan_days(days, "replies"), scan_days(days, "messages"), config, seed=job.seed,
            quarantine=scan_days(days, "quarantine"),
        )  # fmt: skip
    audit.write(job.out)
    job.progress(1, 1, audit.conclusion)
    figures = {
        f"{row['signal']}_rate": row["rate"] for row in audit.table.iter_rows(named=True) if row["rate"] is not None
    }
    return Produced(rows={"signals": audit.table.height}, metrics={"conclusion": audit.conclusion, **figures})


if __name__ == "__main__":
    main(run)
