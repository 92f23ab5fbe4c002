"""Job: the base policy, trained on validated logs (inputs `validated_replies/<day>`, `corpora/<n>`) or a checkpoint."""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json
from rluf_assets.policy.config import BasePolicyConfig


def run(job: Job) -> Produced:
    from rluf_assets.policy.base import train_base_policy

    config = BasePolicyConfig.model_validate(job.config)
    days = sorted(name for name in job.spec.inputs if name.startswith("validated_replies/"))
    metrics = train_base_policy(
        [job.input(day) for day in days],
        job.out,
        config,
        seed=job.seed,
        checkpoints=job.scratch("checkpoints"),
        report=lambda step, steps, loss: job.progress(step, steps, "base policy", loss=loss),
        corpora=[job.spec.inputs[f"corpora/{nth}"].uri for nth in range(len(config.corpora))],
    )
    write_json(str(job.out / "metrics.json"), metrics)
    return Produced(rows={"days": len(days), "parameters": int(metrics["parameters"])}, metrics=metrics)


if __name__ == "__main__":
    main(run)
