"""The row contract of one partition: every bad row is named, set aside with its place and content, and counted.

`validate` judges the raw messages and reactions of a day (with the day before and the day after as context), labels
the accepted replies and hands back three tables that add up: per source table rows in = accepted + quarantined,
accepted replies = mature + pending. Personal data is taken out of the texts of all three. Row defects never fail a
partition; only structural ones do (`schemas.conform`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.aliases import by_own_id
from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.defects import judge_messages, judge_reactions, mark_bursts
from rluf_assets.feedback.labels import label_replies
from rluf_assets.feedback.redaction import redact_column
from rluf_assets.feedback.schemas import MESSAGES, QUARANTINE, REACTIONS, REPLY_COLUMNS, label_column

_ROW_GROUP = 250_000
# Enough to judge today's rows by, and the reactions to yesterday's.
_OF_THE_DAY_BEFORE = [
    "conversation_id", "message_id", "turn_index", "role", "content", "user_id", "created_at", "reactions_shown",
    "aliases",
]  # fmt: skip


@dataclass(frozen=True)
class Accounting:
    """Rows of the partition: what came in, what was accepted, what was set aside."""

    messages_in: int
    messages_accepted: int
    messages_quarantined: int
    reactions_in: int
    reactions_accepted: int
    reactions_quarantined: int
    replies: int
    mature: int
    pending: int

    def check(self, where: str) -> None:
        """Raise DataError unless every table adds up."""
        sums = {
            "messages": (self.messages_in, self.messages_accepted + self.messages_quarantined),
            "reactions": (self.reactions_in, self.reactions_accepted + self.reactions_quarantined),
            "replies": (self.replies, self.mature + self.pending),
        }
        for table, (found, expected) in sums.items():
            if found != expected:
                raise DataError(f"{where}: {table} do not add up: {found} in, {expected} accounted for ({self}).")


@dataclass(frozen=True)
class Validated:
    """The tables of one partition of `validated_replies`."""

    replies: pl.DataFrame
    messages: pl.DataFrame
    reactions: pl.DataFrame
    quarantine: pl.DataFrame
    accounting: Accounting
    redacted: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """`replies.parquet`, `messages.parquet` and `quarantine.parquet` in `folder`, all three at once.

        Statistics of columns would cost a fifth of the time: a day is one row group or few, and no reader skips them.
        """
        sinks = [
            getattr(self, name).lazy().sink_parquet(
                folder / f"{name}.parquet", compression="zstd", compression_level=1, statistics=False,
                row_group_size=_ROW_GROUP, maintain_order=True, lazy=True,
            )
            for name in ("replies", "messages", "quarantine")
        ]  # fmt: skip
        pl.collect_all(sinks, engine="streaming")


def validate(
    messages: pl.LazyFrame,
    reactions: pl.LazyFrame,
    config: ContractConfig,
    *,
    previous_messages: pl.LazyFrame | None = None,
    next_reactions: pl.LazyFrame | None = None,
    where: str = "partition",
) -> Validated:
    """Judge, label and account for one partition of canonical `messages` and `reactions`.

    `previous_messages` (the day before) lets conversations and reactions cross midnight; `next_reactions` (the day
    after) labels late replies. Rows of either are judged in their own partition, not here. Raises DataError if the
    result does not add up.
    """
    today = messages.collect(engine="streaming")
    before = None if previous_messages is None else previous_messages.select(_OF_THE_DAY_BEFORE).collect()
    judged, redacted = redact_column(_cut(judge_messages(today, config, before), config), "content", config.redaction)
    accepted = judged.filter(pl.col("defect").is_null())
    # From here on all is small or in memory already.
    near = [judged] if before is None else [judged, before]
    given = [by_own_id(one.collect(), near).lazy() for one in (reactions, next_reactions) if one is not None]
    events = [mark_bursts(one, config).collect() for one in given]
    known = _targets(judged, before, pl.concat([one["message_id"] for one in events])).lazy()
    marked = judge_reactions(events[0].lazy(), known, config).collect()
    labelling = [marked]
    for one in events[1:]:
        later = config.model_copy(update={"day": None})
        mine = one.lazy().join(accepted.lazy().select("message_id"), on="message_id", how="semi", maintain_order="left")
        labelling.append(judge_reactions(mine, known, later).collect())
    answers = accepted.filter(pl.col("role") == "assistant")
    replies = label_replies(answers, pl.concat(labelling), config)
    quarantine = pl.concat(
        [_quarantine(judged, "messages", list(MESSAGES)), _quarantine(marked, "reactions", list(REACTIONS))]
    )
    accounting = _account(judged, marked, replies, quarantine)
    accounting.check(where)
    return Validated(
        replies.select(*REPLY_COLUMNS, *map(label_column, config.signals)),
        accepted.select(list(MESSAGES)),
        marked.filter(pl.col("defect").is_null()).select(list(REACTIONS)),
        quarantine,
        accounting,
        redacted,
    )


def _targets(judged: pl.DataFrame, before: pl.DataFrame | None, wanted: pl.Series) -> pl.DataFrame:
    """What the reactions in `wanted` can be about: one row per message id, the accepted one where there are several."""
    sources = [judged] if before is None else [judged, before.with_columns(defect=pl.lit(None, pl.String))]
    columns = {
        "target_role": "role", "target_created_at": "created_at", "target_shown": "reactions_shown",
        "target_defect": "defect", "target_user_id": "user_id",
    }  # fmt: skip
    ids = wanted.hash().unique()
    near = [one.select("message_id", **columns).filter(pl.col("message_id").hash().is_in(ids.implode()))
            for one in sources]  # fmt: skip
    return (
        pl.concat(near)
        .sort(pl.col("target_defect").is_not_null(), maintain_order=True)
        .unique("message_id", keep="first", maintain_order=True)
    )


def _cut(judged: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
    """Overlong text goes to the quarantine cut to the length that was allowed, with how long it was."""
    if not (judged["defect"] == "overlong_text").any():
        return judged
    long = pl.col("defect") == "overlong_text"
    head = pl.format(
        "{} [{} characters]", pl.col("content").str.head(config.max_chars), pl.col("content").str.len_chars()
    )
    return judged.with_columns(content=pl.when(long).then(head).otherwise("content"))


def _quarantine(rows: pl.DataFrame, table: str, columns: list[str]) -> pl.DataFrame:
    bad = rows.filter(pl.col("defect").is_not_null())
    return bad.select(
        pl.lit(table).alias("table"), "defect", pl.col("source_row").cast(pl.Int64),
        pl.struct(columns).struct.json_encode().alias("row"),
    ).cast(QUARANTINE)  # type: ignore[arg-type]  # fmt: skip


def _account(
    messages: pl.DataFrame, reactions: pl.DataFrame, replies: pl.DataFrame, quarantine: pl.DataFrame
) -> Accounting:
    aside = dict(quarantine.group_by("table").len().iter_rows())
    return Accounting(
        messages_in=messages.height,
        messages_accepted=int(messages["defect"].null_count()),
        messages_quarantined=aside.get("messages", 0),
        reactions_in=reactions.height,
        reactions_accepted=int(reactions["defect"].null_count()),
        reactions_quarantined=aside.get("reactions", 0),
        replies=int((messages["defect"].is_null() & (messages["role"] == "assistant")).sum()),
        mature=int((replies["status"] == "mature").sum()),
        pending=int((replies["status"] == "pending").sum()),
    )
