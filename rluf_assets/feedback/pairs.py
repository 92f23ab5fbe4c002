"""Preference pairs: TRL rows, Anthropic-style transcripts or Open WebUI siblings -> train, eval, and a quarantine.

The eval split is drawn by the conversation's first message, so that versions of one conversation never cross.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.chat_json import LISTED, listed_messages
from rluf_assets.feedback.config import PairsConfig
from rluf_assets.feedback.open_webui import sibling_pairs
from rluf_assets.feedback.redaction import redact_column, redact_conversations
from rluf_assets.feedback.sampling import stable_uniform
from rluf_assets.feedback.schemas import MESSAGE, PROMPT, QUARANTINE
from rluf_assets.feedback.sources import scan, scan_lines
from rluf_assets.feedback.values import as_content, as_role

COLUMNS = ["pair_id", "prompt", "chosen", "rejected", "use_case"]
DEFECTS = {
    "malformed": "no conversation in chosen or rejected, or a role that is not system, user or assistant",
    "no_shared_prompt": "chosen and rejected do not answer the same prompt",
    "no_user_message": "the prompt does not end with a user's message, or that is empty",
    "not_a_reply": "chosen or rejected does not end with an assistant's message",
    "empty_reply": "chosen or rejected is blank",
    "equal_replies": "chosen equals rejected",
    "overlong_text": "a reply is longer than `max_chars`",
    "duplicate_pair": "the same pair came before",
}
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Pairs:
    """Accepted pairs split by conversation, and what was set aside; rows in = train + eval + quarantine."""

    train: pl.DataFrame
    eval: pl.DataFrame
    quarantine: pl.DataFrame
    rows_in: int
    redacted: dict[str, int]


def build_pairs(config: PairsConfig, *, seed: int) -> Pairs:
    """Read, judge and split the pairs of `config.source`. Raises DataError for a structural defect."""
    opened = sibling_pairs(scan_lines(config.source)) if config.format == "open_webui" else scan(config.source)
    raw = opened.collect().with_row_index("source_row")
    rows, redacted = redact_conversations(_sides(raw, config), ("chosen", "rejected"), config.redaction)
    prompts = {side: pl.col(side).list.slice(0, pl.col(side).list.len() - 1) for side in ("chosen", "rejected")}
    rows = rows.with_columns(
        prompt=prompts["chosen"], other_prompt=prompts["rejected"],
        chosen=pl.col("chosen").list.tail(1), rejected=pl.col("rejected").list.tail(1),
    )  # fmt: skip
    judged = rows.with_columns(defect=_defect(config))
    same = pl.struct(_text("prompt"), _text("chosen"), _text("rejected"), pl.col("defect").is_null())
    again = pl.col("defect").is_null() & ~same.is_first_distinct()
    judged = judged.with_columns(defect=pl.when(again).then(pl.lit("duplicate_pair")).otherwise("defect"))
    first = pl.col("prompt").list.first().struct.field("content").alias("first")
    good = judged.filter(pl.col("defect").is_null()).with_columns(first).with_columns(u=stable_uniform("first", seed))
    bad = judged.select("source_row", "defect").join(raw, on="source_row", maintain_order="left")
    quarantine = bad.filter(pl.col("defect").is_not_null()).select(
        pl.lit("pairs").alias("table"), "defect", "source_row",
        pl.struct(pl.exclude("source_row", "defect")).struct.json_encode().alias("row"),
    ).cast(QUARANTINE)  # type: ignore[arg-type]  # fmt: skip
    quarantine, _ = redact_column(quarantine, "row", config.redaction)
    into_eval = pl.col("u") < config.eval_share
    pairs = Pairs(
        good.filter(~into_eval).select(COLUMNS),
        good.filter(into_eval).select(COLUMNS),
        quarantine,
        raw.height,
        redacted,
    )
    if pairs.rows_in != pairs.train.height + pairs.eval.height + quarantine.height:
        raise DataError(f"{config.source}: pairs do not add up: {pairs.rows_in} in, {pairs} out.")
    return pairs


def parse_transcript(text: str | None) -> list[dict[str, str]] | None:
    r"""Messages of a `\n\nHuman: ...\n\nAssistant: ...` transcript, or None if it does not start like one."""
    if text is None:
        return None
    head, *parts = _SPEAKER.split(text if text.startswith("\n\n") else f"\n\n{text}")
    if head.strip() or not parts:
        return None
    return [{"role": _ROLES[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _sides(raw: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    """`chosen` and `rejected` as whole conversations (prompt included), with ids and use case."""
    schema = raw.schema
    for side in ("chosen", "rejected"):
        if side not in schema:
            raise DataError(
                f"{config.source}: column {side!r} is missing; found {list(schema)}, expected TRL preference rows."
            )
    sides = {side: _conversation(raw, side, config) for side in ("chosen", "rejected")}
    if "prompt" in schema:
        prompt = _as_messages(raw, "prompt", "user", config)
        # Without a message of its own a side has no conversation, whatever the prompt is.
        sides = {side: pl.when(said.list.len() > 0).then(pl.concat_list(prompt, said)) for side, said in sides.items()}
    pair_id = pl.col("pair_id").cast(pl.String) if "pair_id" in schema else pl.format("pair-{}", "source_row")
    use_case = pl.col("use_case") if "use_case" in schema else pl.lit(config.use_case, pl.String)
    return raw.select("source_row", pair_id.alias("pair_id"), use_case.alias("use_case"), **sides)


def _conversation(raw: pl.DataFrame, side: str, config: PairsConfig) -> pl.Expr:
    if config.format == "transcripts":
        if raw.schema[side] != pl.String:
            raise DataError(
                f"{config.source}: column {side!r} has type {raw.schema[side]}, expected transcripts (String)."
            )
        return pl.lit(pl.Series(side, [parse_transcript(text) for text in raw[side]], dtype=PROMPT))
    return _as_messages(raw, side, "assistant", config)


def _as_messages(raw: pl.DataFrame, column: str, role: str, config: PairsConfig) -> pl.Expr:
    dtype = raw.schema[column]
    if dtype == pl.String:
        texts = raw.select(as_content(pl.col(column), pl.String())).to_series()
        if not texts.str.contains(LISTED).any():
            return pl.concat_list(pl.struct(role=pl.lit(role), content=pl.lit(texts)).cast(MESSAGE))
        # The column holds texts and lists of messages, which are then JSON.
        both = [listed_messages(text) or [{"role": role, "content": text}] for text in texts]
        return pl.lit(pl.Series(column, both, dtype=PROMPT))
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    if not isinstance(inner, pl.Struct) or {field.name for field in inner.fields} < {"role", "content"}:
        raise DataError(
            f"{config.source}: column {column!r} has type {dtype}, expected text or a list of {{role, content}}."
        )
    fields: dict[str, Any] = {field.name: field.dtype for field in inner.fields}
    said = raw.select("source_row", message=column).explode("message", empty_as_null=False).select(
        "source_row",
        role=as_role(pl.col("message").struct.field("role").cast(pl.String)),
        content=as_content(pl.col("message").struct.field("content"), fields["content"]),
    )  # fmt: skip
    made = said.group_by("source_row", maintain_order=True).agg(
        pl.struct("role", "content").cast(MESSAGE).alias(column)
    )
    return pl.lit(raw.select("source_row").join(made, on="source_row", how="left", maintain_order="left")[column])


def _defect(config: PairsConfig) -> pl.Expr:
    chosen, rejected = _reply("chosen"), _reply("rejected")
    last = pl.col("prompt").list.last().struct
    roles = pl.concat_list("prompt", "other_prompt", "chosen", "rejected").list.eval(
        pl.element().struct.field("role").is_in(["system", "user", "assistant"]).fill_null(False)
    )
    both = (pl.col("chosen").list.len() > 0) & (pl.col("rejected").list.len() > 0)
    checks = {
        "malformed": (roles.list.all() & both).not_().fill_null(True),
        "no_shared_prompt": _text("prompt") != _text("other_prompt"),
        "no_user_message": ((last.field("role") != "user") | _blank(last.field("content"))).fill_null(True),
        "not_a_reply": (chosen.field("role") != "assistant") | (rejected.field("role") != "assistant"),
        "empty_reply": _blank(chosen.field("content")) | _blank(rejected.field("content")),
        "equal_replies": chosen.field("content").str.strip_chars() == rejected.field("content").str.strip_chars(),
        "overlong_text": pl.max_horizontal(
            chosen.field("content").str.len_chars(), rejected.field("content").str.len_chars()
        ) > config.max_chars,
    }  # fmt: skip
    return pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in checks.items()))


def _reply(side: str) -> pl.expr.struct.ExprStructNameSpace:
    return pl.col(side).list.last().struct


def _blank(text: pl.Expr) -> pl.Expr:
    return (text.str.strip_chars() == "").fill_null(True)


def _text(column: str) -> pl.Expr:
    """A conversation as one string, to compare by."""
    message = pl.element().struct.field("role") + "\x1f" + pl.element().struct.field("content").fill_null("")
    return pl.col(column).list.eval(message).list.join("\x1e").alias(f"text_{column}")
