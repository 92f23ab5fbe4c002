"""The canonical tables every adapter produces and every later stage reads, and the structural check on the way in.

Structural defects (missing column, type that cannot become ours) fail with file, column, found and expected; what is
wrong in single rows is the row contract's business (`contract.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from rluf_assets.errors import DataError

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
}
# A source may lack these: the column is then null, never invented.
OPTIONAL: Mapping[str, frozenset[str]] = {
    "messages": frozenset(MESSAGES) - {"conversation_id", "message_id", "turn_index", "role", "content", "user_id"},
    "reactions": frozenset({"conversation_id", "reacted_at", "updated_at", "source"}),
}
TABLES = {"messages": MESSAGES, "reactions": REACTIONS}

REPLY_COLUMNS = (
    "message_id", "conversation_id", "user_id", "turn_index", "created_at", "policy_version", "experiment_arm",
    "use_case", "locale", "reactions_shown", "status", "content",
)  # fmt: skip
QUARANTINE = {"table": pl.String(), "defect": pl.String(), "source_row": pl.Int64(), "row": pl.String()}
FUNNEL = {
    "step": pl.String(), "rows_in": pl.Int64(), "dropped": pl.Int64(), "rows_out": pl.Int64(), "reason": pl.String(),
}  # fmt: skip


def label_column(signal: str) -> str:
    return f"label_{signal}"


def conform(frame: pl.LazyFrame, table: str, where: str) -> pl.LazyFrame:
    """The frame with exactly the canonical columns of `table` in order and type; other columns are left out.

    Casts only where no row can be lost or bent: integers and booleans to integers, numbers to floats, times without a
    zone or of another unit, ISO strings to times, all-null columns to anything. Raises DataError for a missing column
    or another type.
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
    if found == expected or found == pl.Null:
        return column.cast(expected)
    if expected.is_integer() and (found.is_integer() or found == pl.Boolean):
        return column.cast(expected, strict=False)  # out of range becomes null: a row defect, not a lost partition
    if expected.is_float() and (found.is_numeric() or found == pl.String):
        return column.cast(expected, strict=False)  # text that is no number becomes null: not known
    if expected == pl.String and (found.is_integer() or found in (pl.Categorical, pl.Enum)):
        return column.cast(pl.String)
    if expected == pl.Boolean and found.is_integer():
        return column == 1
    if isinstance(expected, pl.Datetime):
        if isinstance(found, pl.Datetime):
            timed = column.dt.convert_time_zone("UTC") if found.time_zone else column.dt.replace_time_zone("UTC")
            return timed.cast(expected)
        if found == pl.String:  # an unreadable time becomes null: the row contract names it
            iso = column.str.strip_chars().str.replace(" ", "T", literal=True)
            zoned = pl.when(iso.str.contains(r"(Z|[+-]\d\d:?\d\d)$")).then(iso).otherwise(iso + "Z")
            return zoned.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False).alias(name)
    raise DataError(
        f"{where}: column {name!r} has type {found}, expected {expected}. "
        f"Convert it in the source, or map another column."
    )


def empty(table: str) -> pl.DataFrame:
    """A canonical table without rows."""
    return pl.DataFrame(schema=dict(TABLES[table]))
