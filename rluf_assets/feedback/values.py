"""How a source spells times, numbers, yes and no, roles and texts -> the canonical types, as Polars expressions.

What cannot be read becomes null, which the row contract names: a value costs its row, not the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import polars as pl

TIME = pl.Datetime("us", "UTC")
ROLE_NAMES = {
    **dict.fromkeys(("user", "human", "humanmessage", "customer", "prompter", "end_user", "enduser"), "user"),
    **dict.fromkeys(
        ("assistant", "ai", "aimessage", "aimessagechunk", "bot", "chatbot", "model", "gpt", "chatgpt", "bing"),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer", "systemmessage"), "system"),
    **dict.fromkeys(
        ("tool", "function", "tool_call", "tool_calls", "tool_result", "tool_response", "toolmessage", "function_call",
         "functionmessage", "ipython", "observation"), "tool",
    ),
}  # fmt: skip
# ISO 8601 and its usual departures: a space for the T, a slash, no seconds, a comma, UTC or +00 for the zone.
_ISO = (
    r"^(?<y>\d{4})[-/](?<m>\d\d)[-/](?<d>\d\d)[T ]\s*(?<hm>\d\d:\d\d)(?<s>:\d\d)?(?<f>[.,]\d+)?"
    r"\s*(?<z>Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?$"
)
_BASIC = r"^(?<y>\d{4})(?<m>\d\d)(?<d>\d\d)T(?<h>\d\d)(?<mi>\d\d)(?<s>\d\d)(?<f>\.\d+)?(?<z>Z|[+-]\d\d:?\d\d)?$"
_MAIL = ("%a, %d %b %Y %H:%M:%S %z", "%d %b %Y %H:%M:%S %z")
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_YES, _NO = ["true", "t", "yes", "y", "on"], ["false", "f", "no", "n", "off"]
# Kinds of the typed parts that a message's content may be a list of.
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_OTHER_PARTS = re.compile(
    r"image|audio|video|file|document|tool|function|thinking|reasoning|search|citation|media|artifact|resource"
)

# OpenAI's field for what a model says when it declines; `content` is null then.
REFUSAL = "refusal"
# A message's fields that say which tools it calls.
CALLS = ("tool_calls", "function_call")
_TOOL_PART = r'^\s*(\{"content":)?\s*[\[{][\s\S]*"type"\s*:\s*"(tool|function)'
_TEXT_PART = r'"type"\s*:\s*"((input_|output_)?text|refusal)"'

_ZONE: ContextVar[str] = ContextVar("zone", default="UTC")


@contextmanager
def clocks_in(zone: str) -> Iterator[None]:
    """Times without a zone are those of clocks in this one."""
    token = _ZONE.set(zone)
    try:
        yield
    finally:
        _ZONE.reset(token)


def as_time(column: pl.Expr, found: pl.DataType) -> pl.Expr | None:
    """Instants in UTC; times without a zone are read as `clocks_in` says. None: a column of this type holds no times."""
    zone = _ZONE.get()
    if isinstance(found, pl.Datetime):
        if found.time_zone:
            return column.dt.convert_time_zone("UTC").cast(TIME)
        return _local(column, zone).cast(TIME)
    if found.is_numeric():
        return _epoch(column, whole=found.is_integer())
    if found == pl.String:
        return _read_time(column, zone)
    if isinstance(found, pl.Struct):  # MongoDB's {"$date": ...}
        return _read_time(column.struct.json_encode(), zone)
    return None


def as_integer(column: pl.Expr, found: pl.DataType, expected: pl.DataType) -> pl.Expr | None:
    """Whole numbers, however written (1, 1.0, "1", true); out of range or in between is null."""
    if found.is_integer() or found == pl.Boolean:
        return column.cast(expected, strict=False)
    number = as_float(column, found)
    if number is None:
        return None
    return pl.when(number == number.round(0)).then(number).cast(pl.Int64, strict=False).cast(expected, strict=False)


def as_float(column: pl.Expr, found: pl.DataType) -> pl.Expr | None:
    """Numbers; NaN and infinity say nothing."""
    if found.is_numeric() or found == pl.Boolean:
        number = column.cast(pl.Float64, strict=False)
    elif found == pl.String:
        word = column.str.strip_chars().str.to_lowercase()
        yes, no = word.is_in(_YES), word.is_in(_NO)
        number = pl.when(yes).then(1.0).when(no).then(0.0).otherwise(word.cast(pl.Float64, strict=False))
    else:
        return None
    return pl.when(number.is_finite()).then(number)


def as_boolean(column: pl.Expr, found: pl.DataType) -> pl.Expr | None:
    """Yes and no, in words or as 1 and 0; anything else is null."""
    number = as_float(column, found)
    return None if number is None else pl.when(number.is_in([0.0, 1.0])).then(number == 1.0)


def as_string(column: pl.Expr, found: pl.DataType) -> pl.Expr | None:
    """Text as it is; a whole float (an id in a column with gaps) without its point."""
    if found == pl.String:
        return column
    if found.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return pl.when(whole.cast(pl.Float64) == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
    if found.is_integer() or found in (pl.Categorical, pl.Enum, pl.Boolean) or found.is_decimal():
        return column.cast(pl.String)
    return None


def as_content(column: pl.Expr, found: pl.DataType) -> pl.Expr | None:
    """A message's text; of a list of typed parts, logged as such or as JSON, the text parts joined."""
    if found == pl.List(pl.String):
        return column.list.join("")
    if isinstance(found, pl.List | pl.Struct):
        wrapped = pl.struct(value=column).struct.json_encode()
        return wrapped.map_batches(_text_of_wrapped, return_dtype=pl.String, is_elementwise=True)
    text = as_string(column, found)
    return None if text is None else text.map_batches(_text_of_parts, return_dtype=pl.String, is_elementwise=True)


