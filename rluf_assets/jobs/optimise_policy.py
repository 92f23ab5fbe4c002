"""Job: one candidate policy. Inputs `base_policy`, `evaluation_prompts` and `rewards/<objective>`."""

from __future__ import annotations

from typing import Any

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced
from rluf_assets.policy.config import OptimisationConfig

SHOWN = ("reward", "kl_mean", "passed_share", "farewell_share")


def run(job: Job) -> Produced:
    from rluf_assets.policy.llm_judge import LlmJudge
    from rluf_assets.policy.loop import Folders, optimise_policy
    from rluf_assets.rewards.scoring import RewardModel

    config = OptimisationConfig.model_validate(job.config)
    inputs = [name for name in job.spec.inputs if name.startswith("rewards/")]
    config.check_names([name.removeprefix("rewards/") for name in inputs])
    needed = [] if config.optimiser == "none" else inputs
    rows = optimise_policy(
        job.input("base_policy"),
        job.input("evaluation_prompts") / "prompts.parquet",
        {name.removeprefix("rewards/"): RewardModel.load(job.input(name)) for name in needed},
        Folders(job.out, job.scratch("phases"), job.scratch("checkpoints"), job.scratch("logs")),
        config,
        seed=job.seed,
        report=lambda done, total, row: job.progress(
            done, total, config.optimiser, **{key: value for key in SHOWN if (value := row[key]) is not None}
        ),
        slow_judge=LlmJudge(config.llm_judge) if config.llm_judge else None,
    )
    last: dict[str, Any] = {k: v for k, v in (rows[-1] if rows else {}).items() if isinstance(v, int | float)}
    return Produced(rows={"iterations": len(rows)}, metrics={f"last_{key}": value for key, value in last.items()})


if __name__ == "__main__":
    main(run)
