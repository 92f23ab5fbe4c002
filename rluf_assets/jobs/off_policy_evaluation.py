"""Job: what the logs alone say of every candidate and arm, where they tell with which chance each reply came about.

Inputs `validated_replies/<day>`, `signal_set`, `reward`, `evaluation_prompts`, `offline_evaluation/<candidate>`,
`crraft_policy/<candidate>`. No model is loaded where no log-probability was logged, or none that can be used.
Run: python -m rluf_assets.jobs.off_policy_evaluation SPEC.json
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rluf_assets.jobs._folders import folders_of
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json

if TYPE_CHECKING:
    import polars as pl

    from rluf_assets.evaluation.off_policy import Array
    from rluf_assets.evaluation.off_policy_rows import OffPolicyConfig


def run(job: Job) -> Produced:
    """Write `off_policy.parquet` (one row per candidate and per arm) and `summary.json`."""
    from rluf_assets.evaluation import off_policy_rows as rows
    from rluf_assets.feedback.sources import structural_errors

    config = rows.OffPolicyConfig.model_validate(job.config)
    with structural_errors(job.spec.name):
        replies = rows.replies_of(list(folders_of(job, "validated_replies").values()))
        logged = replies.select("assignment_probability", "reply_logprob").count().collect(engine="streaming").row(0)
        names = folders_of(job, "offline_evaluation")
        found: list[dict[str, Any]] = []
        if logged[1]:
            found += _candidates(job, replies, config)
        else:
            found += rows.not_measured(names, rows.SILENT if not logged[0] else rows.NO_LOGPROBS, config.baseline)
        if logged[0]:
            found += rows.arms_table(replies, _scored(job), config)
    table = rows.table_of(found)
    table.write_parquet(job.out / "off_policy.parquet")
    told = rows.sentence(table)
    write_json(
        str(job.out / "summary.json"),
        {"sentence": told, "logged": dict(zip(("assignments", "logprobs"), logged, strict=True))},
    )
    job.progress(1, 1, told)
    return Produced(
        rows={"off_policy": table.height},
        metrics={"sentence": told, **{f"{r['kind']} {r['name']}": r["result"] for r in table.iter_rows(named=True)}},
    )


def _candidates(job: Job, replies: pl.LazyFrame, config: OffPolicyConfig) -> list[dict[str, Any]]:
    import polars as pl

    from rluf_assets.evaluation import off_policy_rows as rows

    held = rows.logged_rows(
        replies, _scored(job), pl.scan_parquet(job.input("signal_set") / "holdout.parquet"), config, job.seed
    )
    prompts = pl.read_parquet(job.input("evaluation_prompts") / "prompts.parquet")
    policies = folders_of(job, "crraft_policy")
    candidates = {
        name: rows.Candidate(
            rows.own_replies(pl.read_parquet(folder / "scores.parquet"), prompts, config.love_objective),
            _logprob(job, name, policies[name], config),
        )
        for name, folder in folders_of(job, "offline_evaluation").items()
    }
    return rows.candidates_table(held, candidates, config)


def _logprob(job: Job, name: str, policy: Path, config: OffPolicyConfig) -> Any:
    def asked(rows: pl.DataFrame) -> Array:
        from rluf_assets.policy.reply_logprobs import reply_logprobs

        job.progress(0, 1, f"{name}: log-probabilities of {rows.height} logged replies")
        return reply_logprobs(
            policy, rows["prompt"].to_list(), rows["completion"].to_list(), max_new_tokens=config.max_new_tokens,
            temperature=config.temperature, batch_tokens=config.batch_tokens,
        )  # fmt: skip

    return asked


def _scored(job: Job) -> pl.DataFrame:
    """P[signal] on its holdout: replies that it has not seen, of users that it has not seen."""
    import polars as pl

    from rluf_assets.feedback.schemas import MESSAGE_KEY

    return pl.read_parquet(job.input("reward") / "holdout_scores.parquet").select(
        *MESSAGE_KEY, "user_id", "live_probability", "label", pl.col("weight").cast(pl.Float64)
    )


if __name__ == "__main__":
    main(run)