def or_refusal(content: pl.Expr, found: pl.DataType, refusal: pl.Expr) -> pl.Expr:
    """A message's content as logged, or where it has none the text of its refusal: the user read that."""
    if found == pl.Null:
        return refusal
    text = content if found == pl.String else as_content(content, found)
    if text is None:
        return content
    return pl.when((text.str.strip_chars() != "").fill_null(False)).then(text).otherwise(pl.coalesce(refusal, text))


def as_role(column: pl.Expr) -> pl.Expr:
    """user, assistant, system or tool, from the usual spellings; any other word as it is."""
    name = column.str.strip_chars()
    return name.str.to_lowercase().replace_strict(ROLE_NAMES, default=name, return_dtype=pl.String)


def as_speaker(
    role: pl.Expr, content: tuple[pl.Expr, pl.DataType], calls: Iterable[tuple[pl.Expr, pl.DataType]]
) -> pl.Expr:
    """The role, from the usual spellings; `tool` where a message calls tools, or holds what they gave, and says nothing.

    `content` and `calls` (`CALLS`): columns as logged, with their types.
    """
    text, dtype = content
    if isinstance(dtype, pl.List | pl.Struct):
        text = pl.struct(text).struct.json_encode()
    silent = text.is_null() if dtype != pl.String else (text.str.strip_chars() == "").fill_null(True)
    called = pl.any_horizontal(pl.lit(False), *(_is_call(*one) for one in calls))
    in_parts = pl.lit(False)
    if isinstance(dtype, pl.List | pl.Struct | pl.String):
        in_parts = text.str.contains(_TOOL_PART) & ~text.str.contains(_TEXT_PART)
    tool = (silent & called) | in_parts.fill_null(False)
    named = as_role(role)
    return pl.when(tool & named.is_in(["assistant", "user"])).then(pl.lit("tool")).otherwise(named)


def _is_call(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    if isinstance(found, pl.List):
        return (column.list.len() > 0).fill_null(False)
    if isinstance(found, pl.Struct):
        return pl.any_horizontal(column.struct.field(one.name).is_not_null() for one in found.fields)
    if found == pl.String:
        return (~column.str.strip_chars().is_in(["", "null", "[]", "{}"])).fill_null(False)
    return pl.lit(False)


def text_of_parts(value: Any) -> str | None:
    """The text parts of a list of typed parts (or of one part), joined; None where none of them is text."""
    parts = value if isinstance(value, list) else [value]
    texts = [part if isinstance(part, str) else _text_of_part(part) for part in parts]
    said = [text for text in texts if text]
    return "".join(said) if said else None


def _text_of_part(part: dict[str, Any]) -> str | None:
    if not isinstance(part, dict) or part.get("type", "text") not in TEXT_PARTS:
        return None
    text = part.get("text", part.get(REFUSAL, part.get("content")))
    text = text.get("value") if isinstance(text, dict) else text  # OpenAI's threads
    return text if isinstance(text, str) else None


def _is_parts(value: Any) -> bool:
    """Whether these are typed parts: each says its kind, and one of the kinds is known (tools invent their own beside)."""
    parts = value if isinstance(value, list) else [value]
    named = all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts)
    return named and any(_is_typed(part) for part in parts)


