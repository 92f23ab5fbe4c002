"""Job: expert preference pairs of one objective, judged and split by conversation.

An input named `source` is the folder that a relative `config.source` lies in. Writes `train.parquet`, `eval.parquet`,
`quarantine.parquet`. Run: `python -m rluf_assets.jobs.preference_pairs SPEC.json`.
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    from rluf_assets.feedback.config import PairsConfig
    from rluf_assets.feedback.pairs import build_pairs
    from rluf_assets.feedback.sources import structural_errors

    config = PairsConfig.model_validate(job.config)
    if "source" in job.spec.inputs:
        config = config.model_copy(update={"source": str(job.input("source") / config.source)})
    with structural_errors(config.source):
        pairs = build_pairs(config, seed=job.seed)
    rows = {name: getattr(pairs, name).height for name in ("train", "eval", "quarantine")}
    for name in rows:
        getattr(pairs, name).write_parquet(job.out / f"{name}.parquet")
    job.progress(1, 1, f"{pairs.rows_in} pairs, {rows['quarantine']} set aside")
    defects = {f"defect_{name}": n for name, n in sorted(pairs.quarantine["defect"].value_counts().iter_rows())}
    redacted = {f"redacted_{kind}": n for kind, n in pairs.redacted.items() if n}
    return Produced(rows=rows, metrics={"rows_in": pairs.rows_in, **defects, **redacted})


if __name__ == "__main__":
    main(run)
