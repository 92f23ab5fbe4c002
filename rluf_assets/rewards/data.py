"""Labelled replies and preference pairs as frames that training can trust.

Reads TRL's conversational formats (Parquet, JSON or CSV; plain strings too), brings them to one form, sets aside the rows
that would spoil a model silently (no label, an empty reply, a reply that is a user's), and refuses what is no matter of
single rows: empty files, one class only, missing columns, too many rows lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import DataError
from rluf_assets.feedback.sources import open_source, structural_errors
from rluf_assets.feedback.values import ROLE_NAMES, as_float, as_time
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.messages import Unread, messages_of
from rluf_assets.rewards.set_aside import DEFECT, ROW, SetAside

MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
PROMPT = pl.List(MESSAGE)
TEXTS = ("prompt", "completion", "chosen", "rejected")
GROUPS = ("user_id", "conversation_id")
LABELLED = ("prompt", "completion", "label")
# Columns of numbers, which a CSV holds as text.
NUMBERS = ("label", "sample_weight", "margin", "inclusion_probability")
PAIRED = ("prompt", "chosen", "rejected")


def read_table(path: str | Path) -> pl.DataFrame:
    """The rows of Parquet, JSON or CSV files, read as logs are (`feedback.sources`). Raises DataError if there are none.

    Texts of JSON come in one form, whatever each row's is; other columns as Polars types them, and those of a CSV as
    numbers where we need numbers.
    """
    opened = open_source(str(path))
    if not opened.records:
        raise DataError(f"{path}: the file has no rows; a reward model needs some.")
    if opened.kind == "json":
        return _of_records(list(opened.values()))
    with structural_errors(opened.source):
        frame = opened.frame().collect()
        if opened.kind == "csv":
            numbers = {name: as_float(pl.col(name), pl.String()) for name in NUMBERS if name in frame.columns}
            frame = frame.with_columns(read.alias(name) for name, read in numbers.items() if read is not None)
        return frame


def _of_records(records: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows of JSON objects. Polars alone would write a list of parts that stands among plain texts as its JSON, and that
    would be learned from.
    """
    texts = [name for name in TEXTS if any(name in record for record in records)]
    plain = [{key: value for key, value in record.items() if key not in texts} for record in records]
    rest = pl.DataFrame(plain, infer_schema_length=None, strict=False) if any(plain) else pl.DataFrame()
    values = {name: [record.get(name) for record in records] for name in texts}
    read, defects = _read_texts(values)
    columns = [*read, pl.Series(DEFECT, defects, pl.String)] if any(defects) else read
    order = list(dict.fromkeys(key for record in records for key in record))
    return pl.DataFrame([*rest.get_columns(), *columns]).select(*order, pl.col(f"^{DEFECT}$"))


def _read_texts(values: dict[str, list[Any]]) -> tuple[list[pl.Series], list[str | None]]:
    """Columns of texts or messages in one form, and why a row cannot be read (null where it can)."""
    defects: list[str | None] = [None] * len(next(iter(values.values()), []))
    read = []
    for name, column in values.items():
        found: list[list[Message] | None] = []
        for i, value in enumerate(column):
            try:
                found.append(messages_of(value, "user" if name == "prompt" else "assistant"))
            except Unread as error:
                found.append(None)
                defects[i] = defects[i] or error.reason
        if all(value is None or (isinstance(value, str) and m is not None and m[0]["content"] == value)
               for value, m in zip(column, found, strict=True)):  # fmt: skip
            read.append(pl.Series(name, column, pl.String))
        else:
            read.append(pl.Series(name, found, PROMPT))
    return read, defects


def labelled_rows(frame: pl.DataFrame, name: str, config: RewardConfig, aside: SetAside | None = None) -> pl.DataFrame:
    """Rows for P[signal]: prompt (list of messages), completion (text), label (0-1), weight; other columns are kept.

    Rows that cannot be used (label or weight no number, empty reply, no text, wrong role) go into `aside`. Raises DataError
    if a column is missing, more rows are lost than the config allows, or only one class is there.
    """
    aside = aside or new_aside(frame, name, config)
    frame = _texts(frame, ("completion",), name, aside, LABELLED)
    label = _label(frame, name)
    frame = frame.with_columns(label, _weight(frame))
    frame = aside.drop(frame, pl.col("label").is_nan() | pl.col("label").is_null(), "no_label")
    good = pl.col("label").is_between(0, 1) if config.soft_labels else pl.col("label").is_in([0.0, 1.0])
    frame = aside.drop(frame, ~good, "bad_label")
    frame = aside.drop(frame, ~(pl.col("weight").is_finite() & (pl.col("weight") >= 0)), "bad_weight")
    frame = _without_empty(frame, ("completion",), name, config, aside)
    aside.check()
    if frame["label"].min() == frame["label"].max():
        raise DataError(
            f"{name}: all {len(frame)} labels are {frame['label'][0]:g}; a classifier needs both classes. "
            "Check the signal's name and the sampling."
        )
    return frame


