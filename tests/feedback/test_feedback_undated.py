"""Logs without times: one partition, declared policies, nothing invented; and texts that were cut on their way in."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from data_checks.checks import day_metrics
from data_checks.metrics import partition_metrics
from resources.build import build_resources
from resources.profiles import LoggedSettings, load_profile
from rluf_assets.errors import ConfigError
from rluf_assets.feedback.config import AdversarialConfig
from rluf_assets.feedback.schemas import TIME
from rluf_assets.feedback.splits import user_table
from rluf_assets.lake import Lake, Produced, publish
from tests.feedback.logs import SIGNALS, clean_logs, validated

UNDATED = """
profile: real
production:
  {kind: logged, data: DATA, dated: false, first_day: 2026-01-01, messages: logs/m.jsonl, reactions: logs/r.jsonl,
   preferences: {}}
validated_replies: {time: none, exposure: all_shown}
"""


def test_a_source_without_times_is_one_partition_and_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "rluf.yaml").write_text(UNDATED.replace("DATA", str(tmp_path / "elsewhere")))
    profile = load_profile(tmp_path)
    assert (profile.first_day, profile.end_day) == ("2026-01-01", "2026-01-02")
    work = build_resources(profile, tmp_path)["production"].logs(None, "messages", "2026-01-01")
    assert work.config.day is None
    assert work.config.source == str(tmp_path / "elsewhere" / "logs" / "m.jsonl")


def test_relative_paths_lie_in_the_home_folder_where_nothing_else_is_said(tmp_path: Path) -> None:
    (tmp_path / "rluf.yaml").write_text(UNDATED.replace("data: DATA, ", ""))
    production = build_resources(load_profile(tmp_path), tmp_path)["production"]
    assert production.messages == str(tmp_path / "logs" / "m.jsonl")


@pytest.mark.parametrize(("dated", "time"), [("true", "none"), ("false", "logged")])
def test_dated_and_time_must_agree(tmp_path: Path, dated: str, time: str) -> None:
    text = UNDATED.replace("dated: false", f"dated: {dated}").replace("time: none", f"time: {time}")
    (tmp_path / "rluf.yaml").write_text(text)
    with pytest.raises(ConfigError, match="a source without times has dated: false and time: none"):
        load_profile(tmp_path)


def test_checks_name_the_partition_of_a_source_without_times(tmp_path: Path) -> None:
    nothing = pl.lit(None, TIME)
    messages, reactions = clean_logs()
    messages, reactions = messages.with_columns(created_at=nothing), reactions.with_columns(reacted_at=nothing)
    log = validated(messages, reactions, time="none", exposure="all_shown")
    lake = Lake(str(tmp_path))
    folder = Path(lake.folder("validated_replies", "2026-01-01", "f"))
    folder.mkdir(parents=True)
    partition_metrics(log, SIGNALS, None).write_parquet(folder / "metrics.parquet")
    lake.set_current("validated_replies", "2026-01-01", publish(str(folder), fingerprint="f", produced=Produced()))
    judged = day_metrics(lake, ["2026-01-01"], ["2026-01-01"])
    assert judged.height == 1 and str(judged["day"][0]) == "2026-01-01"
    assert judged["replies"][0] == log.replies.height > 0


def test_users_whose_task_was_to_mark_are_not_adversarial() -> None:
    replies = validated(*clean_logs(love_rate=1.0, users_per_day=3, max_turns=30)).replies.lazy()
    assert user_table(replies, AdversarialConfig(min_shown=5))[1].height
    assert user_table(replies, AdversarialConfig(min_shown=5, enabled=False))[1].is_empty()


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("The elderly guy isn'<span class=", "cut_markup"),
        ('see <a href="x" title="half', "cut_markup"),
        ("if a <b class", None),
        ('write <span class="x"> to open it, a<b and c=', None),
    ],
)
def test_text_cut_inside_a_tag_is_set_aside(text: str, defect: str | None) -> None:
    messages, reactions = clean_logs()
    nth = messages.with_row_index().filter(pl.col("role") == "assistant")["index"][0]
    cut = messages.with_columns(content=pl.when(pl.int_range(pl.len()) == nth).then(pl.lit(text)).otherwise("content"))
    named = validated(cut, reactions).quarantine.filter(pl.col("table") == "messages")["defect"].to_list()
    assert named == ([defect] if defect else [])


def test_settings_of_a_logged_production_need_no_folder_of_tests() -> None:
    settings = LoggedSettings(kind="logged", first_day="2026-01-01", messages="m", reactions="r", preferences={})
    assert settings.past_launches is None and settings.ab_exposures is None
