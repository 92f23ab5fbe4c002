"""policy: one CRRAFT run per candidate."""

import dagster as dg

from resources.places import data_folder, locate
from resources.profiles import candidate_config
from resources.stage import Work
from rluf_assets.assets.common import OWNERS, Result, StageRunner
from rluf_assets.assets.reward_models import base_policy
from rluf_assets.assets.signals import evaluation_prompts
from rluf_assets.lake import Artifact, Lake
from rluf_assets.partitions import CANDIDATES, home, profile
from rluf_assets.workbench import REWARDS


def rewards_of(lake: Lake) -> dict[str, Artifact]:
    """`rewards/<objective>` -> the reward model in force."""
    return {f"rewards/{objective}": lake.current(asset) for objective, asset in REWARDS.items()}


@dg.asset(
    partitions_def=CANDIDATES,
    group_name="policy",
    owners=OWNERS,
    kinds={"torch", "huggingface"},
    code_version="1",
    pool="gpu",
    deps=[base_policy, evaluation_prompts, *REWARDS.values()],
)
def crraft_policy(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """A causal language model optimised with a candidate's weights; one row of metrics per iteration."""
    config = candidate_config(home(), context.partition_key, profile().crraft_policy)
    if config.llm_judge is not None:
        folder = locate(config.llm_judge.folder, data_folder(profile(), home()))
        config = config.model_copy(update={"llm_judge": config.llm_judge.model_copy(update={"folder": folder})})
    profile().check_length(config.max_new_tokens, f"candidate {context.partition_key!r}")
    inputs = {
        "base_policy": stage.lake.current("base_policy"),
        "evaluation_prompts": stage.lake.current("evaluation_prompts"),
        **rewards_of(stage.lake),
    }
    return stage.run(context, Work("optimise_policy", config, inputs))
