"""The code location loads, light; holds the graph of the design; and says of every asset what people need to know."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from rluf_assets.catalogue import catalogue, type_name
from rluf_assets.definitions import build_definitions
from rluf_assets.errors import ConfigError
from rluf_assets.lake import Lake
from rluf_assets.objectives import REWARDS
from rluf_assets.partitions import HomeSettings, register_candidates
from rluf_assets.policy.judges import JUDGES
from rluf_assets.units import all_units
from tests.core.snapshot import SNAPSHOT
from tests.feedback.logs import clean_logs

ROOT = Path(__file__).parents[2]
GRAPH = {
    "reaction_logs": {"raw_messages", "raw_reactions", "validated_replies"},
    "signals": {"signal_audit", "signal_set", "preference_pairs", "evaluation_prompts"},
    "reward_models": {"base_policy", "p_love", "helpfulness_reward", "safety_reward"},
    "policy": {"crraft_policy"},
    "evaluation": {
        "offline_evaluation", "ab_exposures", "reward_hacking_audit", "ab_test_readout", "past_launches",
        "offline_online_backtest", "off_policy_evaluation", "release_report", "released_policy",
    },
}  # fmt: skip
# Folders of weights: their columns are those of no table.
WEIGHTS = {"base_policy", "released_policy"}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The definitions, loaded in a process of their own; fails if that imported a heavy package."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.core.snapshot"],
        cwd=ROOT, env={"PATH": "", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    definitions: dict[str, Any] = json.loads(done.stdout)
    return definitions


def test_definitions_hold_the_graph_and_load_without_heavy_packages(found: dict[str, Any]) -> None:
    assets = found["assets"]
    assert {group: {a for a, one in assets.items() if one["group"] == group} for group in GRAPH} == GRAPH


def test_no_definition_changed_unnoticed(found: dict[str, Any]) -> None:
    known = json.loads(SNAPSHOT.read_text())
    assert found == known, (
        "the graph is another than in definitions.json; if meant: python -m tests.core.snapshot --write"
    )


def test_every_asset_says_what_people_need_to_know(found: dict[str, Any]) -> None:
    for name, asset in found["assets"].items():
        assert asset["description"], name
        assert asset["owners"], name
        assert asset["kinds"], name
        assert asset["versioned"], name
        assert asset["late_after_h"] or name == "preference_pairs", name
        assert asset["columns"] or name in WEIGHTS, name
        if asset["columns"]:  # a table's description states its grain, a model's says what it is
            assert "ne row " in asset["description"] or asset["group"] == "reward_models", name


def test_the_catalogue_names_every_column_of_a_real_lake(tiny_home: Path) -> None:
    lake = Lake(str(tiny_home / "lake"))
    signals = ["love", "thumbs_up", "thumbs_down", "copy", "regenerate"]
    names = {"signal": signals, "objective": list(REWARDS), "judge": [*JUDGES, "control_token"]}
    for asset, entry in catalogue().items():
        partition = lake.partitions(asset)[0]
        artifact = lake.current(asset, None if partition == "_" else partition)
        real = {name: type_name(dtype) for name, dtype in pl.read_parquet_schema(artifact.path(entry.file)).items()}
        told = {name: column.type for name, column in entry.expanded(names).items()}
        optional = {name for name in told if name.startswith("judge_")}  # a candidate chooses its judges
        assert real.items() <= told.items(), asset
        assert set(told) - set(real) <= optional, asset
        assert all(len(column.meaning) > 3 for column in entry.columns.values()), asset


def test_every_assets_code_version_is_that_of_the_stage_that_made_it(tiny_home: Path) -> None:
    lake = Lake(str(tiny_home / "lake"))
    told = {
        spec.key.to_user_string(): spec.code_version for spec in build_definitions(tiny_home).resolve_all_asset_specs()
    }
    made = {}
    for asset in told:
        for partition in lake.partitions(asset)[:1]:
            artifact = lake.current(asset, None if partition == "_" else partition)
            made[asset] = artifact.manifest["spec"]["version"]
    assert set(told) - set(made) <= {"released_policy"}  # on hold
    assert made == {asset: told[asset] for asset in made}


def home_of(folder: Path, first_day: str, signal: str, candidates: list[str]) -> Path:
    """A home with two days of logs of its own, from `first_day` on."""
    folder.mkdir()
    messages, reactions = clean_logs(days=2, users_per_day=4)
    later = (date.fromisoformat(first_day) - messages["created_at"].dt.date().min()).days  # type: ignore[operator]
    for name, table, at in (("messages", messages, "created_at"), ("reactions", reactions, "reacted_at")):
        moved = table.with_columns(pl.col(at).dt.offset_by(f"{later}d"))
        for (day,), rows in moved.group_by(pl.col(at).dt.date()):
            rows.write_csv(folder / f"{name}-{day}.csv")
    write_settings(folder, first_day, signal, days=2)
    entries = {name: {"weights": {"love": 1.0}} for name in candidates}
    (folder / "candidates.yaml").write_text(yaml.safe_dump({"candidates": entries}))
    return folder


def write_settings(folder: Path, first_day: str, signal: str, days: int) -> None:
    production = {
        "kind": "logged", "first_day": first_day, "days": days, "preferences": {}, "if_missing": "empty",
        "messages": "messages-{day}.csv", "reactions": "reactions-{day}.csv",
    }  # fmt: skip
    signals = {"signals": [signal]}
    labelled = {"validated_replies": signals, "signal_audit": signals, "signal_set": {"signal": signal}}
    (folder / "rluf.yaml").write_text(yaml.safe_dump({"profile": "tiny", "production": production, **labelled}))


def bring_in(defs: dg.Definitions, day: str, instance: dg.DagsterInstance) -> None:
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(
        instance=instance, partition_key=day, asset_selection=[dg.AssetKey("raw_messages")]
    ).success


def test_two_homes_live_in_one_process(tmp_path: Path) -> None:
    """Other days, signals and candidates; each writes to its own lake. An edit is there when the graph is built again."""
    one = home_of(tmp_path / "one", "2026-01-01", "love", ["baseline", "bold"])
    other = home_of(tmp_path / "other", "2026-03-05", "copy", ["baseline"])
    first, second = build_definitions(one), build_definitions(other)
    with dg.DagsterInstance.ephemeral() as a, dg.DagsterInstance.ephemeral() as b:
        for home, instance in ((one, a), (other, b)):
            register_candidates(home, instance)
        assert a.get_dynamic_partitions("candidate") == ["baseline", "bold"]
        assert b.get_dynamic_partitions("candidate") == ["baseline"]
        bring_in(second, "2026-03-05", b)
        bring_in(first, "2026-01-01", a)
        assert Lake(str(one / "lake")).partitions("raw_messages") == ["2026-01-01"]
        assert Lake(str(other / "lake")).partitions("raw_messages") == ["2026-03-05"]
        assert sum(Lake(str(other / "lake")).current("raw_messages", "2026-03-05").rows.values()) > 0
        assert labels_of(first) == {"love"}
        assert labels_of(second) == {"copy"}

        write_settings(one, "2026-01-01", "love", days=3)  # a day comes, and a candidate
        (one / "candidates.yaml").write_text("candidates: {baseline: {}, bold: {}, bolder: {}}")
        register_candidates(one, a)
        bring_in(build_definitions(one), "2026-01-03", a)
    assert all_units(one)[0].day_range == ("2026-01-01", "2026-01-03")
    assert [unit.partition for unit in all_units(one) if unit.assets == ("crraft_policy",)] == [
        "baseline",
        "bold",
        "bolder",
    ]
    assert HomeSettings.of(other).kept_days() == ["2026-03-05", "2026-03-06"]


def labels_of(defs: dg.Definitions) -> set[str]:
    """The signals whose labels the graph says `validated_replies` has."""
    (spec,) = (one for one in defs.resolve_all_asset_specs() if one.key == dg.AssetKey("validated_replies"))
    columns = [column.name for column in spec.metadata["dagster/column_schema"].columns]
    return {name.removeprefix("label_") for name in columns if name.startswith("label_")}


def test_importing_the_code_location_reads_no_home(tmp_path: Path) -> None:
    """A broken home is an error where its graph is built, in the words of the settings, and nowhere before."""
    (tmp_path / "rluf.yaml").write_text("profile: tiny\nsignal_sett: {}\n")
    with pytest.raises(ConfigError, match="did you mean 'signal_set'"):
        build_definitions(tmp_path)
