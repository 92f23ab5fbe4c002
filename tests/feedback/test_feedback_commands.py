"""`rluf ingest`, `rluf trace`, `rluf forget` on a small lake, in the words that a terminal gets."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from resources.build import build_resources
from resources.launchers.spec import InputArtifact, JobSpec
from resources.profiles import LoggedSettings, load_profile
from rluf_assets.cli import app
from rluf_assets.errors import DataError, RlufError
from rluf_assets.feedback.forgetting import TOMBSTONES, forget
from rluf_assets.feedback.sources import hash_files
from rluf_assets.feedback.trace import trace
from rluf_assets.jobs import signal_set, validate_replies
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Artifact, Lake, Produced, publish, read_json
from tests.feedback.logs import SIGNALS, clean_logs

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
FIXTURES = Path(__file__).parent / "fixtures"


def _rluf(*arguments: str, **env: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env=env)
    if isinstance(result.exception, RlufError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def _job(
    lake: Lake, asset: str, partition: str | None, stage: Any, config: dict[str, Any], **inputs: Artifact
) -> Artifact:
    known = {name.replace("__", "/"): InputArtifact.of(one) for name, one in inputs.items()}
    draft = JobSpec(
        name=asset, entrypoint=stage.__module__, version="1", seed=0, output_uri="", config=config, inputs=known
    )
    spec = draft.model_copy(update={"output_uri": lake.folder(asset, partition, draft.fingerprint)})
    artifact, _ = run_job(spec, stage, lambda message: None)
    lake.set_current(asset, partition, artifact)
    return artifact


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Five days ingested by the command, validated and made into a signal set by the jobs, as the assets do."""
    messages, reactions = clean_logs(days=5, users_per_day=30, love_rate=0.06, seed=31)
    last = messages.filter(pl.col("role") == "assistant")["message_id"][0]
    twice = messages.filter(pl.col("message_id") == last)  # a planted duplicate
    messages = pl.concat([messages, twice])
    (tmp_path / "logs").mkdir()
    for table, frame in (("messages", messages), ("reactions", reactions)):
        frame.write_parquet(tmp_path / "logs" / f"{table}.parquet")
        _rluf("ingest", "--source", str(tmp_path / "logs" / f"{table}.parquet"), "--format", "canonical",
              "--table", table, "--home", str(tmp_path))  # fmt: skip
    lake = Lake(str(tmp_path / "lake"))
    days = {}
    for day in map(str, DAYS):
        raw = {name: lake.current(f"raw_{name}", day) for name in ("messages", "reactions")}
        config = {"signals": SIGNALS, "day": day}
        days[f"validated_replies__{day}"] = _job(lake, "validated_replies", day, validate_replies.run, config, **raw)
    made = _job(lake, "signal_set", None, signal_set.run, {"holdout_days": 2}, **days)
    # A model as the reward stage publishes it: weights, and where they came from in the manifest.
    model = Path(lake.folder("p_love", None, "a" * 16))
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    spec = {"inputs": {"signal_set": {"uri": made.uri, "content_hash": made.content_hash}}}
    lake.set_current("p_love", None, publish(str(model), fingerprint="p", produced=Produced(), spec=spec))
    return tmp_path


def test_ingest_files_days_once_and_by_format(home: Path, tmp_path: Path) -> None:
    lake = Lake(str(home / "lake"))
    assert lake.partitions("raw_messages") == [str(day) for day in DAYS]
    again = _rluf("ingest", "--source", str(tmp_path / "logs" / "messages.parquet"), "--format", "canonical",
                  "--day", "2026-01-02", "--home", str(home))  # fmt: skip
    assert again.startswith("2026-01-02") and "(was there)" in again
    said = _rluf("ingest", "--source", str(FIXTURES / "langsmith_runs.jsonl"), "--format", "langsmith", "--raw-user-ids",
                 "--home", str(tmp_path / "other"), RLUF_USER_SALT="salt")  # fmt: skip
    assert said.splitlines()[:2] == ["2026-06-01  6 messages", "6 records read: 6 messages, 2 users"]
    stored = pl.read_parquet(
        Lake(str(tmp_path / "other" / "lake")).current("raw_messages", "2026-06-01").path("messages.parquet")
    )
    assert not {"u-1", "u-2"} & set(stored["user_id"])
    with pytest.raises(RlufError, match="format: Input should be 'canonical'"):
        _rluf("ingest", "--source", "x", "--format", "slack", "--home", str(tmp_path / "other"))
    (tmp_path / "layout.yaml").write_text("users: per_conversation\n")
    with pytest.raises(DataError, match=r"sharegpt\.jsonl: no row has created_at.*--day"):
        _rluf("ingest", "--source", str(FIXTURES / "sharegpt.jsonl"), "--format", "sharegpt", "--layout",
              str(tmp_path / "layout.yaml"), "--home", str(tmp_path / "other"))  # fmt: skip


