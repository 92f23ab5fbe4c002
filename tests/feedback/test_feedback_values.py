"""Values of a log in their usual spellings: numbers, times in any unit and zone, roles."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import MessagesLayout
from rluf_assets.feedback.values import as_integer, as_role, as_string, as_time, clocks_in

AT = datetime(2026, 5, 3, 10, 0, 5, tzinfo=UTC)


def test_numbers_of_any_kind() -> None:
    frame = pl.DataFrame({"t": ["1", "1.0", "true", "0.5", "x", None, "900", " 0 ", "FALSE"]})
    assert frame.select(t=as_integer(pl.col("t"), pl.String(), pl.Int8()))["t"].to_list() == [
        1, 1, 1, None, None, None, None, 0, 0,
    ]  # fmt: skip
    floats = pl.DataFrame({"t": [7.0, None, 7.5, float("nan"), 1e18]})
    assert floats.select(t=as_integer(pl.col("t"), pl.Float64(), pl.Int32()))["t"].to_list() == [
        7,
        None,
        None,
        None,
        None,
    ]
    assert floats.select(t=as_string(pl.col("t"), pl.Float64()))["t"].to_list()[:3] == ["7", None, "7.5"]


SPELLINGS = [
    "2026-05-03T10:00:05Z", "2026-05-03 10:00:05", "2026-05-03 10:00:05+00", "2026-05-03 10:00:05 UTC",
    "2026-05-03T12:00:05+0200", "2026-05-03 05:00:05 -05:00", "2026/05/03 10:00:05", "20260503T100005Z",
    "2026-05-03T10:00:05.000000000Z", "2026-05-03T10:00:05,000Z", "Sun, 03 May 2026 10:00:05 GMT", "1777802405",
    "1777802405000", "1777802405000000", "1777802405000000000", "1777802405.0", " 2026-05-03T10:00:05z ",
    '{"$date": "2026-05-03T10:00:05.000Z"}', '{"$date": {"$numberLong": "1777802405000"}}',
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_time_in_its_usual_spellings(text: str) -> None:
    assert pl.DataFrame({"t": [text]}).select(t=as_time(pl.col("t"), pl.String()))["t"].to_list() == [AT]


def test_times_without_seconds_in_parts_of_a_second_in_numbers_and_none() -> None:
    texts = ["2026-05-03 10:00", "1777802405.25", "noon", "05/04/2026 10:00", "2026-05-03", "", "7", "2026-13-01 10:00"]
    found = pl.DataFrame({"t": texts}).select(t=as_time(pl.col("t"), pl.String()))["t"].to_list()
    assert found[:2] == [AT.replace(second=0), AT.replace(microsecond=250_000)] and found[2:] == [None] * 6
    for number, dtype in ((1777802405, pl.Int32), (1777802405000, pl.Int64), (1777802405.0, pl.Float64),
                          (1777802405 * 10**9, pl.Int64)):  # fmt: skip
        series = pl.Series("t", [number, None], dtype=dtype)
        assert series.to_frame().select(t=as_time(pl.col("t"), series.dtype))["t"].to_list() == [AT, None]


@settings(max_examples=50, deadline=None)
@given(st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)))
def test_every_instant_comes_back_from_every_spelling(at: datetime) -> None:
    micros = round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000 + at.microsecond
    micros = (at - datetime(1970, 1, 1, tzinfo=UTC)) // (at.resolution)
    texts = [at.isoformat(), str(at), at.isoformat(" ").replace("+00:00", " UTC"), str(micros), str(micros * 1000)]
    found = pl.DataFrame({"t": texts}).select(t=as_time(pl.col("t"), pl.String()))["t"].to_list()
    fine = [at] * 3
    assert found[:3] == fine
    if micros >= 10**14:  # 1973 in microseconds; before it the number could be milliseconds
        assert found[3:] == [at, at]


def test_clocks_of_another_zone() -> None:
    def read(*texts: str) -> list[datetime | None]:
        frame = pl.DataFrame({"t": texts})
        return frame.select(t=as_time(pl.col("t"), pl.String()))["t"].to_list()

    with clocks_in("Europe/Berlin"):
        summer, zoned, twice, skipped = read(
            "2026-05-03 12:00:05", "2026-05-03T10:00:05Z", "2026-10-25 02:30", "2026-03-29 02:30"
        )
    assert summer == zoned == AT and skipped is None
    assert twice == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    with pytest.raises(ValueError, match="no such zone"):
        MessagesLayout(time_zone="Berlin")


def test_roles_in_their_usual_spellings() -> None:
    names = [
        "Human",
        "USER",
        " ai",
        "bot",
        "model",
        "gpt",
        "Assistant",
        "developer",
        "function",
        "ipython",
        "narrator",
        None,
    ]
    assert pl.DataFrame({"r": names}).select(as_role(pl.col("r")))["r"].to_list() == [
        "user", "user", "assistant", "assistant", "assistant", "assistant", "assistant", "system", "tool", "tool",
        "narrator", None,
    ]  # fmt: skip
