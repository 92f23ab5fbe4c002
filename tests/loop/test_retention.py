"""Raw logs are kept for so many days: what goes, what stays, and that no later command brings it back or does without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from resources.profiles import RetentionSettings
from rluf_assets.lake import Artifact, Lake, Produced, publish, read_json
from rluf_assets.retention import JOURNAL, carry_out, horizon_of, plan_removal, undated_rows_removed
from rluf_assets.tidy import find_waste, remove

DAYS = [f"2026-01-{day:02}" for day in range(1, 13)]


def put(
    lake: Lake, asset: str, day: str, *, undated: int = 0, fingerprint: str = "a" * 16, **inputs: Artifact
) -> Artifact:
    folder = lake.folder(asset, day, fingerprint)
    at = pl.Series([None] * undated + ["2026-01-01T00:00:00"], dtype=pl.String).str.to_datetime(time_zone="UTC")
    Path(folder).mkdir(parents=True)
    pl.DataFrame({"reacted_at": at}).write_parquet(f"{folder}/{asset.removeprefix('raw_')}.parquet")
    spec = {"config": {"source": "log.jsonl"}, "inputs": {name: {"uri": one.uri} for name, one in inputs.items()}}
    produced = Produced(rows={"rows": undated + 1}, metrics={"no_time": undated})
    artifact = publish(folder, fingerprint=fingerprint, produced=produced, spec=spec)
    lake.set_current(asset, day, artifact)
    return artifact


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Twelve days, two versions of each raw table; a day that a broken clock made; labels of all days."""
    lake = Lake(str(tmp_path / "lake"))
    for day in [*DAYS, "2099-01-01"]:
        put(lake, "raw_messages", day, fingerprint="b" * 16)
        raw = put(lake, "raw_messages", day)
        put(lake, "raw_reactions", day, undated=3 if day == DAYS[0] else 0)
        put(lake, "validated_replies", day, raw=raw)
    return lake


def of(lake: Lake, asset: str) -> list[str]:
    return sorted(path.name for path in (Path(lake.root) / asset).iterdir())


@pytest.mark.parametrize(("keep", "window"), [(True, 1), (False, 1), (True, 3)])
def test_old_raw_days_go_and_the_neighbours_that_windows_read_stay(lake: Lake, keep: bool, window: int) -> None:
    settings = RetentionSettings(raw_days=4, keep_labels=keep)
    removal = plan_removal(lake, settings, DAYS, window)
    assert removal is not None
    carry_out(lake, removal, settings)
    # The newest is the 12th: the 8th is four days older. What its windows read is kept beside it.
    first = 8 - window
    assert of(lake, "raw_messages") == [*DAYS[first - 1 :], "2099-01-01"]
    assert of(lake, "raw_reactions") == [DAYS[0], *DAYS[first - 1 :], "2099-01-01"]  # the undated ones are every day's
    assert of(lake, "validated_replies") == [*(DAYS if keep else DAYS[7:]), "2099-01-01"]
    assert (horizon_of(lake).raw_from, horizon_of(lake).labels_from) == (DAYS[first - 1], DAYS[7])
    entry = read_json(f"{lake.root}/{JOURNAL}")["removals"][0]
    assert entry["days"]["raw_messages"][DAYS[0]]["rows"] == {"rows": 1} and "undated" not in json.dumps(entry["days"])
    assert set(entry["days"]["raw_messages"]) == set(DAYS[: first - 1]) and "without a time" in entry["kept"][0]
    assert plan_removal(lake, settings, DAYS, window) is None
    assert plan_removal(lake, RetentionSettings(), DAYS, window) is None
    # A longer time brings nothing back, and nothing of it is forgotten.
    assert plan_removal(lake, RetentionSettings(raw_days=9), DAYS, window) is None
    remove(lake, find_waste(lake))
    assert {day for day in lake.partitions("validated_replies") if day in DAYS} == set(DAYS if keep else DAYS[7:])


def test_rows_without_a_time_that_went_are_still_accounted_for(lake: Lake) -> None:
    put(lake, "raw_messages", "2025-12-31", undated=2)
    settings = RetentionSettings(raw_days=4)
    for _ in range(2):  # brought back by hand, and removed again
        removal = plan_removal(lake, settings, DAYS, 1)
        assert removal is not None
        carry_out(lake, removal, settings)
        put(lake, "raw_messages", "2025-12-31", undated=2)
    assert undated_rows_removed(lake, "raw_messages")["log.jsonl"] == 2


