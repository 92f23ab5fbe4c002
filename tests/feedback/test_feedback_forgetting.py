"""`forget` finds a user by exact fields, wherever their text is, and is finished by a second run where it was killed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.feedback.forgetting import JOURNAL, forget
from rluf_assets.lake import Artifact, Lake, Produced, content_hash, publish
from tests.feedback.test_feedback_commands import _rluf

SECRET = "what only that user wrote"


def _message(conversation: str, one: str, user: str, content: str = "hello") -> dict[str, Any]:
    return {"conversation_id": conversation, "message_id": one, "user_id": user, "role": "user", "content": content}


def _publish(
    lake: Lake, asset: str, tables: dict[str, list[dict[str, Any]]], partition: str | None = None, **inputs: Artifact
) -> Artifact:
    folder = Path(lake.folder(asset, partition, "f" * 16))
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        pl.DataFrame(rows).write_parquet(folder / f"{name}.parquet")
    spec = {"inputs": {name: {"uri": one.uri} for name, one in inputs.items()}}
    counts = {name: len(rows) for name, rows in tables.items()}
    artifact = publish(str(folder), fingerprint="f" * 16, produced=Produced(rows=counts), spec=spec)
    lake.set_current(asset, partition, artifact)
    return artifact


def _home(tmp_path: Path, user: str) -> Path:
    """A home where `user` has a conversation alone, part of a shared one, rows in the quarantine, and more made of them."""
    lake = Lake(str(tmp_path / "lake"))
    raw = _publish(lake, "raw_messages", {"messages": [
        _message("c-own", "m1", user, SECRET), _message("c-other", "m1", user + "3"), _message("c-shared", "m7", user, SECRET),
        _message("c-shared", "m8", "someone"), _message("c-other", "m2", f"x{user}"),
    ]})  # fmt: skip
    quoted = (_message("c-q", "q1", user, SECRET), _message("c-z", "q2", user + "3", f"I know {user}"))
    aside = [{"table": "messages", "defect": "other_user", "row": json.dumps(one)} for one in quoted]
    tables = {"messages": [_message("c-own", "m1", user, SECRET)], "quarantine": aside}
    replies = _publish(lake, "validated_replies", tables, raw=raw)
    (Path(replies.uri) / "quarantine.html").write_text(SECRET)
    turns = [{"role": "user", "content": SECRET}]
    built = _publish(lake, "signal_set", {"train": [
        {**_message("c-shared", "m9", "someone"), "prompt": turns},
        {**_message("c-other", "m1", user + "3"), "prompt": turns[:0]},
    ]}, replies=replies)  # fmt: skip
    prompts = _publish(lake, "evaluation_prompts", {"prompts": [{"prompt_id": "m7", "prompt": turns}]}, replies=replies)
    policy = _publish(lake, "crraft_policy", {"metrics": [{"step": 1}]}, prompts=prompts)
    (Path(policy.uri) / "model.safetensors").write_bytes(b"w")
    (Path(policy.uri) / "phases").mkdir()
    (Path(policy.uri) / "phases" / "000.jsonl").write_text(json.dumps({"text": SECRET}) + "\n")
    (Path(policy.uri) / "examples.html").write_text(SECRET)
    assert built.rows["train"] == 2
    left = Path(lake.folder("signal_set", None, "e" * 16))  # a job that was killed
    left.mkdir()
    (left / "half.jsonl").write_text(json.dumps(_message("c-own", "m1", user, SECRET)) + "\n")
    (tmp_path / "reports" / "data-docs").mkdir(parents=True)
    (tmp_path / "reports" / "data-docs" / "index.html").write_text(SECRET)
    (tmp_path / "reports" / "index.html").write_text(SECRET)
    return tmp_path


def _holding(home: Path, text: str) -> list[str]:
    found = []
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        data = (
            str(pl.read_parquet(path).to_dicts())
            if path.suffix == ".parquet"
            else path.read_bytes().decode(errors="replace")
        )
        if text in data:
            found.append(str(path.relative_to(home)))
    return found


HOSTILE = ["12", "a'b\"c", "*", "[x]%_", "ü\u202e🙂", "../..", "a\\b", "null", "x" * 300]


@pytest.mark.parametrize("user", HOSTILE)
def test_every_place_that_holds_their_text_is_rid_of_it_and_nobody_else_loses_a_row(tmp_path: Path, user: str) -> None:
    home = _home(tmp_path, user)
    lake = Lake(str(home / "lake"))
    dry = forget(lake, user, home=home, dry_run=True)
    assert len(_holding(home, SECRET)) == 11
    found = forget(lake, user, home=home)
    assert (found.rows, found.removed, found.stale, found.trained) == (dry.rows, dry.removed, dry.stale, dry.trained)
    assert _holding(home, SECRET) == []
    left = pl.read_parquet(lake.current("raw_messages").path("messages.parquet"))
    assert left["user_id"].to_list() == [user + "3", "someone", f"x{user}"]
    aside = pl.read_parquet(lake.current("validated_replies").path("quarantine.parquet"))
    assert [json.loads(row)["message_id"] for row in aside["row"]] == ["q2"]  # by field: it only speaks of them
    assert pl.read_parquet(lake.current("signal_set").path("train.parquet"))["user_id"].to_list() == [user + "3"]
    assert found.trained == [f"crraft_policy/_/{'f' * 16}"]
    for asset in ("raw_messages", "signal_set", "evaluation_prompts"):
        now = lake.current(asset)
        assert now.content_hash == content_hash(now.uri)
        assert all(pl.read_parquet(now.path(f"{name}.parquet")).height == n for name, n in now.rows.items())
    again = forget(lake, user, home=home)
    assert (again.rows, again.removed, again.trained, again.stale) == ({}, [], [], [])
    assert not (home / "lake" / JOURNAL).exists()


STEPS = {os: ("replace", "unlink"), shutil: ("rmtree",)}


def _killed_at(step: int, home: Path) -> bool:
    """Forget, and be killed before the so-manieth change of the disk; whether it was."""
    done = 0
    with pytest.MonkeyPatch.context() as patch:
        for module, names in STEPS.items():
            for name in names:
                change = getattr(module, name)

                def counted(*arguments: Any, change: Any = change, **options: Any) -> None:
                    nonlocal done
                    done += 1
                    if done == step:
                        raise KeyboardInterrupt
                    change(*arguments, **options)

                patch.setattr(module, name, counted)
        try:
            forget(Lake(str(home / "lake")), "12", home=home)
        except KeyboardInterrupt:
            return True
    return False


def test_a_run_that_was_killed_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    plain = _home(tmp_path / "plain", "12")
    whole = forget(Lake(str(plain / "lake")), "12", home=plain)
    step, completed = 1, 0
    while _killed_at(step, home := _home(tmp_path / str(step), "12")):
        lake = Lake(str(home / "lake"))
        begun = (home / "lake" / JOURNAL).exists()
        found = forget(lake, ["12", "nobody"], home=home)
        assert _holding(home, SECRET) == [] and not (home / "lake" / JOURNAL).exists()
        if begun:  # all of it is told, not only what was left
            completed += 1
            assert (found.rows, set(found.removed)) == (whole.rows, set(whole.removed))
        for asset in ("raw_messages", "validated_replies", "signal_set", "evaluation_prompts"):
            now, other = lake.current(asset), Lake(str(plain / "lake")).current(asset)
            assert now.content_hash == content_hash(now.uri) == other.content_hash
            assert now.manifest["forgotten_rows"] == other.manifest["forgotten_rows"]
            assert now.rows == other.rows
            assert all(pl.read_parquet(now.path(f"{name}.parquet")).height == n for name, n in now.rows.items())
        assert forget(lake, "12", home=home).rows == {}
        step += 1
    assert completed > 15


def test_a_user_leaves_both_arms_of_an_experiment_and_its_readout_is_named(tmp_path: Path) -> None:
    lake, users = Lake(str(tmp_path / "lake")), ("12", "123", "someone")
    arms = {}
    for arm in ("baseline", "moderate"):
        shown = [{"user_id": user, "reply_id": f"r{n}", "love": n % 2} for user in users for n in range(3)]
        tables = {
            "exposures": [{"user_id": user, "arm": arm, "replies": 3} for user in users],
            "exposed_replies": shown,
        }
        arms[arm] = _publish(lake, "ab_exposures", tables, arm)
    logged = _publish(lake, "past_launches", {
        "exposures": [{"user_id": user, "arm": arm, "replies": 3} for user in users for arm in arms],
        "texts": [{"prompt_id": f"m{user}", "user_id": user, "completion": SECRET * (user == "12")} for user in users],
    })  # fmt: skip
    _publish(lake, "ab_test_readout", {"readout": [{"metric": "love_rate", "lift": 0.1}]}, logged=logged, **arms)
    found = forget(lake, "12")
    assert found.stale == [f"ab_test_readout/_/{'f' * 16}"] and sum(found.rows.values()) == 2 * (1 + 3) + 2 + 1
    for arm in arms:
        now = lake.current("ab_exposures", arm)
        assert now.rows == {"exposures": 2, "exposed_replies": 6}
        assert set(pl.read_parquet(now.path("exposed_replies.parquet"))["user_id"]) == {"123", "someone"}
    assert lake.current("past_launches").rows == {"exposures": 4, "texts": 2} and _holding(tmp_path, SECRET) == []


def test_many_users_go_in_one_pass_also_where_the_home_was_moved(tmp_path: Path) -> None:
    _home(tmp_path / "first", "12")
    shutil.move(tmp_path / "first", tmp_path / "second")
    home = tmp_path / "second"
    (home / "ids.txt").write_text("12\nsomeone\n\n")
    said = _rluf("forget", "--file", str(home / "ids.txt"), "--home", str(home))
    assert "trained on those rows, materialise it again:  crraft_policy" in said and "rluf run --home" in said
    left = pl.read_parquet(Lake(str(home / "lake")).current("raw_messages").path("messages.parquet"))
    assert left["user_id"].to_list() == ["123", "x12"] and _holding(home, SECRET) == []


@pytest.mark.parametrize("user", ["", " ", []])
def test_an_empty_id_is_refused_and_an_unknown_one_changes_nothing(tmp_path: Path, user: Any) -> None:
    home = _home(tmp_path, "12")
    before = _holding(home, SECRET)
    with pytest.raises(DataError, match="an empty user id"):
        forget(Lake(str(home / "lake")), user, home=home)
    assert forget(Lake(str(home / "lake")), "1", home=home).rows == {}
    assert _holding(home, SECRET) == before


def test_examples_leave_dagsters_database_and_its_file(tmp_path: Path) -> None:
    home = _home(tmp_path, "12")
    (home / "dagster").mkdir()

    @dg.asset
    def shown() -> dg.MaterializeResult[Any]:
        table = dg.MetadataValue.table([dg.TableRecord({"content": SECRET})])
        return dg.MaterializeResult(metadata={"examples": table, "rows": 1})

    with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
        assert dg.materialize([shown], instance=instance).success
    found = forget(Lake(str(home / "lake")), "12", home=home)
    assert found.events >= 1 and _holding(home, SECRET) == []
    with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:  # it still reads its events
        event = instance.get_latest_materialization_event(dg.AssetKey("shown"))
        assert event and event.asset_materialization and event.asset_materialization.metadata["rows"].value == 1
    databases = list((home / "dagster").rglob("*.db"))
    assert databases and all(
        sqlite3.connect(path).execute("pragma integrity_check").fetchone() == ("ok",) for path in databases
    )
