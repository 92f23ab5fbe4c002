"""The code location loads, light, and holds the graph of the design."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROBE = """
import json, sys
import dagster as dg
from rluf_assets.definitions import defs
dg.Definitions.validate_loadable(defs)
graph = defs.resolve_asset_graph()
heavy = ["torch", "transformers", "accelerate", "vllm", "deepspeed", "great_expectations", "pandas", "scipy",
         "statsmodels", "sklearn", "plotly"]
print(json.dumps({
    "assets": {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()},
    "described": [key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).description],
    "heavy": [name for name in heavy if name in sys.modules],
}))
"""
GRAPH = {
    "reaction_logs": {"raw_messages", "raw_reactions", "validated_replies"},
    "signals": {"signal_audit", "signal_set", "preference_pairs", "evaluation_prompts"},
    "reward_models": {"base_policy", "p_love", "helpfulness_reward", "safety_reward"},
    "policy": {"crraft_policy"},
    "evaluation": {
        "offline_evaluation", "ab_exposures", "reward_hacking_audit", "ab_test_readout", "past_launches",
        "offline_online_backtest", "release_report", "released_policy",
    },
}  # fmt: skip


def test_definitions_hold_the_graph_and_load_without_heavy_packages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE],
        env={"RLUF_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["heavy"] == []
    assert {group: {a for a, g in found["assets"].items() if g == group} for group in GRAPH} == GRAPH
    assert set(found["described"]) == set(found["assets"])
