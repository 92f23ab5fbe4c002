"""The graph of one home: assets, checks, jobs, sensors and resources put together, nothing else.

`build_definitions(home)` reads the home's settings each time it is called: after an edit, or for another home, call it again.
Dagster's own tools load `code_location`, which does so for the home that `RLUF_HOME` names (default `rluf-demo`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg

from data_checks.accounts import raw_checks
from data_checks.checks import build_checks
from resources.build import build_resources
from rluf_assets.assets.evaluation import evaluation_assets
from rluf_assets.assets.policy import candidates_sensor, policy_assets
from rluf_assets.assets.reaction_logs import reaction_log_assets
from rluf_assets.assets.reward_models import reward_model_assets
from rluf_assets.assets.signals import signal_assets
from rluf_assets.automation import AUTOMATION
from rluf_assets.documented import documented
from rluf_assets.home import DEFAULT_HOME, HOME_VARIABLE
from rluf_assets.partitions import CANDIDATES, OBJECTIVES, HomeSettings

GROUPS = (reaction_log_assets, signal_assets, reward_model_assets, policy_assets, evaluation_assets)


@dg.definitions
def code_location() -> dg.Definitions:
    """What `dagster dev -w workspace.yaml`, `dg dev` and `rluf ui` load; nothing is read before they call it."""
    return build_definitions(Path(os.environ.get(HOME_VARIABLE, DEFAULT_HOME)))


def build_definitions(home: Path) -> dg.Definitions:
    """The graph of a home folder, of its settings as they are now. Raises ConfigError naming the setting that is wrong."""
    settings = HomeSettings.of(home)
    profile, folder = settings.profile, settings.folder
    assets = [asset for group in GROUPS for asset in group(settings)]
    return dg.Definitions(
        assets=dg.map_asset_specs(lambda spec: documented(spec, profile), assets),
        asset_checks=[*raw_checks(), *build_checks(folder / "suites", profile.signal_set.signal, profile.pages_url)],
        jobs=_jobs(settings),
        sensors=[AUTOMATION, candidates_sensor(settings)],
        resources=build_resources(profile, folder),
    )


def _jobs(settings: HomeSettings) -> list[Any]:
    """The runs that people start by hand."""
    groups, assets = dg.AssetSelection.groups, dg.AssetSelection.assets
    return [
        dg.define_asset_job(
            "ingest_logs", selection=groups("reaction_logs"), partitions_def=settings.days,
            description="Bring in and validate a day of logs, or a range of days in one run.",
        ),
        dg.define_asset_job(
            "build_signals", selection=assets("signal_audit", "signal_set", "evaluation_prompts"),
            description="Audit the signals and build the training set, its holdout and the fixed prompts.",
        ),
        dg.define_asset_job(
            "bring_in_pairs", selection=assets("preference_pairs"), partitions_def=OBJECTIVES,
            description="Bring in the expert pairs of one objective.",
        ),
        dg.define_asset_job(
            "train_rewards", selection=groups("reward_models"),
            description="Train the base policy (where none is given) and the three reward models.",
        ),
        dg.define_asset_job(
            "optimise_candidate", selection=assets("crraft_policy", "offline_evaluation", "ab_exposures"),
            partitions_def=CANDIDATES,
            description="Optimise one candidate, evaluate it offline, and read its arm of the live test.",
        ),
        dg.define_asset_job(
            "decide_release",
            selection=assets(
                "past_launches", "offline_online_backtest", "off_policy_evaluation", "reward_hacking_audit",
                "ab_test_readout", "release_report", "released_policy",
            ),
            description="Compare the candidates and decide.",
        ),
    ]  # fmt: skip
