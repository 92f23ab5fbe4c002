"""The code location: assets, checks, jobs and resources put together, nothing else.

Loaded by `dagster dev -w workspace.yaml` and `rluf ui`; `RLUF_HOME` names the home folder (default `rluf-demo`).
"""

from __future__ import annotations

import dagster as dg

from data_checks.accounts import raw_checks
from data_checks.checks import build_checks
from resources.build import build_resources
from rluf_assets.assets import evaluation, policy, reaction_logs, reward_models, signals
from rluf_assets.automation import AUTOMATION, automated
from rluf_assets.documented import documented
from rluf_assets.partitions import CANDIDATES, DAYS, OBJECTIVES, home, profile

ingest_logs = dg.define_asset_job(
    "ingest_logs", selection=dg.AssetSelection.groups("reaction_logs"), partitions_def=DAYS,
    description="Bring in and validate a day of logs, or a range of days in one run.",
)  # fmt: skip
build_signals = dg.define_asset_job(
    "build_signals", selection=dg.AssetSelection.assets("signal_audit", "signal_set", "evaluation_prompts"),
    description="Audit the signals and build the training set, its holdout and the fixed prompts.",
)  # fmt: skip
bring_in_pairs = dg.define_asset_job(
    "bring_in_pairs", selection=dg.AssetSelection.assets("preference_pairs"), partitions_def=OBJECTIVES,
    description="Bring in the expert pairs of one objective.",
)  # fmt: skip
train_rewards = dg.define_asset_job(
    "train_rewards", selection=dg.AssetSelection.groups("reward_models"),
    description="Train the base policy (where none is given) and the three reward models.",
)  # fmt: skip
optimise_candidate = dg.define_asset_job(
    "optimise_candidate",
    selection=dg.AssetSelection.assets("crraft_policy", "offline_evaluation", "ab_exposures"),
    partitions_def=CANDIDATES,
    description="Optimise one candidate, evaluate it offline, and read its arm of the live test.",
)  # fmt: skip
decide_release = dg.define_asset_job(
    "decide_release",
    selection=dg.AssetSelection.assets(
        "past_launches", "offline_online_backtest", "off_policy_evaluation", "reward_hacking_audit", "ab_test_readout",
        "release_report", "released_policy",
    ),
    description="Compare the candidates and decide.",
)  # fmt: skip

modules = [reaction_logs, signals, reward_models, policy, evaluation]
assets = [found for found in dg.load_assets_from_modules(modules) if isinstance(found, dg.AssetsDefinition)]

defs = dg.Definitions(
    assets=dg.map_asset_specs(lambda spec: automated(documented(spec, profile())), assets),
    asset_checks=[*raw_checks(), *build_checks(home() / "suites", profile().signal_set.signal, profile().pages_url)],
    jobs=[ingest_logs, build_signals, bring_in_pairs, train_rewards, optimise_candidate, decide_release],
    sensors=[AUTOMATION],
    resources=build_resources(profile(), home()),
)
