"""Metrics frames and Great Expectations suites: right on sound data, and each planted fault fails its own check."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data_checks.drift import with_drift
from data_checks.metrics import partition_metrics, signal_set_metrics
from data_checks.suites import CheckOutcome, load_suite, run_suite, suite_path
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.signal_set import build_signal_set
from rluf_assets.lake import write_json
from tests.feedback.logs import SIGNALS, START, clean_logs, validated

DAY = START.date()


@pytest.fixture(scope="module")
def day_row() -> pl.DataFrame:
    messages, reactions = clean_logs(users_per_day=200, love_rate=0.003, seed=1)
    log = validated(messages, reactions)
    row = with_drift(partition_metrics(log, SIGNALS, DAY)).with_columns(signal_rate="rate_love")
    assert row.height == 1
    assert row["rate_love"].item() == pytest.approx(log.replies["label_love"].mean())
    assert row["replies"].item() == log.replies.height
    assert row["turns_mean"].item() == pytest.approx(log.replies["turn_index"].mean() + 1)
    assert row["label_lag_h_p95"].item() == pytest.approx(3 / 3600)
    return row


def _failed(outcomes: list[CheckOutcome]) -> set[str]:
    return {outcome.name for outcome in outcomes if not outcome.passed}


def test_empty_day_has_a_metrics_row() -> None:
    messages, reactions = clean_logs()
    row = with_drift(partition_metrics(validated(messages.clear(), reactions.clear()), SIGNALS, DAY))
    assert row.select("day", "replies", "messages_gap", "duplicate_reply_rate").row(0) == (DAY, 0, 0, 0.0)
    assert _failed(run_suite(row, suite_path("validated_replies"), key="day")) <= {"has_replies", "signal_rate_band"}


def test_each_fault_fails_its_own_check_and_names_the_day(day_row: pl.DataFrame) -> None:
    faults: dict[str, dict[str, Any]] = {
        "messages_add_up": {"messages_gap": 1},
        "reactions_add_up": {"reactions_gap": -2},
        "replies_add_up": {"replies_gap": 3},
        "no_null_ids": {"null_id_rate": 0.01},
        "no_duplicate_replies": {"duplicate_reply_rate": 0.01},
        "few_reactions_quarantined": {"reactions_quarantined_share": 0.2},
        "few_reactions_undated": {"reactions_undated_share": 0.03},
        "has_replies": {"replies": 0},
        "labels_in_time": {"label_lag_h_p95": 30.0},
        "turns_plausible": {"turns_mean": 70.0},
        "reply_length_plausible": {"reply_chars_mean": 1.0},
    }
    days = [day_row.with_columns(day=pl.lit(DAY + timedelta(days=n))) for n in range(60)]
    assert not _failed(run_suite(pl.concat(days), suite_path("validated_replies"), key="day"))
    for nth, values in enumerate(faults.values()):
        days[nth] = days[nth].with_columns(
            pl.lit(value).cast(day_row.schema[key]).alias(key) for key, value in values.items()
        )
    outcomes = run_suite(pl.concat(days), suite_path("validated_replies"), key="day")
    assert _failed(outcomes) == set(faults)
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert by_name["messages_add_up"].observed == "1 of 60 rows outside (2026-01-01: 1)"
    assert by_name["messages_add_up"].severity == "critical" and by_name["turns_plausible"].severity == "warning"
    assert "messages_gap: min_value=0, max_value=0" in by_name["messages_add_up"].expected


def test_quarantine_and_love_bands(day_row: pl.DataFrame) -> None:
    worse = day_row.with_columns(messages_quarantined_share=pl.lit(0.6), signal_rate=pl.lit(0.2))
    failed = _failed(run_suite(worse, suite_path("validated_replies"), key="day"))
    assert failed == {"not_all_quarantined", "few_messages_quarantined", "signal_rate_band"}


def _signal_set(folder: Path) -> Path:
    messages, reactions = clean_logs(days=6, users_per_day=40, love_rate=0.02, seed=2)
    log = validated(messages, reactions)
    built = build_signal_set(log.replies.lazy(), log.messages.lazy(), SignalSetConfig(holdout_days=2), seed=0)
    built.train.write_parquet(folder / "train.parquet")
    built.holdout.sink_parquet(folder / "holdout.parquet")
    built.funnel.write_parquet(folder / "funnel.parquet")
    write_json(str(folder / "rates.json"), built.rates)
    return folder


def test_signal_set_suite(tmp_path: Path) -> None:
    folder, suite = _signal_set(tmp_path), suite_path("signal_set")
    sound = signal_set_metrics(folder)
    assert _failed(run_suite(sound, suite)) <= {"enough_holdout_positives"}
    train, holdout = pl.read_parquet(folder / "train.parquet"), pl.read_parquet(folder / "holdout.parquet")
    spoiled = {
        "users_disjoint": train.with_columns(user_id=pl.lit(holdout["user_id"][0])),
        "conversations_disjoint": train.with_columns(conversation_id=pl.lit(holdout["conversation_id"][0])),
        "holdout_is_later": train.with_columns(created_at=pl.lit(holdout["created_at"][0]) + pl.duration(seconds=1)),
        "inclusion_recorded": train.with_columns(inclusion_probability=pl.lit(0.0)),
        "no_duplicate_rows": train.with_columns(message_id=pl.lit("same"), conversation_id=pl.lit("same")),
        "has_training_positives": train.with_columns(label=pl.lit(False)),
        "funnel_adds_up": train.head(train.height - 1),
    }
    asked = pl.DataFrame({"user_id": [train["user_id"][0], "x"], "split": ["evaluation", "optimisation"]})
    assert _failed(run_suite(signal_set_metrics(folder, asked), suite)) - {"enough_holdout_positives"} == {
        "prompt_users_kept_out"
    }
    assert signal_set_metrics(folder, asked.filter(pl.col("user_id") == "x"))["prompt_users_learned"].item() == 0
    for name, rows in spoiled.items():
        rows.write_parquet(folder / "train.parquet")
        found = _failed(run_suite(signal_set_metrics(folder), suite)) - {"enough_holdout_positives"}
        # Rows or positives taken away also move the rate.
        assert found - {"target_rate_met"} == {name}
        assert ("target_rate_met" in found) == (name in ("has_training_positives", "funnel_adds_up"))


def test_edited_suite_is_used_and_a_wrong_one_is_named(day_row: pl.DataFrame, tmp_path: Path) -> None:
    assert suite_path("signal_set", tmp_path) == suite_path("signal_set")
    suite = load_suite(suite_path("validated_replies"))
    own = tmp_path / "validated_replies.json"
    suite["expectations"][0]["kwargs"] = {"column": "no_such", "min_value": 0}
    own.write_text(json.dumps(suite))
    outcome = run_suite(day_row, suite_path("validated_replies", tmp_path), key="day")[0]
    assert not outcome.passed and 'could not be computed: Error: The column "no_such"' in outcome.observed
    suite["expectations"][0]["type"] = "expect_wonders"
    own.write_text(json.dumps(suite))
    with pytest.raises(ConfigError, match=r"validated_replies\.json: Great Expectations .* cannot build"):
        run_suite(day_row, own)
    del suite["expectations"][1]["meta"]
    own.write_text(json.dumps(suite))
    with pytest.raises(ConfigError, match=r"expected a unique meta\.name in every expectation"):
        run_suite(day_row, own)
    own.write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read as a suite"):
        run_suite(day_row, own)
    with pytest.raises(DataError, match="no metrics row to check"):
        run_suite(day_row.clear(), suite_path("validated_replies"))


def test_checks_load_without_the_heavy_packages() -> None:
    heavy = ("great_expectations", "pandas", "torch", "plotly", "scipy")
    code = f"import sys, data_checks.checks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