def test_a_removal_that_was_killed_is_finished_by_the_next(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, withdrawn = RetentionSettings(raw_days=4), Lake.withdraw

    def killed(self: Lake, asset: str, partition: str | None = None) -> None:
        withdrawn(self, asset, partition)
        if partition == DAYS[2]:
            raise KeyboardInterrupt

    removal = plan_removal(lake, settings, DAYS, 1)
    assert removal is not None
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "withdraw", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(lake, removal, settings)
    assert horizon_of(lake).raw_from == DAYS[6]
    rest = plan_removal(lake, settings, DAYS, 1)
    assert rest is not None
    carry_out(lake, rest, settings)
    assert of(lake, "raw_messages") == [*DAYS[6:], "2099-01-01"]


IN_ONE_PROCESS = """
import json, sys
from pathlib import Path
import fsspec, polars as pl
from rich.console import Console
from rluf_assets.demo import load_code_location
from rluf_assets.errors import ConfigError
from rluf_assets.feedback.forgetting import forget
from rluf_assets.lake import Lake
from rluf_assets.materialise import Unit, run_units
from rluf_assets.update import update
from tests.feedback.logs import clean_logs

home, user = Path(sys.argv[1]), "u0001"
lake, quiet = Lake(str(home / "lake")), Console(file=open(home / "said.txt", "w"), width=200)
messages, reactions = clean_logs(days=8, users_per_day=4, love_rate=0.3)
days = sorted(set(messages["created_at"].dt.date().cast(pl.String)))

def arrive(some):
    for day in some:
        for name, table, at in (("messages", messages, "created_at"), ("reactions", reactions, "reacted_at")):
            with fsspec.open(f"memory://bucket/{name}/{day}.csv", "wb") as stream:
                table.filter(pl.col(at).dt.date().cast(pl.String) == day).write_csv(stream)

def state(**more):
    tables = [pl.scan_parquet(path) for path in (home / "lake").glob("*/*/*/*.parquet")]
    named = [t.select("user_id").collect()["user_id"] for t in tables if "user_id" in t.collect_schema()]
    labels = {day: lake.current("validated_replies", day).content_hash for day in lake.partitions("validated_replies")}
    users = set(pl.concat(named).cast(pl.String))
    return {"raw": lake.partitions("raw_messages"), "labels": labels, "there": user in users,
            "train": lake.current("signal_set").rows["train"], **more}

arrive(days[:7])
update(home, console=quiet)
steps = [state()]
steps.append(state(forgotten=sum(forget(lake, user, home=home).rows.values())))
arrive(days[7:])
update(home, console=quiet)
steps.append(state())
all_days = Unit(("validated_replies",), day_range=(days[0], days[-1]))
(outcome,) = run_units(load_code_location(home), [all_days], home=home, workers=1).values()
try:
    update(home, day=days[0], console=quiet)
except ConfigError as error:
    refused = str(error)
from rluf_assets.units import all_units
steps.append(state(state=outcome.state, errors=outcome.errors, refused=refused, units=all_units(home)[0].day_range))
print(json.dumps(steps))
"""


@pytest.mark.slow
def test_an_update_after_retention_and_forget_rebuilds_nothing_from_less(tmp_path: Path) -> None:
    """CSV files in a bucket; two raw days and their neighbour are kept, and every day's labels."""
    signals = ["love", "thumbs_down"]
    places = {name: f"memory://bucket/{name}/{{day}}.csv" for name in ("messages", "reactions")}
    production = {"kind": "logged", "first_day": DAYS[0], "days": 8, **places, "if_missing": "empty", "preferences": {}}
    settings = {
        "profile": "tiny", "production": production, "retention": {"raw_days": 2},
        "validated_replies": {"signals": signals}, "signal_audit": {"signals": signals},
        "signal_set": {"signal": "love", "holdout_days": 2, "min_positives": 2},
    }  # fmt: skip
    (tmp_path / "rluf.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-W", "ignore", "-c", IN_ONE_PROCESS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, forgotten, second, last = json.loads(done.stdout.splitlines()[-1])
    kept = DAYS[4:8]  # of the newest, the 8th, two days back, and the day before those
    assert all(
        step["raw"] == kept and set(step["labels"]) == set(DAYS[:8]) for step in (first, forgotten, second, last)
    )
    assert (
        first["there"] and forgotten["forgotten"] > 0 and not any(step["there"] for step in (forgotten, second, last))
    )
    assert second["train"] > first["train"] / 2
    old = DAYS[:5]
    assert all(
        [step["labels"][day] for day in old] == [forgotten["labels"][day] for day in old] for step in (second, last)
    )
    assert second["labels"][DAYS[7]] != first["labels"][DAYS[7]]
    assert (last["state"], last["errors"], last["labels"]) == ("done", [], second["labels"])
    assert "its raw rows were removed" in last["refused"] and last["units"] == [kept[0], kept[-1]]
