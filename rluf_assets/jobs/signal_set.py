"""Job: the training set of one signal and its natural-rate holdout, from all days of validated replies.

Inputs `validated_replies/<day>` and, once made, `evaluation_prompts` (whose users stay out of training).
Writes `train.parquet`, `holdout.parquet`, `funnel.parquet`, `dropped.parquet`, `set_aside.parquet`, `rates.json`.
Run: `python -m rluf_assets.jobs.signal_set SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs._folders import folders_of, optional_folder
from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, write_json

SIDES = ("positives", "negatives")


def run(job: Job) -> Produced:
    import polars as pl

    from rluf_assets.feedback.config import SignalSetConfig
    from rluf_assets.feedback.signal_set import ROW_GROUP, build_signal_set
    from rluf_assets.feedback.sources import structural_errors
    from rluf_assets.feedback.splits import evaluation_users, log_totals, scan_days, set_aside

    config = SignalSetConfig.model_validate(job.config)
    prompts = optional_folder(job, "evaluation_prompts")
    prompt_users = evaluation_users(pl.read_parquet(prompts / "prompts.parquet")) if prompts else None
    days = list(folders_of(job, "validated_replies").values())
    job.progress(0, 2, f"{len(days)} days of replies")
    with structural_errors(job.spec.name):
        totals, aside = log_totals(days), set_aside(days)
        built = build_signal_set(
            scan_days(days, "replies"), scan_days(days, "messages"), config, seed=job.seed, prompt_users=prompt_users
        )
    rows = {"train": built.train.height, "holdout": built.rates["holdout_rows"]}
    job.progress(1, 2, f"{rows['train']} training rows, {rows['holdout']} in the holdout")
    built.train.write_parquet(job.out / "train.parquet")
    built.holdout.sink_parquet(job.out / "holdout.parquet", maintain_order=True, row_group_size=ROW_GROUP)
    repeats = pl.scan_parquet(job.out / "holdout.parquet").select(pl.col("text_in_train").sum()).collect().item()
    built.rates["holdout_rows_in_train"] = repeats
    built.funnel.write_parquet(job.out / "funnel.parquet")
    built.dropped.sort("message_id").write_parquet(job.out / "dropped.parquet")
    aside.write_parquet(job.out / "set_aside.parquet")
    write_json(str(job.out / "rates.json"), built.rates)
    job.progress(2, 2, f"rows and weights stand for {sum(built.rates[f'eligible_{side}'] for side in SIDES)} replies")
    figures = {name: value for name, value in built.rates.items() if value not in (None, "") and name != "strata"}
    return Produced(rows=rows, metrics={**totals, **figures})


if __name__ == "__main__":
    main(run)
