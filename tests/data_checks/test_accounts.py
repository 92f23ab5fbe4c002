"""The account of raw tables: records counted in the files against what stands in the published days."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from data_checks.accounts import account
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.ingesting import ingest
from rluf_assets.lake import Artifact, Lake

LOG = Path(__file__).parents[1] / "feedback" / "fixtures" / "cases" / "16" / "messages.csv"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    shutil.copy(LOG, tmp_path / "messages.csv")
    return Lake(str(tmp_path / "lake"))


def _ingest(lake: Lake, *days: int | None) -> dict[str, Artifact]:
    source = str(Path(lake.root).parent / "messages.csv")
    for day in days:
        when = date(2026, 5, day) if day else None
        ingest(Path(lake.root), IngestConfig(table="messages", source=source, day=when))
    return {day: lake.current("raw_messages", day) for day in lake.partitions("raw_messages")}


def test_days_of_one_file_add_up_in_any_order(lake: Lake) -> None:
    for order in ((None,), (4,), (4, 3)):
        shutil.rmtree(lake.root, ignore_errors=True)
        found = account(_ingest(lake, *order), "messages")
        assert found.wrong == () and found.records == 6 * found.days


def test_a_row_that_was_lost_or_is_there_twice_is_told(lake: Lake) -> None:
    days = _ingest(lake, None)
    path = Path(days["2026-05-04"].path("messages.parquet"))
    whole = pl.read_parquet(path)
    whole.head(1).write_parquet(path)
    assert account(days, "messages").wrong == ("2026-05-04: 6 in the files, 1 rows and 4 of other days",)
    pl.concat([whole, whole.head(1)]).write_parquet(path)
    wrong = account(days, "messages").wrong
    assert len(wrong) == 2 and wrong[1] == "2026-05-03 to 2026-05-04: 7 rows of a source that has 6"


def test_rows_without_a_time_must_stand_in_some_day(lake: Lake) -> None:
    days = _ingest(lake, None)
    later = {"2026-05-04": days["2026-05-04"]}
    assert account(later, "messages").wrong == (
        "2 rows of 2026-05-04 to 2026-05-04 have no time and stand in no day: materialise the first day",
    )
    # The log grows: its rows without a time are those that the first day has.
    log = Path(lake.root).parent / "messages.csv"
    log.write_text(log.read_text() + "c4,m7,0,user,more,u4,2026-05-05T10:00:00Z\n")
    grown = _ingest(lake, None)
    assert set(grown) == {"2026-05-03", "2026-05-04", "2026-05-05"} and account(grown, "messages").wrong == ()