def _is_typed(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and (kind in TEXT_PARTS or _OTHER_PARTS.search(kind) is not None)


def _text_of_parts(texts: pl.Series) -> pl.Series:
    """Where a text is the JSON of typed parts, what they say."""
    suspects = texts.str.contains(r'^\s*[\[{][\s\S]*"type"').fill_null(False).arg_true()
    if suspects.is_empty():
        return texts
    said = []
    for text in texts[suspects]:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        said.append(text_of_parts(value) if _is_parts(value) else text)
    return texts.scatter(suspects, pl.Series(said, dtype=pl.String))


def _text_of_wrapped(texts: pl.Series) -> pl.Series:
    values = [None if text is None else json.loads(text)["value"] for text in texts]
    return pl.Series(texts.name, [None if one is None else text_of_parts(one) for one in values], dtype=pl.String)


def _read_time(column: pl.Expr, zone: str) -> pl.Expr:
    def read(texts: pl.Series) -> pl.Series:
        """Plain ISO first, which is quick; what is left is looked at closely."""
        zoned = pl.when(pl.col("t").str.contains(r"(Z|[+-]\d\d:\d\d)$")).then("t")
        plain = zoned.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
        frame = texts.alias("t").to_frame()
        times = frame.select(t=plain).to_series()
        rest = (times.is_null() & texts.is_not_null()).arg_true()
        if not rest.is_empty():
            times = times.scatter(rest, frame[rest].select(t=_spelled(pl.col("t"), zone)).to_series())
        return times.alias(texts.name)

    return column.map_batches(read, return_dtype=TIME, is_elementwise=True)


def _spelled(column: pl.Expr, zone: str) -> pl.Expr:
    text = column.str.strip_chars()
    dated = text.str.extract(r'"\$date"\s*:\s*(?:\{\s*"\$numberLong"\s*:\s*)?"?([^"}]+)')
    text = pl.coalesce(dated, text)
    iso, basic = text.str.extract_groups(_ISO).struct, text.str.extract_groups(_BASIC).struct
    day = [pl.lit("-"), iso.field("m"), pl.lit("-"), iso.field("d"), pl.lit("T"), iso.field("hm")]
    clock = pl.concat_str(
        iso.field("y"), *day, iso.field("s").fill_null(":00"), iso.field("f").str.replace(",", ".").fill_null("")
    )
    parts = {name: basic.field(name) for name in ("y", "m", "d", "h", "mi", "s")}
    basic_clock = pl.concat_str(pl.format("{}-{}-{}T{}:{}:{}", *parts.values()), basic.field("f").fill_null(""))
    clock = pl.coalesce(clock, basic_clock)
    offset = pl.coalesce(iso.field("z"), basic.field("z"))
    digits = offset.str.extract(r"^([+-]\d\d)").fill_null("+00") + ":" + offset.str.extract(r"(\d\d)$").fill_null("00")
    minutes = pl.when(offset.str.len_chars() <= 3).then(offset.str.extract(r"^([+-]\d\d)") + ":00").otherwise(digits)
    zoned = pl.concat_str(clock, minutes.fill_null("+00:00")).str.to_datetime(
        "%+", time_unit="us", time_zone="UTC", strict=False
    )
    naive = _local(clock.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False), zone).cast(TIME)
    number = pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)
    whole = pl.when(text.str.contains(r"^\d+$")).then(text).cast(pl.Int64, strict=False)
    epoch = pl.coalesce(_epoch(whole, whole=True), _epoch(number, whole=False))
    mail = [text.str.replace(r"(GMT|UTC|Z)$", "+0000").str.to_datetime(form, time_unit="us", strict=False)
            .dt.convert_time_zone("UTC") for form in _MAIL]  # fmt: skip
    return pl.coalesce(pl.when(offset.is_null()).then(naive).otherwise(zoned), epoch, *mail).cast(TIME)


def _local(naive: pl.Expr, zone: str) -> pl.Expr:
    """A clock's times as instants. An hour that the clock shows twice is taken at its first; one it skips is null."""
    if zone == "UTC":
        return naive.dt.replace_time_zone("UTC")
    zoned = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return zoned.dt.convert_time_zone("UTC")


def _epoch(number: pl.Expr, *, whole: bool) -> pl.Expr:
    """Instants of seconds, milliseconds, microseconds or nanoseconds since 1970, by how large they are.

    A number below that of 1973 in seconds is a year, a day or a counter, and no instant.
    """
    number = number.cast(pl.Int64) if whole else number
    size = number.abs()
    # 1e11 seconds are the year 5138, 1e11 milliseconds are 1973: below it is seconds, and so on up.
    micros = (
        pl.when(size < 1e8).then(None)
        .when(size < 1e11).then(number * 1_000_000)
        .when(size < 1e14).then(number * 1_000)
        .when(size < 1e17).then(number)
        .otherwise(number // 1_000)
    )  # fmt: skip
    return micros.cast(pl.Float64, strict=False).round(0).cast(pl.Int64, strict=False).cast(TIME)
