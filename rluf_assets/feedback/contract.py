"""The row contract of one partition: every bad row is named, set aside with its place and content, and counted.

`validate` judges the raw messages and reactions of a day (with the days before and after it as context), labels the
accepted replies and hands back three tables that add up: per source table rows in = accepted + quarantined, accepted
messages of the assistant = mature + pending + greetings. Personal data is taken out of the texts of all three. Row defects
never fail a partition; only structural ones do (`schemas.conform`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.aliases import by_own_id
from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.conversations import in_order
from rluf_assets.feedback.defects import FAULTLESS, judge_messages
from rluf_assets.feedback.labels import label_replies
from rluf_assets.feedback.propensities import usable_propensities
from rluf_assets.feedback.reactions import doubts, judge_reactions
from rluf_assets.feedback.redaction import redact_column
from rluf_assets.feedback.schemas import MESSAGES, QUARANTINE, REACTIONS, REPLY_COLUMNS, label_column

_ROW_GROUP = 250_000
# Enough to judge today's rows by, and the reactions to those of the days before.
_OF_DAYS_BEFORE = [
    "conversation_id", "message_id", "parent_id", "turn_index", "role", "content", "user_id", "created_at",
    "reactions_shown", "aliases", "trace_id",
]  # fmt: skip


@dataclass(frozen=True)
class Accounting:
    """Rows of the partition: what came in (counted before anything is judged), what was accepted, what was set aside.

    `..._faultless`: how many of the quarantined have no fault of their own: messages of tools, states that changed later.
    """

    messages_in: int
    messages_accepted: int
    messages_quarantined: int
    messages_faultless: int
    reactions_in: int
    reactions_accepted: int
    reactions_quarantined: int
    reactions_faultless: int
    replies: int
    greetings: int
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
    unusable: dict[str, int] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        count = self.accounting
        aside = self.quarantine.group_by("table", "defect").len("rows").sort("rows", descending=True)
        return (
            f"<p>{count.messages_in:,} messages and {count.reactions_in:,} reactions came in; {count.messages_quarantined:,} "
            f"and {count.reactions_quarantined:,} were set aside. "
            f"{count.replies:,} replies, {count.pending:,} of them pending.</p>"
            f"{aside._repr_html_()}"
        )

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
    next_messages: pl.LazyFrame | None = None,
    next_reactions: pl.LazyFrame | None = None,
    where: str = "partition",
) -> Validated:
    """Judge, label and account for one partition of canonical `messages` and `reactions`.

    The days before and after, as far as the attribution window reaches: `previous_messages` lets conversations and
    reactions cross midnight; `next_reactions` labels late replies; `next_messages` tell whether an id stands in several
    conversations, or a reply has a further part. Their rows are judged in their own partition, not here. Raises
    DataError if the result does not add up.
    """
    today = messages.collect(engine="streaming")
    events = [reactions.with_columns(of_day=True)]
    if next_reactions is not None:
        events.append(next_reactions.with_columns(of_day=False))
    given = pl.concat(events).collect(engine="streaming")
    came_in = (today.height, int(given["of_day"].sum()))
    before = None if previous_messages is None else previous_messages.select(_OF_DAYS_BEFORE).collect()
    written = _cut(judge_messages(today, config, before), config)
    judged, redacted = redact_column(written, "content", config.redaction)
    if judged["reply_logprob"].count():
        judged = judged.with_columns(rewritten=judged["content"].ne_missing(written["content"]))
    accepted = judged.filter(pl.col("defect").is_null())
    given = by_own_id(given, [judged] if before is None else [judged, before])
    targets = _targets(judged, before, next_messages, given)
    heard = judge_reactions(given, targets, config)
    marked = heard.filter("of_day").drop("of_day").with_row_index("source_row")
    answers = accepted.filter(pl.col("role") == "assistant", ~pl.col("greeting"))
    if next_messages is not None:
        answers = _with_later_parts(answers, accepted, next_messages)
    answers, unusable = usable_propensities(answers, answers["rewritten"] if "rewritten" in answers.columns else None)
    said = _replies(heard, [accepted] if before is None else [accepted, before])
    later = _later(next_messages, heard, targets)
    replies = label_replies(answers, heard, doubts(heard, targets, said, later, config), config)
    quarantine = pl.concat(
        [_quarantine(judged, "messages", list(MESSAGES)), _quarantine(marked, "reactions", list(REACTIONS))]
    )
    accepted_reactions = marked.filter(pl.col("defect").is_null()).select(list(REACTIONS))
    accounting = _account(came_in, accepted, accepted_reactions, replies, quarantine)
    accounting.check(where)
    return Validated(
        replies.select(*REPLY_COLUMNS, *map(label_column, config.signals)),
        accepted.select(list(MESSAGES)),
        accepted_reactions,
        quarantine,
        accounting,
        redacted,
        unusable,
    )


def _targets(
    judged: pl.DataFrame, before: pl.DataFrame | None, after: pl.LazyFrame | None, reactions: pl.DataFrame
) -> pl.DataFrame:
    """What the reactions can be about: one row per conversation and message id, the accepted one where there are several."""
    columns = {
        "target_role": "role", "target_created_at": "created_at", "target_shown": "reactions_shown",
        "target_defect": "defect", "target_user_id": "user_id", "target_greeting": "greeting", "target_turn": "turn_index",
    }  # fmt: skip
    wanted = pl.col("message_id").hash().is_in(reactions["message_id"].hash().unique().implode())
    keys = [pl.col("conversation_id").fill_null(""), pl.col("message_id")]
    sources = [judged.filter(wanted).select(*keys, **columns)]
    if before is not None:
        sound = before.filter(wanted).with_columns(defect=pl.lit(None, pl.String), greeting=pl.lit(False))
        sources.append(sound.select(*keys, **columns))
    unnamed = reactions.filter(pl.col("conversation_id").is_null())
    if after is not None and not unnamed.is_empty():
        ids = unnamed["message_id"].hash().unique().implode()
        later = after.select("conversation_id", "message_id").filter(pl.col("message_id").hash().is_in(ids))
        sources.append(later.select(*keys, target_defect=pl.lit("other_day")).collect())
    return (
        pl.concat(sources, how="diagonal")
        .sort(pl.col("target_defect").is_not_null(), maintain_order=True)
        .unique(["conversation_id", "message_id"], keep="first", maintain_order=True)
    )


def _with_later_parts(answers: pl.DataFrame, accepted: pl.DataFrame, after: pl.LazyFrame) -> pl.DataFrame:
    """`answers` with those `continued` that a further part follows on a later day: silence about them says nothing."""
    columns = ["conversation_id", "message_id", "parent_id", "turn_index", "created_at", "role"]
    shared = pl.col("conversation_id").hash().is_in(accepted["conversation_id"].hash().unique().implode())
    later = after.select(columns).filter(shared).collect()
    if later.is_empty():
        return answers
    today = accepted.filter(pl.col("conversation_id").is_in(later["conversation_id"].unique().implode()))
    started = later.filter(pl.col("parent_id").is_null()).sort(*in_order("conversation_id"))
    first = started.unique("conversation_id", keep="first", maintain_order=True)
    last = today.sort(*in_order("conversation_id")).unique("conversation_id", keep="last", maintain_order=True)
    in_turns = last.join(first.filter(pl.col("role") != "user"), on="conversation_id", suffix="_later").filter(
        pl.col("turn_index_later") - pl.col("turn_index") <= 1
    )
    by_parent = later.filter(pl.col("role") != "user", pl.col("parent_id").is_not_null())
    named = pl.concat([in_turns.select("conversation_id", "message_id"),
                       by_parent.select("conversation_id", message_id="parent_id")]).unique()  # fmt: skip
    found = answers.join(
        named.with_columns(more=True), on=["conversation_id", "message_id"], how="left", maintain_order="left"
    )
    return found.with_columns(continued=pl.col("continued") | pl.col("more").fill_null(False)).drop("more")


def _replies(heard: pl.DataFrame, messages: list[pl.DataFrame]) -> pl.DataFrame:
    """What the reactions that have lost their message may be about: replies of the traces and conversations they name."""
    columns = ["conversation_id", "message_id", "trace_id", "turn_index", "created_at"]
    lost = heard.filter(pl.col("reply_conversation").is_null() | (pl.col("defect") == "on_tool_message"))
    names = {"trace_id": lost["trace_id"],
             "conversation_id": pl.concat([lost["conversation_id"], lost["reply_conversation"]])}  # fmt: skip
    near = pl.any_horizontal(pl.col(name).is_in(ids.drop_nulls().unique().implode()) for name, ids in names.items())
    return pl.concat([one.filter(pl.col("role") == "assistant", near).select(columns) for one in messages]).unique()


def _later(after: pl.LazyFrame | None, heard: pl.DataFrame, targets: pl.DataFrame) -> pl.Series | None:
    """Of the message ids that reactions name and that are not there, those of the days after; None: not known."""
    if after is None:
        return None
    astray = heard.filter(~pl.col("message_id").is_in(targets["message_id"].implode()))["message_id"]
    if astray.is_empty():
        return astray
    ids = after.select("message_id").filter(pl.col("message_id").hash().is_in(astray.hash().unique().implode()))
    return ids.collect()["message_id"]


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
    came_in: tuple[int, int], messages: pl.DataFrame, reactions: pl.DataFrame, replies: pl.DataFrame,
    quarantine: pl.DataFrame,
) -> Accounting:  # fmt: skip
    aside = dict(quarantine.group_by("table").len().iter_rows())
    faultless = dict(quarantine.filter(pl.col("defect").is_in(FAULTLESS)).group_by("table").len().iter_rows())
    said = messages.filter(pl.col("role") == "assistant")
    greetings = int(said["greeting"].sum())
    return Accounting(
        messages_in=came_in[0],
        messages_accepted=messages.height,
        messages_quarantined=aside.get("messages", 0),
        messages_faultless=faultless.get("messages", 0),
        reactions_in=came_in[1],
        reactions_accepted=reactions.height,
        reactions_quarantined=aside.get("reactions", 0),
        reactions_faultless=faultless.get("reactions", 0),
        replies=said.height - greetings,
        greetings=greetings,
        mature=int((replies["status"] == "mature").sum()),
        pending=int((replies["status"] == "pending").sum()),
    )
