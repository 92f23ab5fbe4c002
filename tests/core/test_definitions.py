"""The code location loads, light; holds the graph of the design; and says of every asset what people need to know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.catalogue import catalogue, type_name
from rluf_assets.lake import Lake
from rluf_assets.policy.judges import JUDGES
from rluf_assets.workbench import REWARDS
from tests.core.snapshot import SNAPSHOT

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
        assert asset["code_version"], name
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
