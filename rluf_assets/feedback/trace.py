"""Which step of the way from log to signal set a message reached, and why it stopped there.

Reads what the stages published: raw tables, the quarantine, labels, and the rows that the signal set dropped. The
conditions before drawing are recomputed for this one row with the config that the signal set was made with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.defects import MESSAGE_DEFECTS, REACTION_DEFECTS
from rluf_assets.feedback.schemas import label_column
from rluf_assets.feedback.signal_set import REASONS
from rluf_assets.feedback.splits import HOLDOUT, TRAIN, evaluation_users, scan_days, split_users
from rluf_assets.lake import Lake


@dataclass(frozen=True)
class Step:
    """One step on the way: what it is, what became of the message there, and why."""

    name: str
    outcome: str
    why: str = ""


def trace(lake: Lake, message_id: str) -> list[Step]:
    """The steps of a message, in order; the last one says where it is now or why it stopped.

    Raises DataError where no raw table has the message.
    """
    steps = _raw(lake, message_id)
    kept, judged = _validated(lake, message_id)
    steps += judged
    if kept is None or "signal_set" not in _assets(lake):
        return steps
    return [*steps, _selected(lake, message_id, kept)]


def _raw(lake: Lake, message_id: str) -> list[Step]:
    days = [
        day for day in lake.partitions("raw_messages") if not _rows(lake, "raw_messages", day, message_id).is_empty()
    ]
    if not days and any(
        not _rows(lake, "validated_replies", day, message_id, "messages").is_empty()
        for day in lake.partitions("validated_replies")
    ):
        return [Step("raw", "no longer kept", "its raw day was removed (retention.raw_days)")]
    if not days:
        span = lake.partitions("raw_messages")
        raise DataError(
            f"message {message_id!r}: not in raw_messages of {span[0] if span else 'any day'} to "
            f"{span[-1] if span else '(none)'}. Check the id, or ingest its day."
        )
    steps = []
    for day in days:
        row = _rows(lake, "raw_messages", day, message_id).row(0, named=True)
        steps.append(Step("raw", f"in raw_messages of {day}", f"{row['role']}, turn {row['turn_index']}"))
    for day in lake.partitions("raw_reactions"):
        for row in _rows(lake, "raw_reactions", day, message_id).iter_rows(named=True):
            what = "set" if row["value"] == 1 else "revoked"
            steps.append(Step("reaction", f"{row['signal']} {what}", f"at {row['reacted_at']}"))
    return steps


def _validated(lake: Lake, message_id: str) -> tuple[pl.DataFrame | None, list[Step]]:
    """The accepted reply, if it is one, and what the row contract made of the message and of reactions to it."""
    steps, kept, quoted = [], None, json.dumps(message_id, ensure_ascii=False)
    for day in lake.partitions("validated_replies"):
        artifact = lake.current("validated_replies", day)
        aside = pl.scan_parquet(artifact.path("quarantine.parquet"))
        aside = aside.filter(pl.col("row").str.contains(quoted, literal=True))
        for row in aside.collect().iter_rows(named=True):
            if json.loads(row["row"]).get("message_id") != message_id:
                continue
            known = MESSAGE_DEFECTS if row["table"] == "messages" else REACTION_DEFECTS
            what = "message" if row["table"] == "messages" else "its reaction"
            steps.append(Step("row contract", f"{what} set aside on {day}: {row['defect']}", known[row["defect"]]))
        found = _rows(lake, "validated_replies", day, message_id, "messages")
        if not found.is_empty():
            steps.append(Step("row contract", f"accepted on {day}"))
        reply = _rows(lake, "validated_replies", day, message_id, "replies")
        if not reply.is_empty():
            kept = reply
            prefix = label_column("")
            labels = {name.removeprefix(prefix): reply[name][0] for name in reply.columns if name.startswith(prefix)}
            shown = ", ".join(f"{signal} {'unknown' if one is None else one}" for signal, one in labels.items())
            steps.append(Step("labels", str(reply["status"][0]), shown))
    if not steps:
        steps.append(Step("row contract", "not validated yet", "materialise validated_replies of its day"))
    elif kept is None and any(step.outcome.startswith("accepted") for step in steps):
        steps.append(Step("labels", "none", "only replies are labelled; this message is context"))
    return kept, steps


def _selected(lake: Lake, message_id: str, reply: pl.DataFrame) -> Step:
    artifact = lake.current("signal_set")
    for split in ("train", "holdout"):
        row = _in(Path(artifact.path(f"{split}.parquet")), message_id)
        if not row.is_empty():
            q = row["inclusion_probability"][0]
            return Step("signal set", f"in {split}", f"label {row['label'][0]}, inclusion probability {q:.4g}")
    dropped = _in(Path(artifact.path("dropped.parquet")), message_id)
    if not dropped.is_empty():
        step = str(dropped["step"][0])
        return Step("signal set", f"stopped at {step}", REASONS[step])
    spec = artifact.manifest["spec"]
    config = SignalSetConfig.model_validate(spec["config"])
    folders = [Path(one["uri"]) for name, one in spec["inputs"].items() if name.startswith("validated_replies/")]
    prompts = spec["inputs"].get("evaluation_prompts")
    asked = evaluation_users(pl.read_parquet(Path(prompts["uri"]) / "prompts.parquet")) if prompts else None
    split_of = split_users(scan_days(folders, "replies"), config, spec["seed"], asked)
    label = pl.col(label_column(config.signal))
    stage = split_of.attach(reply.lazy()).select(split_of.stage(label)).collect().item()
    if stage == HOLDOUT:
        return Step(
            "signal set", "not in it", "it belongs in the holdout, but came after the set was built: build it again"
        )
    stage = "not_drawn" if stage == TRAIN else stage
    return Step("signal set", f"stopped at {stage}", REASONS[stage])


def _assets(lake: Lake) -> set[str]:
    return {"signal_set"} if lake.partitions("signal_set") else set()


def _rows(lake: Lake, asset: str, day: str, message_id: str, table: str | None = None) -> pl.DataFrame:
    name = table or asset.removeprefix("raw_")
    return _in(Path(lake.current(asset, day).path(f"{name}.parquet")), message_id)


def _in(path: Path, message_id: str) -> pl.DataFrame:
    return pl.scan_parquet(path).filter(pl.col("message_id") == message_id).collect()
