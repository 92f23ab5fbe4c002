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
from rluf_assets.partitions import EXPERT_OBJECTIVES, home, profile
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.workbench import REWARDS

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
    if config.checkpoint is not None:
        config = config.model_copy(update={"checkpoint": _place(config.checkpoint)})
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


def _pair_model(objective: str) -> dg.AssetsDefinition:
    """The reward model of one expert objective; its settings are the profile's of the same name."""
    name = REWARDS[objective]

    @dg.asset(
        **MODELS,
        name=name,
        description=f"A Bradley-Terry reward model of experts' judgement of {objective}.",
        deps=[_pairs_of(objective), *_own_base(getattr(profile(), name))],
    )
    def model(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        config, base = _base_of(stage, getattr(profile(), name))
        pairs = stage.lake.current("preference_pairs", objective)
        return stage.run(context, Work("train_reward", config, {**base, "preference_pairs": pairs}))

    made: dg.AssetsDefinition = model
    return made


PAIR_MODELS = [_pair_model(objective) for objective in EXPERT_OBJECTIVES]


def _base_of(stage: StageRunner, config: RewardConfig) -> tuple[RewardConfig, dict[str, Artifact | InputArtifact]]:
    """What a reward model starts from as an input; where the folder is does not belong to what is asked for."""
    if config.base is None:
        return config, {"base": stage.lake.current("base_policy")}
    folder = _place(config.base)
    base = InputArtifact(uri=folder, content_hash=content_hash(folder))
    return config.model_copy(update={"base": None}), {"base": base}


def _place(name: str) -> str:
    return locate(name, data_folder(profile(), home()))
