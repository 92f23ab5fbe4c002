"""Job: one day of validated replies with labels, the accepted messages, and the quarantine beside them.

Inputs `messages` and `reactions` (the day); optional, as far as the attribution window reaches, `previous_messages/<day>`,
`next_messages/<day>`, `next_reactions/<day>`; and `undated_reactions`, where those without a time are. Writes
`replies.parquet`, `messages.parquet`, `quarantine.parquet` with `quarantine.html`, `metrics.parquet`.
Run: `python -m rluf_assets.jobs.validate_replies SPEC.json`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced

if TYPE_CHECKING:
    import polars as pl


def run(job: Job) -> Produced:
    from data_checks.metrics import partition_metrics
    from rluf_assets.feedback.config import ContractConfig
    from rluf_assets.feedback.contract import validate
    from rluf_assets.feedback.quarantine_page import quarantine_page
    from rluf_assets.feedback.sources import structural_errors

    config = ContractConfig.model_validate(job.config)
    messages, reactions = _table(job, "messages", "messages"), _table(job, "reactions", "reactions")
    if messages is None or reactions is None:
        raise ValueError(f"{job.spec.name}: inputs {sorted(job.spec.inputs)}, expected `messages` and `reactions`")
    where = f"{job.spec.name} {config.day or ''}".strip()
    with structural_errors(where):
        validated = validate(
            messages, reactions, config, where=where,
            previous_messages=_tables(job, "previous_messages", "messages"),
            next_messages=_tables(job, "next_messages", "messages"),
            next_reactions=_later_reactions(job),
        )  # fmt: skip
    _hold_against_source(
        job, {"messages": validated.accounting.messages_in, "reactions": validated.accounting.reactions_in}
    )
    metrics = partition_metrics(validated, config.signals, config.day)
    validated.write(job.out)
    metrics.write_parquet(job.out / "metrics.parquet")
    page = quarantine_page(validated.quarantine, validated.accounting, config.day)
    (job.out / "quarantine.html").write_text(page, encoding="utf-8")
    counts = asdict(validated.accounting)
    undated = validated.quarantine.filter(defect="missing_time", table="reactions").height
    if undated:
        job.log(f"{where}: {undated} of {counts['reactions_in']} reactions have no time: their replies' labels are unknown "
                f"(validated_replies.undated_reactions: at_message counts them at their message's time)")  # fmt: skip
    for reason, values in validated.unusable.items():
        job.log(f"{where}: {values} of {counts['replies']} replies count as without it: {reason.replace('_', ' ')}")
    job.progress(1, 1, f"{counts['replies']} replies, {validated.quarantine.height} rows set aside")
    rates = {
        name: value
        for name, value in metrics.row(0, named=True).items()
        if name.startswith("rate_") and value is not None
    }
    redacted = {f"redacted_{kind}": n for kind, n in validated.redacted.items() if n}
    return Produced(
        rows={"replies": counts["replies"], "quarantine": validated.quarantine.height},
        metrics={**counts, **rates, **redacted, **validated.unusable},
    )


def _table(job: Job, name: str, table: str) -> pl.LazyFrame | None:
    from rluf_assets.feedback.schemas import conform
    from rluf_assets.feedback.sources import scan, structural_errors

    if name not in job.spec.inputs:
        return None
    path = str(job.input(name) / f"{table}.parquet")
    with structural_errors(path):
        return conform(scan(path), table, path)


def _tables(job: Job, name: str, table: str) -> pl.LazyFrame | None:
    """The table of several days, whose inputs are `<name>/<day>`; None where there is none."""
    import polars as pl

    days = [_table(job, one, table) for one in sorted(job.spec.inputs) if one.split("/")[0] == name]
    there = [one for one in days if one is not None]
    return pl.concat(there) if there else None


def _later_reactions(job: Job) -> pl.LazyFrame | None:
    """Reactions of the days after, and those of the whole log that have no day."""
    import polars as pl

    undated = _table(job, "undated_reactions", "reactions")
    parts = [_tables(job, "next_reactions", "reactions"),
             None if undated is None else undated.filter(pl.col("reacted_at").is_null())]  # fmt: skip
    there = [one for one in parts if one is not None]
    return pl.concat(there) if there else None


def _hold_against_source(job: Job, judged: dict[str, int]) -> None:
    """Raise DataError unless as many rows were judged as the ingest of the day counted when it wrote them."""
    from rluf_assets.errors import DataError
    from rluf_assets.lake import read_json

    for table, rows in judged.items():
        manifest = job.input(table) / "manifest.json"
        counted = read_json(str(manifest))["rows"].get(table) if manifest.exists() else rows
        if counted is not None and counted != rows:
            raise DataError(
                f"{job.spec.name}: {rows} {table} were judged, but raw_{table} counted {counted} when it was written. "
                f"Ingest the day again."
            )


if __name__ == "__main__":
    main(run)