def test_trace_tells_where_every_kind_of_row_went(home: Path) -> None:
    lake = Lake(str(home / "lake"))
    folder = Path(lake.current("signal_set").uri)
    train, holdout, dropped = (pl.read_parquet(folder / f"{name}.parquet") for name in ("train", "holdout", "dropped"))
    assert trace(lake, train["message_id"][0])[-1].outcome == "in train"
    assert trace(lake, holdout["message_id"][0])[-1].outcome == "in holdout"
    for message_id, step in dropped.unique("step").iter_rows():
        assert trace(lake, message_id)[-1].outcome == f"stopped at {step}"
    replies = pl.concat(
        [pl.read_parquet(lake.current("validated_replies", str(day)).path("replies.parquet")) for day in DAYS]
    )
    named = {"train": set(train["message_id"]), "holdout": set(holdout["message_id"]), "x": set(dropped["message_id"])}
    rest = [one for one in replies["message_id"] if not any(one in ids for ids in named.values())]
    assert {trace(lake, one)[-1].outcome for one in rest[::40]} <= {
        "stopped at not_drawn",
        "stopped at user_seen_before",
        "stopped at user_kept_out",
    }
    duplicate = replies.sort("created_at", "message_id")
    first = pl.read_parquet(home / "logs" / "messages.parquet").filter(pl.col("role") == "assistant")["message_id"][0]
    steps = trace(lake, first)
    assert any(step.outcome.endswith(": duplicate_id") for step in steps) and duplicate.height == replies.height
    said = _rluf("trace", first.replace("-a", "-u"), "--home", str(home))
    assert "only replies are labelled" in said
    with pytest.raises(DataError, match="message 'nobody': not in raw_messages of 2026-01-01 to 2026-01-05"):
        trace(lake, "nobody")


def _everything(lake: Lake) -> str:
    return "".join(
        pl.read_parquet(path).select(pl.all().cast(pl.String, strict=False)).write_csv()
        if not any(dtype.is_nested() for dtype in pl.read_parquet_schema(path).values())
        else str(pl.read_parquet(path).to_dicts())
        for path in Path(lake.root).rglob("*.parquet")
    )


def test_forget_removes_every_row_names_what_was_trained_and_is_honoured_later(home: Path) -> None:
    lake = Lake(str(home / "lake"))
    train = pl.read_parquet(lake.current("signal_set").path("train.parquet"))
    user, other = train["user_id"].unique(maintain_order=True)[:2]
    untouched = (
        pl.scan_parquet(f"{lake.root}/raw_messages/*/*/messages.parquet").filter(pl.col("user_id") != user).collect()
    )
    before = {day: lake.current("raw_messages", str(day)).content_hash for day in DAYS}
    said = _rluf("forget", user, "--home", str(home))
    assert f'"{user}"' not in _everything(lake) and f"{user}," not in _everything(lake)
    assert "trained on those rows, materialise it again:  p_love" in said
    kept = pl.scan_parquet(f"{lake.root}/raw_messages/*/*/messages.parquet").collect()
    assert kept.sort("message_id").equals(untouched.sort("message_id"))  # nobody else lost a row
    assert f"{other}," in _everything(lake)
    for day in DAYS:
        now = lake.current("raw_messages", str(day))
        assert (now.content_hash != before[day]) == (now.manifest.get("forgotten_rows", 0) > 0)
        assert now.rows["messages"] == pl.read_parquet(now.path("messages.parquet")).height
    assert user not in str(read_json(f"{lake.root}/{TOMBSTONES}"))  # the tombstone does not name them
    # The source still has the user; a later ingest of it does not bring them back.
    logs = home / "logs" / "messages.parquet"
    pl.read_parquet(logs).with_columns(locale=pl.lit("fr")).write_parquet(logs)
    _rluf("ingest", "--source", str(logs), "--format", "canonical", "--home", str(home))
    new = pl.concat([pl.read_parquet(lake.current("raw_messages", str(day)).path("messages.parquet")) for day in DAYS])
    assert set(new["locale"]) == {"fr"} and user not in set(new["user_id"]) and other in set(new["user_id"])
    assert forget(lake, user).rows == {}  # repeating it finds nothing


def test_forget_takes_the_logged_id_where_the_salt_is_set(tmp_path: Path) -> None:
    env = {"RLUF_USER_SALT": "salt"}
    _rluf("ingest", "--source", str(FIXTURES / "langsmith_runs.jsonl"), "--format", "langsmith", "--raw-user-ids",
          "--home", str(tmp_path), **env)  # fmt: skip
    said = _rluf("forget", "u-1", "--home", str(tmp_path), **env)
    assert "4 rows removed  raw_messages" in said.replace("       4", "4")
    left = pl.read_parquet(Lake(str(tmp_path / "lake")).current("raw_messages", "2026-06-01").path("messages.parquet"))
    assert left["conversation_id"].unique().to_list() == ["run-3"]


def test_daily_assets_read_a_companys_logs_by_the_same_config(tmp_path: Path) -> None:
    """Settings -> the work of `raw_messages`: format, layout and hashing as `rluf ingest` has them."""
    log = FIXTURES / "langfuse_scores.jsonl"
    production = {
        "kind": "logged", "first_day": "2026-05-29", "messages": "m.jsonl", "reactions": str(log), "log_format": "langfuse",
        "log_layout": {"scores": {"user-feedback": {"up": "thumbs_up", "down": "thumbs_down"}}}, "user_ids": "raw",
        "preferences": {}, "past_launches": "x", "ab_exposures": "x",
    }  # fmt: skip
    settings = LoggedSettings.model_validate(production)
    profile = load_profile(tmp_path).model_copy(update={"production": settings})
    source = build_resources(profile, tmp_path)["production"]
    work = source.logs(None, "reactions", "2026-05-29")
    assert work.job == "ingest" and work.inputs["files"].content_hash == hash_files(str(log))
    assert (work.config.format, work.config.user_ids) == ("langfuse", "raw")
    assert work.config.layout == settings.log_layout
