"""Reactions in logs of whole conversations: marks, lists, words and labels on messages and conversations, and side files.

What is there and cannot be read stays as a row without a value, which the row contract names: it is no silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.feedback.config import MessagesLayout, ScoreRule
from rluf_assets.feedback.schemas import conform, empty
from rluf_assets.feedback.values import as_float, as_integer, as_string

_SIGNAL_NAMES = ("signal", "name", "key", "emoji")
_NAMED = pl.Struct({"signal": pl.String, "value": pl.String, "user_id": pl.String, "reacted_at": pl.String})


def from_field(messages: pl.LazyFrame, name: str, dtype: pl.DataType, where: str) -> pl.LazyFrame:
    """Reactions in a field of the messages: {signal: 0|1}, a list of objects, or of names and objects."""
    if isinstance(dtype, pl.Struct):
        return _from_marks(messages, name, dtype)
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
        return _from_reactions(messages, name, dtype.inner)
    if isinstance(dtype, pl.List) and dtype.inner in (pl.String, pl.Null):
        listed = pl.col("message").struct.field(name).cast(pl.List(pl.String)).list.eval(_named(pl.element()))
        whole = messages.with_columns(message=pl.struct(listed.alias(name)))
        return _from_reactions(whole, name, _NAMED)
    if dtype == pl.Null:
        return empty("reactions").lazy()
    raise DataError(
        f"{where}: {name!r} on messages has type {dtype}, expected {{signal: 0 or 1}} or a list of {{signal, ...}} in every "
        f"one. Mend it in the source, or name another field in the layout."
    )


def _named(text: pl.Expr) -> pl.Expr:
    """A reaction that is a name, or an object as JSON."""
    is_object = text.str.contains(r"^\s*\{")

    def found(*names: str) -> pl.Expr:
        values = pl.coalesce(text.str.json_path_match(f"$.{name}") for name in names)
        return pl.when(is_object).then(values)

    return pl.struct(
        signal=pl.when(is_object).then(found(*_SIGNAL_NAMES)).otherwise(text), value=found("value"),
        user_id=found("user_id"), reacted_at=found("reacted_at", "created_at", "timestamp"),
    )  # fmt: skip


def _from_marks(messages: pl.LazyFrame, field: str, marks: pl.Struct) -> pl.LazyFrame:
    """A mark that is there and cannot be read stays, without a value: it is no silence."""
    mark = pl.col("message").struct.field(field)
    entries = []
    for one in marks.fields:
        given = mark.struct.field(one.name)
        value = as_integer(given, one.dtype, pl.Int8())  # type: ignore[arg-type]
        entries.append(pl.struct(signal=pl.lit(one.name), value=pl.lit(None, pl.Int8) if value is None else value,
                                 given=given.is_not_null()))  # fmt: skip
    return (
        messages.filter(mark.is_not_null())
        .select("conversation_id", "message_id", "user_id", mark=pl.concat_list(entries))
        .explode("mark")
        .unnest("mark")
        .filter("given")
        .with_columns(reaction_id=pl.format("{}#{}", "message_id", "signal"))
    )


def from_ratings(messages: pl.LazyFrame, field: str, dtype: pl.DataType, words: Mapping[str, str]) -> pl.LazyFrame:
    """The words of the layout, whatever their case; others set no signal (`list_counts` tells them)."""
    word = as_string(pl.col("message").struct.field(field), dtype)
    if word is None:
        return empty("reactions").lazy()
    folded = {name.strip().lower(): signal for name, signal in words.items()}
    signal = word.str.strip_chars().str.to_lowercase().replace_strict(folded, default=None, return_dtype=pl.String)
    rows = messages.select("conversation_id", "message_id", "user_id", signal=signal, value=pl.lit(1, pl.Int8))
    return rows.filter(pl.col("signal").is_not_null()).with_columns(
        reaction_id=pl.format("{}#{}", "message_id", "signal")
    )


def labels_of(found: Mapping[str, Any], layout: MessagesLayout) -> list[str]:
    """Columns with a label per conversation. A number may be the class of something else: the layout must name it."""
    named = "labels" in layout.model_fields_set
    return [name for name in layout.labels if name in found and (named or found[name] == pl.Boolean)]


def from_label(messages: pl.LazyFrame, name: str, dtype: pl.DataType, rule: ScoreRule) -> pl.LazyFrame:
    """The label of each conversation as signals of its last reply; one that cannot be read stays, without a value."""
    label = as_float(pl.col(f"label/{name}"), dtype)
    label = pl.lit(None, pl.Float64) if label is None else label
    on = {signal: value for signal, value in ((rule.up, label >= rule.up_from), (rule.down, label <= rule.down_to))
          if signal is not None}  # fmt: skip
    entries = [pl.struct(signal=pl.lit(signal), value=value.cast(pl.Int8)) for signal, value in on.items()]
    labelled = messages.filter(pl.col("closing"), pl.col(f"label/{name}").is_not_null())
    rows = labelled.select("conversation_id", "message_id", "user_id", entry=pl.concat_list(entries)).explode("entry")
    return rows.unnest("entry").with_columns(
        reaction_id=pl.format("{}#{}#{}", "conversation_id", pl.lit(name), "signal")
    )


def from_side_file(rows: pl.LazyFrame, where: str) -> pl.LazyFrame:
    """Reactions by message id: without a value they are set, without an id numbered, without a user the conversation's."""
    names = set(rows.collect_schema())
    defaults = {
        "value": pl.lit(1, pl.Int8),
        "user_id": pl.lit(None, pl.String),
        "reaction_id": pl.format("{}#{}", "message_id", pl.int_range(pl.len())),
    }
    signal = next((name for name in _SIGNAL_NAMES if name in names), None)
    if signal is None:
        raise DataError(
            f"{where}: no column says which signal a reaction is ({', '.join(_SIGNAL_NAMES)}); found {sorted(names)}. "
            "Name it in layout.columns."
        )
    added = [value.alias(name) for name, value in defaults.items() if name not in names]
    return conform(rows.rename({signal: "signal"}, strict=False).with_columns(added), "reactions", where)


def _from_reactions(messages: pl.LazyFrame, field: str, entry: pl.Struct) -> pl.LazyFrame:
    names = {one.name for one in entry.fields}
    signal = next((name for name in _SIGNAL_NAMES if name in names), None)
    if signal is None:
        raise DataError(f"reactions on messages: expected a field signal, name, key or emoji; found {sorted(names)}.")
    reaction = pl.col("reaction").struct.field
    reacted_at = next((name for name in ("reacted_at", "created_at", "timestamp") if name in names), None)
    nth = pl.int_ranges(pl.col("message").struct.field(field).list.len())
    rows = (
        messages.select(
            "conversation_id", "message_id", "user_id", reaction=pl.col("message").struct.field(field), nth=nth
        )
        .explode("reaction", "nth", empty_as_null=False)
        .filter(pl.col("reaction").is_not_null())
    )
    return rows.select(
        "conversation_id",
        "message_id",
        reaction_id=pl.format("{}#{}", "message_id", "nth"),
        user_id=pl.coalesce(reaction("user_id"), "user_id") if "user_id" in names else pl.col("user_id"),
        signal=reaction(signal),
        value=reaction("value").fill_null(1) if "value" in names else pl.lit(1, pl.Int8),
        reacted_at=reaction(reacted_at) if reacted_at else pl.lit(None, pl.String),
    )
