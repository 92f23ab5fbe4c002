"""Labelled replies and preference pairs as frames that training can trust.

Reads TRL's conversational formats (Parquet or JSON lines; plain strings too), brings them to one form and refuses what
would spoil a model silently: empty files, one class only, missing columns, NaN labels, empty replies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import DataError
from rluf_assets.rewards.config import RewardConfig

MESSAGE = pl.Struct({"role": pl.String, "content": pl.String})
PROMPT = pl.List(MESSAGE)
LABELLED = ("prompt", "completion", "label")
PAIRED = ("prompt", "chosen", "rejected")
NAMED_ROWS = 5


def read_table(path: str | Path) -> pl.DataFrame:
    """A Parquet, JSON-lines (plain or gzip) file as a frame. Raises DataError if it cannot be read or has no rows."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file. Give the path of a Parquet or JSON-lines file.")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif path.stat().st_size == 0:
            frame = pl.DataFrame()
        else:
            frame = pl.read_ndjson(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: expected Parquet or JSON lines, found {str(error).splitlines()[0]!r}.") from error
    if frame.is_empty():
        raise DataError(f"{path}: the file has no rows; a reward model needs some.")
    return frame


def labelled_rows(frame: pl.DataFrame, name: str, config: RewardConfig) -> pl.DataFrame:
    """Rows for P[signal]: prompt (list of messages), completion (text), label (0-1), weight; other columns are kept.

    Raises DataError if a column is missing, a label is NaN or no label, a weight is negative, a reply is empty, or only
    one class is there.
    """
    _require(frame, LABELLED, name)
    frame = _with_prompt(frame, name)
    frame = frame.with_columns(
        _reply("completion", frame, name), _label(frame, name, config.soft_labels), _weight(frame)
    )
    bad_weight = ~(pl.col("weight").is_finite() & (pl.col("weight") >= 0)).fill_null(False)
    _refuse(frame, bad_weight, name, "sample_weight is not a finite number of at least 0", "Mend or drop these rows")
    frame = _without_empty(frame, ("completion",), name, config)
    if frame["label"].min() == frame["label"].max():
        raise DataError(
            f"{name}: all {len(frame)} labels are {frame['label'][0]:g}; a classifier needs both classes. "
            "Check the signal's name and the sampling."
        )
    return frame


def pair_rows(frame: pl.DataFrame, name: str, config: RewardConfig) -> pl.DataFrame:
    """Rows for Bradley-Terry: prompt, chosen and rejected (texts), margin; pairs of equal texts are dropped.

    TRL's implicit prompts (no `prompt` column; chosen and rejected are whole conversations) are split at the last.
    Raises DataError as `labelled_rows` does.
    """
    if "prompt" not in frame.columns:
        _require(frame, PAIRED[1:], name)
        frame = _split_implicit(frame, name)
    _require(frame, PAIRED, name)
    frame = _with_prompt(frame, name)
    frame = frame.with_columns(_reply("chosen", frame, name), _reply("rejected", frame, name))
    if config.use_margin:
        _require(frame, ("margin",), name)
        _refuse(frame, ~pl.col("margin").is_finite().fill_null(False), name, "margin is no number", "Mend or drop them")
    else:
        frame = frame.with_columns(margin=pl.lit(0.0))
    frame = _without_empty(frame, ("chosen", "rejected"), name, config)
    frame = frame.filter(pl.col("chosen") != pl.col("rejected"))
    if frame.is_empty():
        raise DataError(f"{name}: chosen equals rejected in every pair; there is nothing to learn. Check the columns.")
    return frame


def normal_prompts(frame: pl.DataFrame, name: str) -> tuple[list[list[Message]], list[str]]:
    """Prompts and replies of a file to score, in its order. Empty replies have a score; null ones are refused."""
    _require(frame, LABELLED[:2], name)
    frame = _with_prompt(frame, name)
    frame = frame.with_columns(_reply("completion", frame, name))
    _refuse(frame, pl.col("completion").is_null(), name, "completion is null", "Drop these rows")
    return frame["prompt"].to_list(), frame["completion"].to_list()


def limit_rows(frame: pl.DataFrame, max_rows: int, seed: int) -> pl.DataFrame:
    """A seeded uniform sample of at most `max_rows`, in the frame's order: rates stay what they are."""
    if len(frame) <= max_rows:
        return frame
    kept = np.sort(np.random.default_rng(seed).choice(len(frame), max_rows, replace=False))
    return frame[kept]


def split_validation(frame: pl.DataFrame, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (rows,) of the training and the validation rows, which share no user (else conversation, else first message).

    Validation rows are the last `share` of the period, of users first seen in it: calibration is fitted on what comes
    after training, as it will be used. Rows of that time from users seen before are in neither. Rows without times are
    split by users alone.
    """
    column = next((c for c in ("user_id", "conversation_id") if c in frame.columns), None)
    groups = (frame[column] if column else frame["prompt"].list.first().struct.field("content")).fill_null("")
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


def times_of(frame: pl.DataFrame) -> pl.Series | None:
    """Column `created_at` as UTC times (null where it is none), or None without such a column."""
    if "created_at" not in frame.columns:
        return None
    times = frame["created_at"]
    if times.dtype == pl.String:
        return times.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    if not isinstance(times.dtype, pl.Datetime):
        return None
    times = times.cast(pl.Datetime("us", times.dtype.time_zone))
    return times.dt.replace_time_zone("UTC") if times.dtype.time_zone is None else times.dt.convert_time_zone("UTC")


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
    """Column `label` alone, checked as `labelled_rows` does, float64 (rows,): other columns are not read."""
    columns = frame.collect_schema().names()
    _require_columns(columns, LABELLED, name)
    labels = frame.select("label").collect(engine="streaming")
    if labels.is_empty():
        raise DataError(f"{name}: no rows; a reward model needs some.")
    return labels.select(_label(labels, name, config.soft_labels)).to_series().to_numpy()


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


def _refuse(frame: pl.DataFrame, bad: pl.Expr, name: str, found: str, remedy: str) -> None:
    rows = frame.select(pl.arg_where(bad)).to_series()
    if len(rows):
        shown = ", ".join(str(row) for row in rows[:NAMED_ROWS])
        raise DataError(f"{name}: {found} in {len(rows)} of {len(frame)} rows (row {shown}, counted from 0). {remedy}.")


def _with_prompt(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    kind = frame.schema["prompt"]
    if kind == pl.String:
        message = pl.struct(role=pl.lit("user"), content="prompt")
        return frame.with_columns(prompt=pl.when(pl.col("prompt").is_not_null()).then(pl.concat_list(message)))
    if not (isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct)):
        raise DataError(f"{name}: column prompt is {kind}, expected text or a list of messages {{role, content}}.")
    fields = {field.name for field in kind.inner.fields}
    if not {"role", "content"} <= fields:
        raise DataError(f"{name}: messages of column prompt have {sorted(fields)}, expected role and content.")
    frame = frame.with_columns(pl.col("prompt").list.eval(_message()).cast(PROMPT))
    no_text = (pl.col("prompt").list.len() == 0) | pl.col("prompt").list.eval(
        pl.element().struct.field("content").is_null() | pl.element().struct.field("role").is_null()
    ).list.any()
    _refuse(
        frame, no_text.fill_null(True), name, "the prompt is empty or has a message without text", "Mend or drop them"
    )
    return frame


def _message() -> pl.Expr:
    return pl.struct(pl.element().struct.field("role"), pl.element().struct.field("content"))


def _reply(column: str, frame: pl.DataFrame, name: str) -> pl.Expr:
    kind = frame.schema[column]
    if kind == pl.String:
        return pl.col(column)
    if isinstance(kind, pl.List) and isinstance(kind.inner, pl.Struct):
        _refuse(
            frame, pl.col(column).list.len() != 1, name, f"{column} is not exactly one message", "Mend or drop them"
        )
        return pl.col(column).list.first().struct.field("content").alias(column)
    raise DataError(f"{name}: column {column} is {kind}, expected text or a list with one assistant message.")


def _label(frame: pl.DataFrame, name: str, soft: bool) -> pl.Expr:
    if not (frame.schema["label"].is_numeric() or frame.schema["label"] == pl.Boolean):
        raise DataError(f"{name}: column label is {frame.schema['label']}, expected true/false or 0/1.")
    label = pl.col("label").cast(pl.Float64)
    _refuse(frame, (label.is_nan() | label.is_null()), name, "label is NaN or null", "Drop pending rows first")
    good, expected = (label.is_between(0, 1), "from 0 to 1") if soft else (label.is_in([0.0, 1.0]), "0 or 1")
    _refuse(frame, ~good, name, f"label is not {expected}", "Map the labels, or set soft_labels for shares")
    return label


def _weight(frame: pl.DataFrame) -> pl.Expr:
    weight = pl.col("sample_weight").cast(pl.Float64) if "sample_weight" in frame.columns else pl.lit(1.0)
    return weight.alias("weight")


def _without_empty(frame: pl.DataFrame, columns: tuple[str, ...], name: str, config: RewardConfig) -> pl.DataFrame:
    empty = pl.any_horizontal([pl.col(c).is_null() | (pl.col(c).str.strip_chars() == "") for c in columns])
    if config.on_empty_completion == "error":
        remedy = "Drop these rows, or set on_empty_completion: drop"
        _refuse(frame, empty, name, f"empty {' or '.join(columns)}", remedy)
    return frame.filter(~empty)


def _split_implicit(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    for column in ("chosen", "rejected"):
        if not isinstance(frame.schema[column], pl.List):
            raise DataError(
                f"{name}: no column prompt, and {column} is {frame.schema[column]}, not a conversation. Add it."
            )
    chosen, rejected = pl.col("chosen"), pl.col("rejected")
    head = chosen.list.slice(0, chosen.list.len() - 1)
    same = head == rejected.list.slice(0, rejected.list.len() - 1)
    _refuse(frame, ~same.fill_null(False), name, "chosen and rejected do not share their prompt", "Add a prompt column")
    return frame.with_columns(head.alias("prompt"), chosen.list.tail(1), rejected.list.tail(1))