def pair_rows(frame: pl.DataFrame, name: str, config: RewardConfig, aside: SetAside | None = None) -> pl.DataFrame:
    """Rows for Bradley-Terry: prompt, chosen and rejected (texts), margin; what cannot be used goes into `aside`.

    TRL's implicit prompts (no `prompt` column; chosen and rejected are whole conversations) are split at the last.
    Raises DataError as `labelled_rows` does.
    """
    aside = aside or new_aside(frame, name, config)
    if "prompt" not in frame.columns:
        _require(frame, PAIRED[1:], name)
        frame = _split_implicit(_numbered(_canonical(frame, PAIRED[1:], name)), name, aside)
    frame = _texts(frame, PAIRED[1:], name, aside, PAIRED)
    if config.use_margin:
        _require(frame, ("margin",), name)
        frame = aside.drop(frame, ~pl.col("margin").cast(pl.Float64).is_finite(), "bad_margin")
    else:
        frame = frame.with_columns(margin=pl.lit(0.0))
    frame = _without_empty(frame, ("chosen", "rejected"), name, config, aside)
    same = pl.col("chosen") == pl.col("rejected")
    if len(frame) and frame.select(same.all()).item():
        raise DataError(f"{name}: chosen equals rejected in every pair; there is nothing to learn. Check the columns.")
    frame = aside.drop(frame, same, "equal_replies")
    aside.check()
    return frame


def scorable_rows(frame: pl.DataFrame, name: str, aside: SetAside) -> pl.DataFrame:
    """Rows of a file to score, in its order: prompt (list of messages) and completion (text); others go into `aside`."""
    frame = _texts(frame, ("completion",), name, aside, LABELLED[:2])
    empty = pl.col("completion").is_null() | (pl.col("completion").str.strip_chars() == "")
    return aside.drop(frame, empty, "empty_reply")


def new_aside(frame: pl.DataFrame, name: str, config: RewardConfig) -> SetAside:
    """An empty account of a file's unusable rows; what a setting drops on purpose does not count against the share."""
    free = {
        reason
        for reason, setting in (("too_long", config.on_too_long), ("empty_reply", config.on_empty_completion))
        if setting == "drop"
    }
    return SetAside(name, len(frame), config.max_set_aside_share, frozenset(free))


def limit_rows(frame: pl.DataFrame, max_rows: int, seed: int) -> pl.DataFrame:
    """A seeded uniform sample of at most `max_rows`, in the frame's order: rates stay what they are."""
    if len(frame) <= max_rows:
        return frame
    kept = np.sort(np.random.default_rng(seed).choice(len(frame), max_rows, replace=False))
    return frame[kept]


