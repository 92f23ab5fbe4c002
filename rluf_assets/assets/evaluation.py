"""evaluation: what is predicted before users see a candidate, what they did when they saw it, and the decision."""

from typing import Any

import dagster as dg

from resources.stage import Work
from rluf_assets.assets.common import OWNERS, Production, Result, StageRunner, each_candidate
from rluf_assets.assets.policy import crraft_policy, rewards_of
from rluf_assets.assets.reward_models import helpfulness_reward, p_love, safety_reward
from rluf_assets.assets.signals import evaluation_prompts, signal_set
from rluf_assets.partitions import CANDIDATES, profile

EVALUATION: dict[str, Any] = {"group_name": "evaluation", "owners": OWNERS, "code_version": "1"}


@dg.asset(
    **EVALUATION,
    kinds={"torch"},
    partitions_def=CANDIDATES,
    deps=[crraft_policy, evaluation_prompts, p_love, helpfulness_reward, safety_reward],
)
def offline_evaluation(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """One row per prompt x completion x objective: the candidate's completions, scored and judged."""
    inputs = {
        "policy": stage.lake.current("crraft_policy", context.partition_key),
        "evaluation_prompts": stage.lake.current("evaluation_prompts"),
        **rewards_of(stage.lake),
    }
    return stage.run(context, Work("evaluate_candidate", profile().offline_evaluation, inputs))


@dg.asset(**EVALUATION, kinds={"parquet"}, partitions_def=CANDIDATES, deps=[crraft_policy])
def ab_exposures(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Result:
    """One row per user exposed to the candidate's arm: replies, reactions, returns."""
    policy = stage.lake.current("crraft_policy", context.partition_key)
    return stage.run(context, production.ab_test(context, context.partition_key, policy))


@dg.asset(**EVALUATION, kinds={"polars", "plotly"}, deps=[offline_evaluation, signal_set])
def reward_hacking_audit(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """One row per candidate x tripwire, against `baseline` and the logged replies."""
    inputs = {**each_candidate(stage.lake, "offline_evaluation"), "signal_set": stage.lake.current("signal_set")}
    return stage.run(context, Work("reward_hacking_audit", profile().reward_hacking_audit, inputs))


@dg.asset(**EVALUATION, kinds={"polars"}, deps=[ab_exposures])
def ab_test_readout(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """One row per candidate x metric: lift over `baseline`, interval, p-value."""
    inputs = each_candidate(stage.lake, "ab_exposures")
    return stage.run(context, Work("ab_test_readout", profile().ab_test_readout, inputs))


@dg.asset(**EVALUATION, kinds={"parquet"}, deps=[evaluation_prompts])
def past_launches(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Result:
    """One row per past policy x evaluation prompt with the text it produced, and its A/B counts."""
    return stage.run(context, production.past_launches(context, stage.lake.current("evaluation_prompts")))


@dg.asset(**EVALUATION, kinds={"torch"}, deps=[past_launches, evaluation_prompts, p_love])
def offline_online_backtest(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """One row per past policy: the change of the signal that P[signal] predicts, and the change users showed."""
    inputs = {
        "past_launches": stage.lake.current("past_launches"),
        "evaluation_prompts": stage.lake.current("evaluation_prompts"),
        "reward": stage.lake.current("p_love"),
    }
    return stage.run(context, Work("offline_online_backtest", profile().offline_online_backtest, inputs))


@dg.asset(
    **EVALUATION,
    kinds={"plotly"},
    deps=[
        offline_evaluation,
        ab_exposures,
        reward_hacking_audit,
        ab_test_readout,
        offline_online_backtest,
        signal_set,
        p_love,
        helpfulness_reward,
        safety_reward,
    ],
)
def release_report(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
    """One row per candidate against `baseline`: promote, hold or needs A/B, and why; the page people read."""
    lake = stage.lake
    inputs = {
        **each_candidate(lake, "offline_evaluation"),
        **each_candidate(lake, "ab_exposures"),
        **rewards_of(lake),
        **{
            name: lake.current(name)
            for name in ("reward_hacking_audit", "ab_test_readout", "offline_online_backtest", "signal_set")
        },
    }
    return stage.run(context, Work("release_report", profile().release_report, inputs))


@dg.asset(**EVALUATION, kinds={"huggingface"}, output_required=False, deps=[release_report, crraft_policy])
def released_policy(context: dg.AssetExecutionContext, stage: StageRunner):  # type: ignore[no-untyped-def]
    """The policy in force: model card, lineage, the one before it; withheld (not materialised) on hold."""
    from rluf_assets.assets.release import chosen_candidate, release_work

    report = stage.lake.current("release_report")
    candidate = chosen_candidate(report, stage.lake)
    if candidate is None:
        context.log.info("No candidate is promoted: released_policy is withheld and the policy in force stays.")
        return
    yield stage.run(context, release_work(stage.lake, report, candidate))
