"""The row contract of one partition: every bad row is named, set aside with its place and content, and counted.

`validate` judges the raw messages and reactions of a day (with the day before and the day after as context), labels
the accepted replies and hands back three tables that add up: per source table rows in = accepted + quarantined,
accepted replies = mature + pending. Personal data is taken out of the texts of all three. Row defects never fail a
partition; only structural ones do (`schemas.conform`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.defects import judge_messages, judge_reactions, mark_bursts
from rluf_assets.feedback.labels import label_replies
from rluf_assets.feedback.redaction import redact_column
from rluf_assets.feedback.schemas import MESSAGES, QUARANTINE, REACTIONS, REPLY_COLUMNS, label_column


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
    judged, redacted = redact_column(
        _cut(judge_messages(messages, config, previous_messages), config), "content", config.redaction
    )
    accepted = judged.filter(pl.col("defect").is_null())
    reactions = mark_bursts(reactions, config)
    next_reactions = None if next_reactions is None else mark_bursts(next_reactions, config)
    events = [reactions] if next_reactions is None else [reactions, next_reactions]
    known = _targets(judged, previous_messages, pl.concat([one.select("message_id") for one in events]))
    marked = judge_reactions(reactions, known.lazy(), config).collect(engine="streaming")
    labelling = [marked.lazy()]
    if next_reactions is not None:
        later = config.model_copy(update={"day": None})
        mine = next_reactions.join(accepted.lazy().select("message_id"), on="message_id", how="semi")
        labelling.append(judge_reactions(mine, known.lazy(), later))
    events_seen = pl.concat(labelling)
    replies = label_replies(
        accepted.lazy().filter(pl.col("role") == "assistant"), events_seen, config
    ).collect(engine="streaming")  # fmt: skip
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


def _targets(judged: pl.DataFrame, previous: pl.LazyFrame | None, wanted: pl.LazyFrame) -> pl.DataFrame:
    """What the reactions in `wanted` can be about: one row per message id, the accepted one where there are several."""
    sources = [judged.lazy()]
    if previous is not None:
        sources.append(previous.with_columns(defect=pl.lit(None, pl.String)))
    columns = {
        "target_role": "role", "target_created_at": "created_at", "target_shown": "reactions_shown",
        "target_defect": "defect", "target_user_id": "user_id",
    }  # fmt: skip
    found = pl.concat([
        source.select("message_id", **columns).join(wanted, on="message_id", how="semi") for source in sources
    ]).collect(engine="streaming")  # fmt: skip
    return found.sort(pl.col("target_defect").is_not_null(), maintain_order=True).unique(
        "message_id", keep="first", maintain_order=True
    )


def _cut(judged: pl.DataFrame, config: ContractConfig) -> pl.DataFrame:
    """Overlong text goes to the quarantine cut to the length that was allowed, with how long it was."""
    long = pl.col("defect") == "overlong_text"
    head = pl.format(
        "{} [{} characters]", pl.col("content").str.head(config.max_chars), pl.col("content").str.len_chars()
    )
    return judged if judged.filter(long).is_empty() else judged.with_columns(
        content=pl.when(long).then(head).otherwise("content")
    )  # fmt: skip


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
        replies=messages.filter(pl.col("defect").is_null(), pl.col("role") == "assistant").height,
        mature=replies.filter(pl.col("status") == "mature").height,
        pending=replies.filter(pl.col("status") == "pending").height,
    )
