"""policy: one CRRAFT run per candidate."""

import dagster as dg

from resources.places import data_folder, locate
from resources.profiles import candidate_config
from resources.stage import Work
from rluf_assets.assets.common import OWNERS, HomeSettings, Result, StageRunner, fresh
from rluf_assets.automation import follows
from rluf_assets.lake import Artifact, Lake
from rluf_assets.objectives import REWARDS
from rluf_assets.partitions import CANDIDATES
from rluf_assets.policy.config import OptimisationConfig


def rewards_of(lake: Lake) -> dict[str, Artifact]:
    """`rewards/<objective>` -> the reward model in force."""
    return {f"rewards/{objective}": lake.current(asset) for objective, asset in REWARDS.items()}


def policy_assets(home: HomeSettings) -> list[dg.AssetsDefinition]:
    """The assets of the group for one home."""

    @dg.asset(
        partitions_def=CANDIDATES,
        group_name="policy",
        owners=OWNERS,
        kinds={"torch", "huggingface"},
        code_version="1",
        pool="gpu",
        deps=["base_policy", "evaluation_prompts", *REWARDS.values()],
        freshness_policy=fresh(home),
        automation_condition=follows(),
    )
    def crraft_policy(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """A causal language model optimised with a candidate's weights; one row of metrics per iteration."""
        inputs = {
            "base_policy": stage.lake.current("base_policy"),
            "evaluation_prompts": stage.lake.current("evaluation_prompts"),
            **rewards_of(stage.lake),
        }
        return stage.run(context, Work("optimise_policy", candidate_settings(home, context.partition_key), inputs))

    return [crraft_policy]


def candidate_settings(home: HomeSettings, name: str) -> OptimisationConfig:
    """What a candidate is optimised with, from candidates.yaml as it is now. Raises ConfigError for an unknown one."""
    config = candidate_config(home.folder, name, home.profile.crraft_policy)
    if config.llm_judge is not None:
        folder = locate(config.llm_judge.folder, data_folder(home.profile, home.folder))
        config = config.model_copy(update={"llm_judge": config.llm_judge.model_copy(update={"folder": folder})})
    home.profile.check_length(config.max_new_tokens, f"candidate {name!r}")
    return config
