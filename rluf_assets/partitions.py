"""Partitions of the graph (days, expert objectives, candidates) and the units a terminal run walks through.

Days come from the production's period, candidates from `candidates.yaml`; both are read from the home folder that
`RLUF_HOME` names when the code location loads.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import dagster as dg

from resources.profiles import Profile, load_candidates, load_profile
from rluf_assets.lake import Lake
from rluf_assets.materialise import Unit
from rluf_assets.retention import carry_out, horizon_of, plan_removal
from rluf_assets.workbench import REWARDS

DEFAULT_HOME = "rluf-demo"
EXPERT_OBJECTIVES = tuple(objective for objective in REWARDS if objective != "love")


@cache
def home() -> Path:
    """The folder with the lake, the settings and the reports."""
    return Path(os.environ.get("RLUF_HOME", DEFAULT_HOME)).resolve()


@cache
def profile() -> Profile:
    """The settings of this home: a packaged profile with the home's own file laid over it."""
    return load_profile(home())


DAYS = dg.DailyPartitionsDefinition(start_date=profile().first_day, end_date=profile().end_day)
OBJECTIVES = dg.StaticPartitionsDefinition(list(EXPERT_OBJECTIVES))
CANDIDATES = dg.DynamicPartitionsDefinition(name="candidate")


def kept_days(lake: Lake) -> list[str]:
    """The days of this home whose raw rows were not removed (`retention.raw_days`)."""
    raw_from = horizon_of(lake).raw_from
    return [day for day in DAYS.get_partition_keys() if day >= raw_from]


def candidate_names() -> list[str]:
    """Every candidate of `candidates.yaml`, in its order."""
    return list(load_candidates(home()))


def register_candidates(instance: dg.DagsterInstance) -> None:
    """Make the candidates of `candidates.yaml` partitions of this instance, and drop those no longer in it."""
    known, wanted = set(instance.get_dynamic_partitions("candidate")), candidate_names()
    for stale in known - set(wanted):
        instance.delete_dynamic_partition("candidate", stale)
    instance.add_dynamic_partitions("candidate", wanted)


def all_units() -> list[Unit]:
    """Every run that a full materialisation of the graph takes, in a sensible order for reading; of days that are kept."""
    days = kept_days(Lake(str(home() / "lake")))
    # Optimisation apart from evaluation, longest first: two workers then end at about the same time.
    names = sorted(candidate_names(), key=lambda name: load_candidates(home())[name].get("optimiser") == "none")
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


def retain(lake: Lake, *, dry_run: bool = False) -> str | None:
    """Remove what `retention` asks to remove (`dry_run`: nothing); what that is, in a line, or None."""
    days, settings = DAYS.get_partition_keys(), profile().retention
    removal = plan_removal(lake, settings, days, profile().validated_replies.window_days)
    if removal is not None and not dry_run:
        carry_out(lake, removal, settings)
    return None if removal is None else str(removal)
