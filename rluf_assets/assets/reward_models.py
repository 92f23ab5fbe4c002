"""reward_models: the starting policy and the three reward models trained from it."""

from typing import Any, cast

import dagster as dg

from resources.launchers.spec import InputArtifact
from resources.places import data_folder, locate
from resources.stage import Work
from rluf_assets.assets.adoption import adopted_check, train_and_compare
from rluf_assets.assets.common import OWNERS, HomeSettings, Result, StageRunner, days_of, fresh
from rluf_assets.automation import follows
from rluf_assets.feedback.sources import hash_files
from rluf_assets.lake import Artifact, content_hash
from rluf_assets.objectives import REWARDS
from rluf_assets.partitions import EXPERT_OBJECTIVES
from rluf_assets.rewards.config import RewardConfig

MODELS: dict[str, Any] = {
    "group_name": "reward_models",
    "owners": OWNERS,
    "kinds": {"torch", "huggingface"},
    "pool": "gpu",
}
Inputs = dict[str, Artifact | InputArtifact]


def reward_model_assets(home: HomeSettings) -> list[dg.AssetsDefinition]:
    """The assets of the group for one home."""
    profile = home.profile

    # Made again by people alone: all is measured against it.
    @dg.asset(
        **MODELS, code_version=profile.base_policy.version, deps=["validated_replies"], freshness_policy=fresh(home)
    )
    def base_policy(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """A causal language model: the starting and the reference policy, given by path or trained on the logs."""
        config, inputs = profile.base_policy, Inputs(days_of(home, stage.lake, "validated_replies"))
        if config.checkpoint is not None:
            config = config.model_copy(update={"checkpoint": _place(home, config.checkpoint)})
        for nth, corpus in enumerate(config.corpora):
            source = _place(home, corpus.source)
            inputs[f"corpora/{nth}"] = InputArtifact(uri=source, content_hash=hash_files(source))
        return stage.run(context, Work("train_base_policy", config, inputs))

    @dg.asset(
        **MODELS,
        code_version=profile.p_love.version,
        deps=["signal_set", *_own_base(profile.p_love)],
        check_specs=[adopted_check("p_love")],
        freshness_policy=fresh(home),
        automation_condition=follows(),
    )
    def p_love(context: dg.AssetExecutionContext, stage: StageRunner) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """P[signal] in force: a sequence classifier trained with binary cross-entropy, with its calibration to live rates."""
        config, base = _base_of(home, stage, profile.p_love)
        inputs = {**base, "signal_set": stage.lake.current("signal_set")}
        return train_and_compare(context, stage, Work("train_reward", config, inputs))

    return [base_policy, p_love, *(_pair_model(home, objective) for objective in EXPERT_OBJECTIVES)]


def _pair_model(home: HomeSettings, objective: str) -> dg.AssetsDefinition:
    """The reward model of one expert objective; its settings are the profile's of the same name."""
    name = REWARDS[objective]
    settings: RewardConfig = getattr(home.profile, name)
    pairs_of_it = dg.SpecificPartitionsPartitionMapping([objective])

    @dg.asset(
        **MODELS,
        code_version=settings.version,
        name=name,
        description=f"A Bradley-Terry reward model of experts' judgement of {objective}.",
        deps=[dg.AssetDep("preference_pairs", partition_mapping=pairs_of_it), *_own_base(settings)],
        freshness_policy=fresh(home),
        automation_condition=follows(),
    )
    def model(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        config, base = _base_of(home, stage, settings)
        pairs = stage.lake.current("preference_pairs", objective)
        return stage.run(context, Work("train_reward", config, {**base, "preference_pairs": pairs}))

    return cast("dg.AssetsDefinition", model)


def _own_base(config: RewardConfig) -> list[str]:
    """The base policy, unless the settings name another model to start from."""
    return ["base_policy"] if config.base is None else []


def _base_of(home: HomeSettings, stage: StageRunner, config: RewardConfig) -> tuple[RewardConfig, Inputs]:
    """What a reward model starts from as an input; where the folder is does not belong to what is asked for."""
    if config.base is None:
        return config, {"base": stage.lake.current("base_policy")}
    folder = _place(home, config.base)
    base = InputArtifact(uri=folder, content_hash=content_hash(folder))
    return config.model_copy(update={"base": None}), {"base": base}


def _place(home: HomeSettings, name: str) -> str:
    return locate(name, data_folder(home.profile, home.folder))
