"""Job: the fixed prompts, some to optimise on and later users' to evaluate on.

Inputs `validated_replies/<day>`. Writes `prompts.parquet`.
Run: `python -m rluf_assets.jobs.evaluation_prompts SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    from rluf_assets.feedback.config import PromptsConfig
    from rluf_assets.feedback.prompts import build_prompts
    from rluf_assets.feedback.sources import structural_errors
    from rluf_assets.feedback.splits import scan_days

    config = PromptsConfig.model_validate(job.config)
    days = list(folders_of(job, "validated_replies").values())
    with structural_errors(job.spec.name):
        prompts = build_prompts(scan_days(days, "replies"), scan_days(days, "messages"), config, seed=job.seed)
    prompts.write_parquet(job.out / "prompts.parquet")
    rows = dict(sorted(prompts["split"].value_counts().iter_rows()))
    job.progress(1, 1, f"{prompts.height} prompts")
    per_use_case = prompts.group_by("split", "use_case").len().sort("split", "use_case")
    return Produced(rows=rows, metrics={f"{split}_{use_case}": n for split, use_case, n in per_use_case.iter_rows()})


if __name__ == "__main__":
    main(run)
