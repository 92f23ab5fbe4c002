"""reward_models: the starting policy and the three reward models trained from it."""

from typing import Any

import dagster as dg

from resources.launchers.spec import InputArtifact
from resources.places import data_folder, locate
from resources.stage import Work
from rluf_assets.assets.adoption import adopted_check, train_and_compare
from rluf_assets.assets.common import OWNERS, Result, StageRunner, days_of
from rluf_assets.assets.reaction_logs import validated_replies
from rluf_assets.assets.signals import preference_pairs, signal_set
from rluf_assets.feedback.sources import hash_files
from rluf_assets.lake import Artifact, content_hash
from rluf_assets.partitions import home, profile
from rluf_assets.rewards.config import RewardConfig

MODELS: dict[str, Any] = {
    "group_name": "reward_models",
    "owners": OWNERS,
    "kinds": {"torch", "huggingface"},
    "code_version": "1",
    "pool": "gpu",
}


def _pairs_of(objective: str) -> dg.AssetDep:
    return dg.AssetDep(preference_pairs, partition_mapping=dg.SpecificPartitionsPartitionMapping([objective]))


@dg.asset(**MODELS, deps=[validated_replies])
def base_policy(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """A causal language model: the starting and the reference policy, given by path or trained on the logs."""
    config, inputs = (
        profile().base_policy,
        dict[str, Artifact | InputArtifact](days_of(stage.lake, "validated_replies")),
    )
    for nth, corpus in enumerate(config.corpora):
        source = _place(corpus.source)
        inputs[f"corpora/{nth}"] = InputArtifact(uri=source, content_hash=hash_files(source))
    return stage.run(context, Work("train_base_policy", config, inputs))


def _own_base(config: RewardConfig) -> list[dg.AssetsDefinition]:
    """The base policy, unless the settings name another model to start from."""
    return [base_policy] if config.base is None else []


@dg.asset(**MODELS, deps=[signal_set, *_own_base(profile().p_love)], check_specs=[adopted_check("p_love")])
def p_love(context: dg.AssetExecutionContext, stage: StageRunner) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """P[signal] in force: a sequence classifier trained with binary cross-entropy, with its calibration to live rates."""
    config, base = _base_of(stage, profile().p_love)
    inputs = {**base, "signal_set": stage.lake.current("signal_set")}
    return train_and_compare(context, stage, Work("train_reward", config, inputs))


@dg.asset(**MODELS, deps=[_pairs_of("helpfulness"), *_own_base(profile().helpfulness_reward)])
def helpfulness_reward(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """A Bradley-Terry reward model of experts' judgement of helpfulness."""
    return stage.run(context, _pair_work(stage, "helpfulness"))


@dg.asset(**MODELS, deps=[_pairs_of("safety"), *_own_base(profile().safety_reward)])
def safety_reward(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """A Bradley-Terry reward model of experts' judgement of safety."""
    return stage.run(context, _pair_work(stage, "safety"))


def _pair_work(stage: StageRunner, objective: str) -> Work:
    settings = profile().helpfulness_reward if objective == "helpfulness" else profile().safety_reward
    config, base = _base_of(stage, settings)
    return Work("train_reward", config, {**base, "preference_pairs": stage.lake.current("preference_pairs", objective)})


def _base_of(stage: StageRunner, config: RewardConfig) -> tuple[RewardConfig, dict[str, Artifact | InputArtifact]]:
    """What a reward model starts from as an input; where the folder is does not belong to what is asked for."""
    if config.base is None:
        return config, {"base": stage.lake.current("base_policy")}
    folder = _place(config.base)
    base = InputArtifact(uri=folder, content_hash=content_hash(folder))
    return config.model_copy(update={"base": None}), {"base": base}


def _place(name: str) -> str:
    return locate(name, data_folder(profile(), home()))
