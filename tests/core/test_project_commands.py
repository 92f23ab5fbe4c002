"""`rluf init`, `rluf doctor`, `rluf gc`, as a user runs them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from resources.profiles import load_profile
from rluf_assets.lake import Artifact, Lake, Produced, publish, read_artifact
from rluf_assets.tidy import find_waste, live_folders, remove
from tests.conftest import run_rluf


def make(lake: Lake, asset: str, fingerprint: str, inputs: dict[str, Artifact] | None = None) -> Artifact:
    """A published artifact with one file, resume state, and the inputs it names."""
    folder = Path(lake.folder(asset, None, fingerprint))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "data.txt").write_text(fingerprint)
    spec = {"inputs": {name: {"uri": artifact.uri} for name, artifact in (inputs or {}).items()}}
    return publish(str(folder), fingerprint=fingerprint, produced=Produced(), spec=spec)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_gc_removes_only_what_nothing_live_was_made_from(lake: Lake) -> None:
    old, new = make(lake, "signal_set", "old"), make(lake, "signal_set", "new")
    unused = make(lake, "signal_set", "unused")
    policy = make(lake, "crraft_policy", "policy", {"signal_set": old})
    release = make(lake, "released_policy", "first", {"policy": policy})
    lake.set_current("signal_set", None, new)
    # The release is no longer in force; what it was made from stays, for a rollback.
    assert live_folders(lake) == {artifact.uri for artifact in (old, new, policy, release)}
    waste = find_waste(lake)
    assert [(entry.folder, entry.reason) for entry in waste] == [(unused.uri, "superseded")]
    remove(lake, waste)
    assert not Path(unused.uri).exists()
    assert read_artifact(old.uri) is not None
    assert find_waste(lake) == []


def test_gc_knows_the_lineage_of_a_home_that_was_moved(tmp_path: Path, lake: Lake) -> None:
    old = make(lake, "signal_set", "old")
    model = make(lake, "p_love", "model", {"signal_set": old})
    lake.set_current("p_love", None, model)
    (tmp_path / "elsewhere").mkdir()
    Path(lake.root).rename(tmp_path / "elsewhere" / "lake")
    moved = Lake(str(tmp_path / "elsewhere" / "lake"))
    assert {Path(folder).name for folder in live_folders(moved)} == {"old", "model"}
    assert [entry.reason for entry in find_waste(moved)] == []


def test_gc_works_where_the_logs_are_files_of_ones_own(tmp_path: Path) -> None:
    """Its inputs are files, globs and addresses, which are no artifacts (case 48 of the fault cases)."""
    (tmp_path / "2026-05-03").mkdir()
    rows = (
        "conversation_id,message_id,turn_index,role,content,user_id,created_at\nc,m,0,user,hi,u,2026-05-03T10:00:00Z\n"
    )
    (tmp_path / "2026-05-03" / "messages.csv").write_text(rows)
    (tmp_path / "rluf.yaml").write_text(SETTINGS_48)
    done = run_rluf("ingest", "--format", "canonical", "--source", f"{tmp_path}/{{day}}/messages.csv",
                    "--day", "2026-05-03", "--home", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    gc = run_rluf("gc", "--dry-run", "--home", str(tmp_path))
    assert gc.returncode == 0 and "0 folders" in gc.stdout, gc.stderr
    lake = Lake(str(tmp_path / "lake"))
    for uri in (
        f"{tmp_path}/2026-05-03/messages.csv",
        f"{tmp_path}/*/messages.csv",
        "s3://bucket/a/b/c.parquet",
        "x",
        "",
    ):
        artifact = make(lake, "raw_reactions", "f" + str(len(uri)), {"files": Artifact(uri, {})})
        lake.set_current("raw_reactions", None, artifact)
        assert artifact.uri in live_folders(lake)


SETTINGS_48 = """profile: real
seed: 0
production:
  kind: logged
  first_day: 2026-05-03
  days: 1
  log_format: canonical
  messages: "{day}/messages.csv"
  reactions: "{day}/reactions.jsonl"
  preferences: {helpfulness: none.jsonl, safety: none.jsonl}
validated_replies: {exposure: all_shown}
"""


def test_gc_takes_checkpoints_of_finished_jobs_and_week_old_ruins_only(lake: Lake) -> None:
    current = make(lake, "p_love", "current")
    lake.set_current("p_love", None, current)
    state = Path(current.uri) / "checkpoints" / "000100.safetensors"
    state.write_bytes(b"x" * 1000)
    fresh, ruin = (Path(lake.folder("p_love", None, name)) for name in ("fresh", "ruin"))
    for folder in (fresh, ruin):
        folder.mkdir()
        (folder / "half.txt").write_text("half")
    week_ago = time.time() - 8 * 86_400
    os.utime(ruin / "half.txt", (week_ago, week_ago))
    waste = {entry.folder: entry for entry in find_waste(lake)}
    assert {folder: entry.reason for folder, entry in waste.items()} == {
        str(state.parent): "checkpoints of a finished job",
        str(ruin): "abandoned",
    }
    assert waste[str(state.parent)].size_bytes >= 1000
    remove(lake, list(waste.values()))
    assert (Path(current.uri) / "data.txt").exists()
    assert fresh.exists()
    assert not ruin.exists()


def test_init_writes_a_project_that_loads_and_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    done = run_rluf("init", str(folder))
    assert done.returncode == 0, done.stderr
    assert load_profile(folder).production.kind == "logged"
    assert list((folder / "suites").glob("*.json"))
    again = run_rluf("init", str(folder))
    assert again.returncode == 1
    assert "there already" in again.stderr


def test_doctor_finds_nothing_to_mend_here_and_names_a_broken_setting(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    run_rluf("init", str(folder))
    settings = (folder / "rluf.yaml").read_text()
    (folder / "rluf.yaml").write_text(settings.replace("profile: real ", "profile: laptop "))
    done = run_rluf("doctor", "--home", str(folder))
    assert done.returncode == 0, done.stdout
    assert "torch " in done.stdout
    assert "note  messages: 0 files at" in done.stdout
    (folder / "rluf.yaml").write_text(settings + "p_love: {base: no_such_package:model}\n")
    absent = run_rluf("doctor", "--home", str(folder))
    assert absent.returncode == 1
    assert "MEND  p_love: 'no_such_package:model': found no installed package" in absent.stdout
    (folder / "rluf.yaml").write_text("signal_sett: {}\n")
    broken = run_rluf("doctor", "--home", str(folder))
    assert broken.returncode == 1
    assert "MEND  settings" in broken.stdout
    assert "did you mean 'signal_set'" in broken.stdout


def test_doctor_finds_the_lock_of_a_build_that_a_kill_cut_short(tmp_path: Path) -> None:
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    assert str(lock) not in run_rluf("doctor", "--home", str(tmp_path), env=env).stdout, "a build that is under way"
    os.utime(lock, (time.time() - 3600,) * 2)
    done = run_rluf("doctor", "--home", str(tmp_path), env=env)
    assert done.returncode == 1
    assert "MEND  DeepSpeed's build" in done.stdout and "60 minutes old" in done.stdout
