"""The played logs: same bytes, believable rates, defects that can be found."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from rluf_assets.lake import Produced, content_hash
from rluf_assets.simulation import truth
from rluf_assets.simulation.config import SimulationConfig
from rluf_assets.simulation.production import play_production
from rluf_assets.simulation.topics import USE_CASES
from tests.simulation.conftest import CONFIG

Store = tuple[Path, Produced]


def test_same_seed_same_bytes_and_other_seed_other_text(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"days": 2, "replies_per_day": 1_000})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        play_production(config, seed, tmp_path / name)
    assert content_hash(str(tmp_path / "a")) == content_hash(str(tmp_path / "b"))
    assert content_hash(str(tmp_path / "a")) != content_hash(str(tmp_path / "c"))


def test_a_day_does_not_depend_on_the_days_after_it(store: Store, tmp_path: Path) -> None:
    play_production(CONFIG.model_copy(update={"days": 3}), 0, tmp_path)
    for table in ("messages", "reactions"):
        assert len(list((tmp_path / table).iterdir())) == 3
        for file in (tmp_path / table).rglob("*.parquet"):
            assert file.read_bytes() == (store[0] / file.relative_to(tmp_path)).read_bytes()


def test_partitions_hold_their_own_day_in_canonical_columns(messages: pl.DataFrame, reactions: pl.DataFrame) -> None:
    for frame, column in ((messages, "created_at"), (reactions, "reacted_at")):
        assert frame.schema[column] == pl.Datetime("us", "UTC")
        assert (frame[column].dt.date() == frame["date"].cast(pl.Date)).all()
        days = frame["date"].cast(pl.Date).unique().sort().to_list()
        assert days == [CONFIG.start_date + timedelta(days=n) for n in range(CONFIG.days)]
    assert messages.schema["turn_index"] == pl.Int32
    assert reactions.schema["value"] == pl.Int8
    assert set(messages["role"].unique()) == {"user", "assistant"}


def test_traffic_is_as_asked_and_varied(store: Store, messages: pl.DataFrame) -> None:
    replies = messages.filter(pl.col("role") == "assistant")
    assert 0.75 < len(replies) / (CONFIG.days * CONFIG.replies_per_day) < 1.25
    assert set(replies["use_case"].unique()) == set(USE_CASES)
    turns = replies.unique("message_id").group_by("conversation_id").len()["len"]
    assert turns.min() == 1
    assert turns.max() == 12
    assert 3 < float(turns.mean() or 0) < 5
    first_seen = replies.group_by("user_id").agg(pl.col("created_at").min().dt.date().alias("day"))
    assert (first_seen.group_by("day").len()["len"] > 100).all()  # new users every day
    assert 0.005 < store[1].metrics["farewell_rate"] < 0.011
    versions = replies.group_by("policy_version").agg(pl.col("created_at").dt.date().min())
    assert sorted(versions["policy_version"]) == ["assistant-1.4", "assistant-1.5"]
    assert versions["created_at"].max() == CONFIG.start_date + timedelta(days=CONFIG.policy_change_day)
    assert 0.01 < 1 - replies["reactions_shown"].mean() < 0.05


def test_a_user_message_comes_before_its_reply(messages: pl.DataFrame) -> None:
    wide = messages.unique("message_id").pivot(
        on="role", index=["conversation_id", "turn_index"], values="created_at", aggregate_function="first"
    )
    both = wide.drop_nulls()
    assert len(both) > 0.99 * len(wide)  # at most what crossed the last midnight
    assert (both["user"] < both["assistant"]).all()


def test_signals_at_their_natural_rates(messages: pl.DataFrame, reactions: pl.DataFrame) -> None:
    replies = messages.filter(pl.col("role") == "assistant").height
    rates = dict(reactions.filter(pl.col("value") == 1).group_by("signal").len().iter_rows())
    assert set(rates) == set(truth.SIGNALS)
    bands = {
        "love": (6e-4, 2.6e-3), "thumbs_up": (4e-3, 1e-2), "thumbs_down": (1.5e-3, 5e-3), "copy": (0.02, 0.05),
        "regenerate": (0.01, 0.04),
    }  # fmt: skip
    for signal, (low, high) in bands.items():
        assert low < rates[signal] / replies < high, signal
    revoked = reactions.filter(pl.col("value") == 0)
    assert 0.005 < len(revoked) / len(reactions) < 0.05
    delays = reactions.join(messages.unique("message_id"), on="message_id").select(
        hours=(pl.col("reacted_at") - pl.col("created_at")).dt.total_seconds() / 3600
    )["hours"]
    assert delays.min() > 0
    assert 0.01 < (delays > 1).mean() < 0.08
    assert delays.max() > 24


def test_hidden_buttons_get_no_reactions(messages: pl.DataFrame, reactions: pl.DataFrame) -> None:
    hidden = messages.filter(pl.col("reactions_shown").not_())
    assert hidden.height > 0
    assert reactions.join(hidden, on="message_id", how="semi").is_empty()


def test_planted_defects_are_there_and_counted(store: Store, messages: pl.DataFrame, reactions: pl.DataFrame) -> None:
    found = {
        "empty": messages.unique("message_id").filter(pl.col("content") == "").height,
        "repeated": len(messages) - messages["message_id"].n_unique(),
        "orphans": reactions.filter(pl.col("message_id").str.starts_with("lost-")).height,
        "repeated_reactions": len(reactions) - reactions["reaction_id"].n_unique(),
    }
    assert min(found.values()) > 0
    # What crossed the last midnight is planted, but not written.
    assert 0.9 * store[1].metrics["planted_defects"] <= sum(found.values()) <= store[1].metrics["planted_defects"]
    clean = SimulationConfig(days=1, replies_per_day=500, defect_rate=0, helpfulness_pairs=10, safety_pairs=10)
    assert clean.defect_rate == 0


def test_an_adversarial_user_loves_almost_everything(messages: pl.DataFrame, reactions: pl.DataFrame) -> None:
    loved = reactions.filter(pl.col("signal") == "love").group_by("message_id").agg(pl.col("value").last())
    shown = messages.filter(pl.col("reactions_shown")).unique("message_id").join(loved, on="message_id", how="left")
    users = shown.group_by("user_id").agg(
        pl.len().alias("replies"), (pl.col("value").fill_null(0) > 0).mean().alias("share")
    )
    extreme = users.filter((pl.col("replies") >= 20) & (pl.col("share") >= 0.8))
    assert 1 <= len(extreme) <= 3


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="replies_per_day"):
        SimulationConfig(replies_per_day=0)
    with pytest.raises(ValidationError, match="unknown"):
        SimulationConfig.model_validate({"unknown": 1})
    assert SimulationConfig(start_date="2026-02-01").start_date == date(2026, 2, 1)  # type: ignore[arg-type]


def test_playing_the_production_needs_no_torch() -> None:
    code = (
        "import sys, rluf_assets.simulation.production, rluf_assets.simulation.live, rluf_assets.simulation.launches, "
        "rluf_assets.simulation.oracle, rluf_assets.jobs.play_ab_test\n"
        "assert not {'torch', 'transformers', 'sklearn', 'pandas', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
