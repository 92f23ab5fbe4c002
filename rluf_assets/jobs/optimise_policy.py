"""Job: one candidate policy, on all ranks of a launch. Inputs `base_policy`, `evaluation_prompts`, `rewards/<objective>`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced
from rluf_assets.policy.config import OptimisationConfig

SHOWN = (
    "reward", "learned", "skipped", "passed_share", "kl_mean", "kl_p95", "kl_over_max", "reply_tokens", "entropy",
    "farewell_share", "sampled_tokens_per_s",
)  # fmt: skip


def run(job: Job) -> Produced:
    from rluf_assets.policy.loop import optimise_policy

    config = OptimisationConfig.model_validate(job.config)
    seconds: Counter[str] = Counter()

    def report(done: int, total: int, figures: Mapping[str, Any]) -> None:
        seconds.update({key: value for key, value in figures.items() if key.startswith("seconds")})
        shown = [*SHOWN, *(key for key in figures if key.startswith("value_"))]
        job.progress(done, total, config.optimiser, **{key: v for key in shown if (v := figures[key]) is not None})

    made = optimise_policy(
        job.input("base_policy"),
        job.input("evaluation_prompts") / "prompts.parquet",
        folders_of(job, "rewards", required=False),
        config,
        out=job.out,
        seed=job.seed,
        progress=report,
    )
    if not job.first_rank:
        return Produced()
    rows = made.iterations.to_dicts()
    last: dict[str, Any] = {k: v for k, v in (rows[-1] if rows else {}).items() if isinstance(v, int | float)}
    metrics = {f"last_{key}": value for key, value in last.items()}
    # Of this attempt: what a killed one had spent is in its own lines of logs/metrics.jsonl.
    metrics |= {key: round(value, 3) for key, value in seconds.items()}
    return Produced(rows={"iterations": len(rows)}, metrics=metrics)


if __name__ == "__main__":
    main(run, every_rank=True)
