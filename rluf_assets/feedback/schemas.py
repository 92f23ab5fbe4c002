"""The canonical tables every adapter produces and every later stage reads, and the structural check on the way in.

Structural defects (missing column, type that cannot become ours) fail with file, column, found and expected; what is
wrong in single rows is the row contract's business (`contract.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.values import as_boolean, as_content, as_float, as_integer, as_role, as_string, as_time

TIME = pl.Datetime("us", "UTC")
MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
PROMPT = pl.List(MESSAGE)

MESSAGES: Mapping[str, pl.DataType] = {
    "conversation_id": pl.String(),
    "message_id": pl.String(),
    "parent_id": pl.String(),
    "turn_index": pl.Int32(),
    "role": pl.String(),
    "content": pl.String(),
    "user_id": pl.String(),
    "created_at": TIME,
    "policy_version": pl.String(),
    "experiment_arm": pl.String(),
    "use_case": pl.String(),
    "locale": pl.String(),
    "reactions_shown": pl.Boolean(),
    "assignment_probability": pl.Float64(),
    "reply_logprob": pl.Float64(),
    "aliases": pl.String(),
    "trace_id": pl.String(),
}
REACTIONS: Mapping[str, pl.DataType] = {
    "reaction_id": pl.String(),
    "conversation_id": pl.String(),
    "message_id": pl.String(),
    "user_id": pl.String(),
    "signal": pl.String(),
    "value": pl.Int8(),
    "reacted_at": TIME,
    "updated_at": TIME,
    "source": pl.String(),
    "trace_id": pl.String(),
}
# What a message is known by: many logs number their messages anew in every conversation.
MESSAGE_KEY = ("conversation_id", "message_id")
# A source may lack these: the column is then null, never invented.
OPTIONAL: Mapping[str, frozenset[str]] = {
    "messages": frozenset(MESSAGES) - {"conversation_id", "message_id", "turn_index", "role", "content", "user_id"},
    "reactions": frozenset({"conversation_id", "reacted_at", "updated_at", "source", "trace_id"}),
}
TABLES = {"messages": MESSAGES, "reactions": REACTIONS}

REPLY_COLUMNS = (
    "message_id", "conversation_id", "user_id", "turn_index", "created_at", "policy_version", "experiment_arm",
    "use_case", "locale", "reactions_shown", "assignment_probability", "reply_logprob", "status", "content",
)  # fmt: skip
QUARANTINE = {"table": pl.String(), "defect": pl.String(), "source_row": pl.Int64(), "row": pl.String()}
FUNNEL = {
    "step": pl.String(), "rows_in": pl.Int64(), "dropped": pl.Int64(), "rows_out": pl.Int64(), "reason": pl.String(),
}  # fmt: skip


def label_column(signal: str) -> str:
    return f"label_{signal}"


def conform(frame: pl.LazyFrame, table: str, where: str) -> pl.LazyFrame:
    """The frame with exactly the canonical columns of `table` in order and type; other columns are left out.

    Values are read in their usual spellings (`values.py`); one that cannot be read becomes null, a defect of its row.
    Raises DataError for a missing column, or one of a type that cannot hold such values.
    """
    found = frame.collect_schema()
    columns = []
    for name, dtype in TABLES[table].items():
        if name in found:
            columns.append(_cast(name, found[name], dtype, where))
        elif name in OPTIONAL[table]:
            columns.append(pl.lit(None, dtype).alias(name))
        else:
            raise DataError(
                f"{where}: column {name!r} of the {table} table is missing; found {list(found)}. "
                f"Rename it in the source, or name the right format and layout."
            )
    return frame.select(columns)


def _cast(name: str, found: pl.DataType, expected: pl.DataType, where: str) -> pl.Expr:
    column = pl.col(name)
    if found == pl.Null:
        return column.cast(expected)
    read: pl.Expr | None
    if name == "content":
        read = as_content(column, found)
    elif expected == pl.String:
        read = as_string(column, found)
    elif isinstance(expected, pl.Datetime):
        read = as_time(column, found)
    elif expected == pl.Boolean:
        read = as_boolean(column, found)
    elif expected.is_float():
        read = as_float(column, found)
    else:
        read = as_integer(column, found, expected)
    if read is None:
        raise DataError(
            f"{where}: column {name!r} has type {found}, expected {expected}. "
            f"Convert it in the source, or map another column."
        )
    return (as_role(read) if name == "role" else read).alias(name)


def empty(table: str) -> pl.DataFrame:
    """A canonical table without rows."""
    return pl.DataFrame(schema=dict(TABLES[table]))
