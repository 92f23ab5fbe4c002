"""The Dagster runs that a full materialisation of one home's graph takes; `rluf run` and `rluf demo` walk through them."""

from __future__ import annotations

from pathlib import Path

from resources.profiles import load_candidates
from rluf_assets.materialise import Unit
from rluf_assets.objectives import REWARDS
from rluf_assets.partitions import EXPERT_OBJECTIVES, HomeSettings


def all_units(home: Path) -> list[Unit]:
    """Every run that a full materialisation of the graph takes, in a sensible order for reading; of days that are kept."""
    days, candidates = HomeSettings.of(home).kept_days(), load_candidates(home)
    # Optimisation apart from evaluation, longest first: two workers then end at about the same time.
    names = sorted(candidates, key=lambda name: candidates[name].get("optimiser") == "none")
    return [
        Unit(("raw_messages", "raw_reactions", "validated_replies"), day_range=(days[0], days[-1])),
        Unit(("evaluation_prompts",)),
        Unit(("signal_set",)),
        Unit(("base_policy",)),
        *(Unit(("preference_pairs",), partition=objective) for objective in EXPERT_OBJECTIVES),
        *(Unit((model,)) for model in REWARDS.values()),
        Unit(("signal_audit",)),
        Unit(("past_launches",)),
        *(Unit(("crraft_policy",), partition=name) for name in names),
        *(Unit(("offline_evaluation", "ab_exposures"), partition=name) for name in names),
        Unit(("offline_online_backtest",)),
        Unit(("off_policy_evaluation",)),
        Unit(("reward_hacking_audit", "ab_test_readout", "release_report", "released_policy")),
    ]
