"""signals: which signal to trust, the training set built from it, expert pairs, and the fixed prompts."""

from typing import Any

import dagster as dg

from resources.stage import Work
from rluf_assets.assets.common import OWNERS, HomeSettings, Production, Result, StageRunner, days_of, fresh
from rluf_assets.automation import follows
from rluf_assets.partitions import OBJECTIVES

SIGNALS: dict[str, Any] = {
    "group_name": "signals",
    "owners": OWNERS,
    "kinds": {"polars", "parquet"},
}


def signal_assets(home: HomeSettings) -> list[dg.AssetsDefinition]:
    """The assets of the group for one home."""
    profile, daily = home.profile, fresh(home, daily=True)

    @dg.asset(
        **SIGNALS,
        code_version=profile.signal_audit.version,
        deps=["validated_replies"],
        freshness_policy=daily,
        automation_condition=follows(),
    )
    def signal_audit(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per candidate signal: volume, correlation with returning users, purity, adversarial share."""
        inputs = days_of(home, stage.lake, "validated_replies")
        return stage.run(context, Work("signal_audit", profile.signal_audit, inputs))

    # Made again by people alone: candidates stay comparable.
    @dg.asset(
        **SIGNALS, code_version=profile.evaluation_prompts.version, deps=["validated_replies"], freshness_policy=daily
    )
    def evaluation_prompts(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per fixed prompt: some to optimise on, and later users' to evaluate on."""
        inputs = days_of(home, stage.lake, "validated_replies")
        return stage.run(context, Work("evaluation_prompts", profile.evaluation_prompts, inputs))

    @dg.asset(
        **SIGNALS,
        code_version=profile.signal_set.version,
        deps=["validated_replies", evaluation_prompts],
        freshness_policy=daily,
        automation_condition=follows(
            without=["evaluation_prompts"]
        ),  # where nobody made any, no user is kept out for them
    )
    def signal_set(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per training example (TRL unpaired preference), upsampled; and a later holdout at the natural rate.

        Users of the fixed prompts, where those are made, are in no training row of this set or a later one.
        """
        made = stage.lake.partitions("evaluation_prompts")
        prompts = {"evaluation_prompts": stage.lake.current("evaluation_prompts")} if made else {}
        inputs = days_of(home, stage.lake, "validated_replies") | prompts
        return stage.run(context, Work("signal_set", profile.signal_set, inputs))

    # Brought in by people, not by the day.
    @dg.asset(**SIGNALS, code_version=profile.preference_pairs.version, partitions_def=OBJECTIVES)
    def preference_pairs(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Result:
        """One row per expert pair (TRL preference): helpfulness or safety; broken pairs in the quarantine beside it."""
        return stage.run(context, production.preferences(context, context.partition_key, profile.preference_pairs))

    return [signal_audit, evaluation_prompts, signal_set, preference_pairs]
