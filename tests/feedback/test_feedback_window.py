"""Which days a day is judged beside, when its labels are final, and what marks without a time mean in a log of days."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from rluf_assets.assets import reaction_logs
from rluf_assets.errors import ConfigError
from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.contract import validate
from rluf_assets.feedback.schemas import empty
from rluf_assets.lake import Lake, Produced, publish
from tests.feedback.logs import START, clean_logs, day_of

DAY = START.date()


def _bring(lake: Lake, table: str, day: date, rows: pl.DataFrame) -> None:
    folder = Path(lake.folder(f"raw_{table}", day.isoformat(), "f"))
    folder.mkdir(parents=True)
    rows.write_parquet(folder / f"{table}.parquet")
    made = publish(str(folder), fingerprint="f", produced=Produced(rows={table: rows.height}))
    lake.set_current(f"raw_{table}", day.isoformat(), made)


def _lake(tmp_path: Path, messages: list[int], reactions: list[int], rows: int = 1) -> Lake:
    """A lake with one row in each of some days of both tables."""
    lake, logs = Lake(str(tmp_path)), dict(zip(("messages", "reactions"), clean_logs(), strict=True))
    for table, days in (("messages", messages), ("reactions", reactions)):
        for nth in days:
            _bring(lake, table, DAY + timedelta(days=nth), logs[table].head(rows))
    return lake


def _until(lake: Lake, window_days: int) -> int:
    """How many days after the day its reactions are known."""
    there = {table: set(lake.partitions(f"raw_{table}")) for table in ("messages", "reactions")}
    known = reaction_logs._known_until(lake, DAY, there, window_days)
    assert known.time().isoformat() == "00:00:00"
    return (known.date() - DAY).days - 1


@pytest.mark.parametrize(
    ("messages", "reactions", "window_days", "known"),
    [
        ([0, 1], [0, 1], 1, 1),
        ([0, 1], [0], 1, 0),  # the reactions of the day after came late: silence is no silence yet
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 3, 3),  # a window of three days closes
        ([0, 1, 2, 3, 4], [0, 1, 3, 4], 3, 1),  # and does not over a gap
        ([0], [0], 1, 0),
    ],
)
def test_a_reply_is_known_as_far_as_reactions_are_in(
    messages: list[int], reactions: list[int], window_days: int, known: int, tmp_path: Path
) -> None:
    assert _until(_lake(tmp_path, messages, reactions), window_days) == known


def test_empty_days_behind_the_end_of_a_log_close_no_window(tmp_path: Path) -> None:
    lake = _lake(tmp_path, [0], [0])
    for table in ("messages", "reactions"):
        for nth in (1, 2):
            _bring(lake, table, DAY + timedelta(days=nth), empty(table))
    assert _until(lake, 1) == 0


def test_a_window_of_three_days_matures_and_reads_late_reactions() -> None:
    messages, _ = clean_logs(days=1, seed=3)
    reply = messages.filter(pl.col("role") == "assistant").row(0, named=True)
    love = pl.DataFrame(
        [{"reaction_id": "l", "message_id": reply["message_id"], "user_id": reply["user_id"], "signal": "love", "value": 1,
          "reacted_at": reply["created_at"] + timedelta(hours=60)}], schema=dict(empty("reactions").schema),
    )  # fmt: skip
    for days, status in ((2, "pending"), (4, "mature")):
        config = ContractConfig(
            signals=("love",),
            day=DAY,
            attribution_window_h=72,
            as_of=START + timedelta(days=days),
            exposure="all_shown",
        )
        today = day_of(messages, "created_at", DAY)
        log = validate(today, empty("reactions").lazy(), config, next_reactions=love.lazy())
        assert set(log.replies["status"]) == {status}
        found = log.replies.filter(message_id=reply["message_id"])["label_love"].item()
        assert found == (1 if status == "mature" else None)


def test_a_dated_log_of_undated_marks_is_refused_until_they_are_declared(tmp_path: Path) -> None:
    lake = _lake(tmp_path, [0], [0])
    reaction_logs._refuse_undated(lake)
    _, reactions = clean_logs()
    _bring(
        lake,
        "reactions",
        DAY + timedelta(days=1),
        reactions.with_columns(reacted_at=pl.lit(None, pl.Datetime("us", "UTC"))),
    )
    with pytest.raises(
        ConfigError, match=r"undated_reactions is not set, and \d+ of \d+ reactions have no time.*at_message"
    ):
        reaction_logs._refuse_undated(lake)


def test_undated_marks_of_a_file_of_many_days_count_with_the_day_of_their_message() -> None:
    messages, reactions = clean_logs(days=2, seed=5)
    undated = reactions.with_columns(reacted_at=pl.lit(None, pl.Datetime("us", "UTC")))
    loved = set(undated.filter(signal="love")["message_id"])
    found = {}
    for nth in range(2):
        day = DAY + timedelta(days=nth)
        config = ContractConfig(signals=("love", "thumbs_down"), day=day, undated_reactions="at_message")
        own = undated.lazy() if nth == 0 else empty("reactions").lazy()  # they are kept with the first day
        later = None if nth == 0 else undated.lazy()
        log = validate(day_of(messages, "created_at", day), own, config, next_reactions=later)
        found |= dict(log.replies.select("message_id", "label_love").iter_rows())
        assert log.accounting.reactions_quarantined == log.accounting.reactions_faultless
    assert {name for name, label in found.items() if label} == loved
    assert None not in found.values()