def split_validation(frame: pl.DataFrame, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (rows,) of the training and the validation rows, which share no user (see `groups_of`).

    Validation rows are the last `share` of the period, of users first seen in it: calibration is fitted on what comes
    after training, as it will be used. Rows of that time from users seen before are in neither. Rows without times are
    split by users alone.
    """
    groups = groups_of(frame)
    names, codes = np.unique(groups.to_numpy(), return_inverse=True)
    times = times_of(frame)
    if times is not None and not times.null_count():
        moments = times.dt.epoch("us").to_numpy()
        late = moments > np.quantile(moments, 1 - share)
        first_seen = np.full(len(names), np.iinfo(np.int64).max)
        np.minimum.at(first_seen, codes, moments)
        is_new = first_seen > moments[~late].max()
        if late.any() and is_new.any():
            return ~late, late & is_new[codes]
    digests = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in names]
    held = (np.array([int.from_bytes(digest, "big") for digest in digests]) / 2**64 < share)[codes]
    return ~held, held


def groups_of(frame: pl.DataFrame) -> pl.Series:
    """What a row belongs to: its user; without one, its conversation; without that, the first message of its prompt."""
    known = [pl.col(name).cast(pl.String) for name in GROUPS if name in frame.columns]
    return frame.select(pl.coalesce(*known, pl.col("prompt").list.first().struct.field("content"))).to_series()


def grouped_by(frame: pl.DataFrame) -> dict[str, int]:
    """How many rows `groups_of` takes by each key."""
    left, counts = pl.int_range(pl.len()) >= 0, {}
    for name in (*GROUPS, "first message"):
        known = pl.col(name).is_not_null() if name in frame.columns else pl.lit(name == "first message")
        counts[name] = int(frame.select((left & known).sum()).item()) if len(frame) else 0
        left = left & ~known
    return {name: count for name, count in counts.items() if count}


def times_of(frame: pl.DataFrame) -> pl.Series | None:
    """Column `created_at` as UTC times in any spelling, epochs too (null where it is none), or None without such a column."""
    if "created_at" not in frame.columns:
        return None
    times = as_time(pl.col("created_at"), frame.schema["created_at"])
    return None if times is None else frame.select(times).to_series()


def new_and_replayed(frame: pl.DataFrame, seen_until: str | None, replay_share: float, seed: int) -> pl.DataFrame:
    """For a warm start: rows later than `seen_until` (ISO time) and enough of the older ones to be `replay_share`."""
    times = times_of(frame)
    if seen_until is None or times is None:
        return frame
    is_new = (times > datetime.fromisoformat(seen_until)).fill_null(True)
    new, old = frame.filter(is_new), frame.filter(~is_new)
    wanted = round(len(new) * replay_share / (1 - replay_share))
    return pl.concat([limit_rows(old, wanted, seed), new]) if len(new) else frame


def labels_of(frame: pl.LazyFrame, name: str, config: RewardConfig) -> np.ndarray:
    """Column `label` alone, float64 (rows,), NaN where it is none: other columns are not read."""
    columns = frame.collect_schema().names()
    _require_columns(columns, LABELLED, name)
    labels = frame.select("label").collect(engine="streaming")
    if labels.is_empty():
        raise DataError(f"{name}: no rows; a reward model needs some.")
    found = labels.select(_label(labels, name).fill_null(float("nan"))).to_series().to_numpy().copy()
    if not config.soft_labels:
        found[~np.isin(found, [0.0, 1.0])] = np.nan
    found[~((found >= 0) & (found <= 1))] = np.nan
    return found


def _require_columns(found: Sequence[str], columns: tuple[str, ...], name: str) -> None:
    absent = [column for column in columns if column not in found]
    if absent:
        raise DataError(
            f"{name}: missing column {absent}, found {list(found)}, expected {list(columns)}. Rename or add."
        )


def _require(frame: pl.DataFrame, columns: tuple[str, ...], name: str) -> None:
    _require_columns(frame.columns, columns, name)
    if frame.is_empty():
        raise DataError(f"{name}: no rows; a reward model needs some.")


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame if ROW in frame.columns else frame.with_row_index(ROW)


def _canonical(frame: pl.DataFrame, columns: tuple[str, ...], name: str) -> pl.DataFrame:
    """Columns of texts in one form; contents that are lists of parts, or JSON of messages, are read row by row."""
    for column in columns:
        if not _is_text_or_messages(frame.schema[column]):
            raise DataError(
                f"{name}: column {column} is {frame.schema[column]}, expected text or a list of messages "
                "{role, content}."
            )
    odd = [c for c in columns if frame.schema[c] != PROMPT and not _is_plain(frame[c])]
    if not odd:
        return frame
    read, defects = _read_texts({column: frame[column].to_list() for column in odd})
    frame = frame.with_columns(read)
    if not any(defects):
        return frame
    found = pl.Series(DEFECT, defects, pl.String)
    return frame.with_columns(pl.coalesce(DEFECT, found).alias(DEFECT) if DEFECT in frame.columns else found)


def _is_text_or_messages(kind: pl.DataType) -> bool:
    return kind == pl.String or (isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct))


def _is_plain(column: pl.Series) -> bool:
    """Whether a column is text without a list written as JSON in it, or messages whose contents are text."""
    if column.dtype == pl.String:
        return not column.str.contains(r"^\s*\[\s*\{").any()
    fields = {field.name: field.dtype for field in column.dtype.inner.fields}  # type: ignore[attr-defined]
    return fields.get("role") == pl.String and fields.get("content") == pl.String


def _texts(
    frame: pl.DataFrame, replies: tuple[str, ...], name: str, aside: SetAside, columns: tuple[str, ...]
) -> pl.DataFrame:
    """Prompts as messages and replies as texts; rows without either are set aside. `columns` are all that must be there."""
    _require(frame, columns, name)
    frame = _numbered(_canonical(frame, ("prompt", *replies), name))
    if DEFECT in frame.columns:
        for reason in frame[DEFECT].drop_nulls().unique(maintain_order=True):
            frame = aside.drop(frame, pl.col(DEFECT).eq_missing(pl.lit(reason)), reason)
        frame = frame.drop(DEFECT)
    frame = _with_prompt(frame, aside)
    for column in replies:
        if frame.schema[column] != pl.String:
            frame = aside.drop(frame, (pl.col(column).list.len() > 1).fill_null(False), "not_one_message")
            first = pl.col(column).list.first()
            role = first.struct.field("role").str.to_lowercase().replace(ROLE_NAMES)
            wrong = first.struct.field("content").is_not_null() & role.ne_missing(pl.lit("assistant"))
            frame = aside.drop(frame, wrong, "wrong_role")
            frame = frame.with_columns(pl.col(column).list.first().struct.field("content").alias(column))
    said = (
        pl.col("prompt").list.eval(pl.element().struct.field("content").str.contains("\ufffd", literal=True)).list.any()
    )
    damaged = [said, *(pl.col(column).str.contains("\ufffd", literal=True) for column in replies)]
    return aside.drop(frame, pl.any_horizontal(one.fill_null(False) for one in damaged), "invalid_text")


def _with_prompt(frame: pl.DataFrame, aside: SetAside) -> pl.DataFrame:
    if frame.schema["prompt"] == pl.String:
        message = pl.struct(role=pl.lit("user"), content="prompt")
        prompt = pl.when(pl.col("prompt").is_not_null()).then(pl.concat_list(message))
        frame = frame.with_columns(prompt=prompt.cast(PROMPT))
    role = pl.element().struct.field("role").str.to_lowercase().replace(ROLE_NAMES)
    frame = frame.with_columns(
        pl.col("prompt").list.eval(pl.struct(role.alias("role"), pl.element().struct.field("content"))).cast(PROMPT)
    )
    no_text = pl.element().struct.field("content").is_null() | pl.element().struct.field("role").is_null()
    empty = (pl.col("prompt").list.len() == 0) | pl.col("prompt").list.eval(no_text).list.any()
    frame = aside.drop(frame, empty, "empty_prompt")
    unknown = ~pl.element().struct.field("role").is_in(sorted(set(ROLE_NAMES.values())))
    return aside.drop(frame, pl.col("prompt").list.eval(unknown).list.any(), "wrong_role")


def _label(frame: pl.DataFrame, name: str) -> pl.Expr:
    if not (frame.schema["label"].is_numeric() or frame.schema["label"] in (pl.Boolean, pl.Null)):
        found = f"{frame.schema['label']}, such as {frame['label'].drop_nulls().head(1).to_list()}"
        raise DataError(f"{name}: column label is {found}, expected true/false or 0/1. Write it so.")
    return pl.col("label").cast(pl.Float64)


def _weight(frame: pl.DataFrame) -> pl.Expr:
    weight = pl.col("sample_weight").cast(pl.Float64) if "sample_weight" in frame.columns else pl.lit(1.0)
    return weight.alias("weight")


def _without_empty(
    frame: pl.DataFrame, columns: tuple[str, ...], name: str, config: RewardConfig, aside: SetAside
) -> pl.DataFrame:
    empty = pl.any_horizontal([pl.col(c).is_null() | (pl.col(c).str.strip_chars() == "") for c in columns])
    if config.on_empty_completion == "error" and (rows := frame.filter(empty)[ROW].to_list()):
        raise DataError(
            f"{name}: empty {' or '.join(columns)} in {len(rows)} of {len(frame)} rows (first: row {rows[0]}, counted "
            "from 0). Drop these rows, or set on_empty_completion: set_aside."
        )
    return aside.drop(frame, empty, "empty_reply")


def _split_implicit(frame: pl.DataFrame, name: str, aside: SetAside) -> pl.DataFrame:
    for column in ("chosen", "rejected"):
        if not isinstance(frame.schema[column], pl.List):
            raise DataError(
                f"{name}: no column prompt, and {column} is {frame.schema[column]}, not a conversation. Add it."
            )
    chosen, rejected = pl.col("chosen"), pl.col("rejected")
    head = chosen.list.slice(0, chosen.list.len() - 1)
    frame = aside.drop(frame, ~(head == rejected.list.slice(0, rejected.list.len() - 1)), "no_shared_prompt")
    return frame.with_columns(head.alias("prompt"), chosen.list.tail(1), rejected.list.tail(1))
