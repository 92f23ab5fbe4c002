"""policy: one CRRAFT run per candidate, and the sensor that notices an edited `candidates.yaml`."""

import hashlib
import json

import dagster as dg
from pydantic import ValidationError

from resources.places import data_folder, locate
from resources.profiles import candidate_config
from resources.stage import Work
from rluf_assets.assets.common import OWNERS, HomeSettings, Result, StageRunner, fresh
from rluf_assets.automation import follows
from rluf_assets.errors import ArtifactMissing
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
        code_version=OptimisationConfig.version,
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


def candidates_sensor(home: HomeSettings) -> dg.SensorDefinition:
    """Candidates as partitions, and a run for one whose policy was made with other settings than it has now."""

    @dg.sensor(
        name="candidates",
        target=dg.AssetSelection.assets("crraft_policy"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Reads candidates.yaml: new names become partitions, names that went go, and a candidate whose settings "
        "were edited is optimised again. What follows from it is the automation's.",
    )  # fmt: skip
    def candidates(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = HomeSettings.of(home.folder)
        names, known = now.candidates, context.instance.get_dynamic_partitions("candidate")
        new, gone = [name for name in names if name not in known], [name for name in known if name not in names]
        settings = {name: candidate_settings(now, name) for name in names}
        asked = {
            name: hashlib.sha256(config.model_dump_json().encode()).hexdigest() for name, config in settings.items()
        }
        before = json.loads(context.cursor or "{}")  # what was asked for, or seen, last: nothing is asked for twice
        edited = [
            name for name in names if asked[name] != before.get(name) and is_edited(now.lake, name, settings[name])
        ]
        return dg.SensorResult(
            run_requests=[_optimise(name) for name in edited],
            dynamic_partitions_requests=[
                *([CANDIDATES.build_add_request(new)] if new else []),
                *([CANDIDATES.build_delete_request(gone)] if gone else []),
            ],
            cursor=json.dumps(asked),
        )

    return candidates


def is_edited(lake: Lake, name: str, config: OptimisationConfig) -> bool:
    """Whether the policy in force was made with other settings; one that was never made is not edited but missing."""
    try:
        made = OptimisationConfig.model_validate(lake.current("crraft_policy", name).manifest["spec"]["config"])
    except (ArtifactMissing, ValidationError):  # settings of a version that had others: its stage's version tells
        return False
    return made != config


def _optimise(name: str) -> dg.RunRequest:
    tags = {"rluf/asked_by": "candidates.yaml"}
    return dg.RunRequest(partition_key=name, asset_selection=[dg.AssetKey("crraft_policy")], tags=tags)
