"""reward_models: the starting policy and the three reward models trained from it."""

from typing import Any

import dagster as dg

from resources.stage import Work
from rluf_assets.assets.common import OWNERS, Result, StageRunner, days_of
from rluf_assets.assets.reaction_logs import validated_replies
from rluf_assets.assets.signals import preference_pairs, signal_set
from rluf_assets.partitions import profile

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
    inputs = days_of(stage.lake, "validated_replies")
    return stage.run(context, Work("train_base_policy", profile().base_policy, inputs))


@dg.asset(**MODELS, deps=[signal_set, base_policy])
def p_love(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """P[signal]: a sequence classifier trained with binary cross-entropy, with its calibration to live rates."""
    inputs = {"base": stage.lake.current("base_policy"), "signal_set": stage.lake.current("signal_set")}
    return stage.run(context, Work("train_reward", profile().p_love, inputs))


@dg.asset(**MODELS, deps=[_pairs_of("helpfulness"), base_policy])
def helpfulness_reward(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """A Bradley-Terry reward model of experts' judgement of helpfulness."""
    return stage.run(context, _pair_work(stage, "helpfulness"))


@dg.asset(**MODELS, deps=[_pairs_of("safety"), base_policy])
def safety_reward(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """A Bradley-Terry reward model of experts' judgement of safety."""
    return stage.run(context, _pair_work(stage, "safety"))


def _pair_work(stage: StageRunner, objective: str) -> Work:
    config = profile().helpfulness_reward if objective == "helpfulness" else profile().safety_reward
    inputs = {
        "base": stage.lake.current("base_policy"),
        "preference_pairs": stage.lake.current("preference_pairs", objective),
    }
    return Work("train_reward", config, inputs)
