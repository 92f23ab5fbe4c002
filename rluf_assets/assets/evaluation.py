"""evaluation: what is predicted before users see a candidate, what they did when they saw it, and the decision."""

from typing import Any

import dagster as dg

from resources.production import versions
from resources.profiles import LoggedSettings
from resources.stage import Work
from rluf_assets.assets.common import (
    OWNERS,
    HomeSettings,
    Production,
    Result,
    StageRunner,
    days_of,
    each_candidate,
    fresh,
)
from rluf_assets.assets.policy import rewards_of
from rluf_assets.assets.release import ReleaseRecord, chosen_candidate, release_work
from rluf_assets.automation import follows
from rluf_assets.evaluation.logged_arms import ArmsConfig
from rluf_assets.lake import Lake, read_json
from rluf_assets.objectives import REWARDS
from rluf_assets.partitions import CANDIDATES

EVALUATION: dict[str, Any] = {"group_name": "evaluation", "owners": OWNERS}


def evaluation_assets(home: HomeSettings) -> list[dg.AssetsDefinition]:
    """The assets of the group for one home."""
    return [*_per_candidate(home), *_launches(home), *_comparisons(home), *_decision(home)]


def _live(home: HomeSettings) -> bool:
    """Whether candidates have an A/B test."""
    settings = home.profile.production
    return not isinstance(settings, LoggedSettings) or settings.ab_exposures is not None


def _arms(home: HomeSettings) -> bool:
    """Whether the arms that the logs name stand for past launches."""
    settings = home.profile.production
    return isinstance(settings, LoggedSettings) and settings.past_launches is None


def _per_candidate(home: HomeSettings) -> list[dg.AssetsDefinition]:
    shared: dict[str, Any] = {**EVALUATION, "partitions_def": CANDIDATES, "freshness_policy": fresh(home)}

    @dg.asset(
        **shared,
        code_version=home.profile.offline_evaluation.version,
        kinds={"torch"},
        deps=["crraft_policy", "evaluation_prompts", *REWARDS.values()],
        automation_condition=follows(),
    )
    def offline_evaluation(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per prompt x completion x objective: the candidate's completions, scored and judged."""
        inputs = {
            "policy": stage.lake.current("crraft_policy", context.partition_key),
            "evaluation_prompts": stage.lake.current("evaluation_prompts"),
            **rewards_of(stage.lake),
        }
        return stage.run(context, Work("evaluate_candidate", home.profile.offline_evaluation, inputs))

    @dg.asset(
        **shared,
        code_version=versions(home.profile.production)["ab_exposures"],
        kinds={"parquet"},
        output_required=False,
        deps=["crraft_policy"],
        automation_condition=follows(optional=True),
    )
    def ab_exposures(context: dg.AssetExecutionContext, stage: StageRunner, production: Production):  # type: ignore[no-untyped-def]
        """One row per user exposed to the candidate's arm: replies, reactions, returns; not made where it was never live."""
        from rluf_assets.evaluation.decision_log import bind_plan

        policy = stage.lake.current("crraft_policy", context.partition_key)
        if _live(home):  # what the test will be judged by goes on record before anything of it is read
            record = bind_plan(stage.lake, context.partition_key, policy.content_hash, home.profile.ab_plan)
            context.log.info(f"Plan on record for these weights: {record.plan}, since {record.at}.")
        work = production.ab_test(context, context.partition_key, policy)
        if work is None:
            context.log.info("The production has no A/B test of this candidate: ab_exposures is not made.")
            return
        yield stage.run(context, work)

    return [offline_evaluation, ab_exposures]


def _launches(home: HomeSettings) -> list[dg.AssetsDefinition]:
    profile = home.profile
    shared: dict[str, Any] = {**EVALUATION, "freshness_policy": fresh(home)}

    @dg.asset(
        **shared,
        code_version=ArmsConfig.version if _arms(home) else versions(profile.production)["past_launches"],
        kinds={"parquet"},
        deps=["evaluation_prompts", *(["validated_replies", "signal_set"] if _arms(home) else [])],
        automation_condition=follows(),
    )
    def past_launches(context: dg.AssetExecutionContext, stage: StageRunner, production: Production) -> Result:
        """One row per past policy x evaluation prompt with the text it produced, and its A/B counts."""
        work = production.past_launches(context, stage.lake.current("evaluation_prompts"))
        return stage.run(context, work or _logged_arms(home, stage.lake))

    @dg.asset(
        **shared,
        code_version=profile.offline_online_backtest.version,
        kinds={"torch"},
        deps=[past_launches, "evaluation_prompts", "p_love", "signal_set", "ab_exposures"],
        automation_condition=follows(besides=["signal_set"]),  # a new day alone changes no launch
    )
    def offline_online_backtest(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per past policy: the change of the signal that P[signal] predicts, and the change users showed."""
        lake = stage.lake
        inputs = {
            **{name: lake.current(name) for name in ("past_launches", "evaluation_prompts", "signal_set")},
            "reward": lake.current("p_love"),
            **each_candidate(home, lake, "ab_exposures", required=False),
        }
        kept_out = {"kept_out_share": profile.signal_set.established_share}
        config = profile.offline_online_backtest.model_copy(update=kept_out)
        return stage.run(context, Work("offline_online_backtest", config, inputs))

    return [past_launches, offline_online_backtest]


def _logged_arms(home: HomeSettings, lake: Lake) -> Work:
    made = home.profile.signal_set
    baseline = home.profile.ab_test_readout.baseline
    config = ArmsConfig(signal=made.signal, baseline=baseline, adversarial=made.adversarial)
    inputs = {**days_of(home, lake, "validated_replies"), "signal_set": lake.current("signal_set")}
    return Work("logged_arms", config, inputs)


def _comparisons(home: HomeSettings) -> list[dg.AssetsDefinition]:
    profile = home.profile
    shared: dict[str, Any] = {**EVALUATION, "freshness_policy": fresh(home)}

    @dg.asset(
        **shared,
        code_version=profile.reward_hacking_audit.version,
        kinds={"polars", "plotly"},
        deps=["offline_evaluation", "signal_set"],
        automation_condition=follows(besides=["signal_set"]),  # a new day alone changes no candidate
    )
    def reward_hacking_audit(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per candidate x tripwire, against `baseline` and the logged replies."""
        evaluations = each_candidate(home, stage.lake, "offline_evaluation")
        inputs = {**evaluations, "signal_set": stage.lake.current("signal_set")}
        return stage.run(context, Work("reward_hacking_audit", profile.reward_hacking_audit, inputs))

    @dg.asset(
        **shared,
        code_version=profile.readout.version,
        kinds={"polars"},
        deps=["ab_exposures", *(["past_launches"] if _arms(home) else [])],
        automation_condition=follows(),
    )
    def ab_test_readout(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per candidate x metric: lift over `baseline`, interval, p-value; of the logs' own arms if none was live."""
        inputs = each_candidate(home, stage.lake, "ab_exposures", required=_live(home))
        if not inputs and _arms(home):
            inputs = {"logged_arms": stage.lake.current("past_launches")}
        return stage.run(context, Work("ab_test_readout", profile.readout, inputs))

    not_the_candidates = ["crraft_policy", "validated_replies", "signal_set", "evaluation_prompts", "p_love"]

    @dg.asset(
        **shared,
        code_version=profile.off_policy_evaluation.version,
        kinds={"polars", "torch"},
        deps=["offline_evaluation", *not_the_candidates],
        automation_condition=follows(besides=not_the_candidates),  # what comes anew is what a candidate says
    )
    def off_policy_evaluation(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per candidate and logged arm: the rate that the logs alone tell, or that they do not overlap enough."""
        lake, evaluated = stage.lake, profile.offline_evaluation
        config = profile.off_policy_evaluation.model_copy(
            update={
                "signal": profile.signal_set.signal,
                "adversarial": profile.signal_set.adversarial,
                "baseline": profile.release_report.baseline,
                "love_objective": profile.release_report.love_objective,
                "temperature": evaluated.temperature,
                "max_new_tokens": evaluated.max_new_tokens,
            }
        )
        inputs = {
            **days_of(home, lake, "validated_replies"),
            **each_candidate(home, lake, "offline_evaluation"),
            **each_candidate(home, lake, "crraft_policy"),
            "signal_set": lake.current("signal_set"),
            "evaluation_prompts": lake.current("evaluation_prompts"),
            "reward": lake.current("p_love"),
        }
        return stage.run(context, Work("off_policy_evaluation", config, inputs))

    return [reward_hacking_audit, ab_test_readout, off_policy_evaluation]


def _decision(home: HomeSettings) -> list[dg.AssetsDefinition]:
    profile = home.profile
    shared: dict[str, Any] = {**EVALUATION, "freshness_policy": fresh(home)}
    # The report comes once, when all is compared: whatever else changes with a model changes the comparisons after it.
    compared = ("off_policy_evaluation", "reward_hacking_audit", "ab_test_readout")
    seldom = ("offline_evaluation", "ab_exposures", "offline_online_backtest", "signal_set", *REWARDS.values())

    @dg.asset(
        **shared,
        code_version=profile.release_report.version,
        kinds={"plotly"},
        deps=[*compared, *seldom],
        automation_condition=follows(besides=seldom),
    )
    def release_report(context: dg.AssetExecutionContext, stage: StageRunner) -> Result:
        """One row per candidate against `baseline`: promote, hold or needs A/B, and why; the page people read."""
        from rluf_assets.evaluation.decision_log import policy_hashes, record_decisions, release_config

        lake, names = stage.lake, home.candidates
        inputs = {
            **each_candidate(home, lake, "offline_evaluation"),
            **each_candidate(home, lake, "ab_exposures", required=_live(home)),
            **rewards_of(lake),
            **{name: lake.current(name) for name in (*compared, "offline_online_backtest", "signal_set")},
        }
        evidence = {name: artifact.content_hash for name, artifact in inputs.items()}
        config = release_config(profile.release_report, profile.ab_plan, lake, names, evidence)
        result = stage.run(context, Work("release_report", config, inputs))
        summary = read_json(lake.current("release_report").path("summary.json"))
        asked_by = f"Dagster run {context.run_id}"
        record_decisions(lake, summary, policy_hashes(lake, names), evidence, asked_by=asked_by)
        return result

    @dg.asset(
        **shared,
        code_version=ReleaseRecord.version,
        kinds={"huggingface"},
        output_required=False,
        deps=[release_report, "crraft_policy"],
        # New weights are not released on the word of a report about the old ones.
        automation_condition=follows(besides=["crraft_policy"], optional=True),
    )
    def released_policy(context: dg.AssetExecutionContext, stage: StageRunner):  # type: ignore[no-untyped-def]
        """The policy in force: model card, lineage, the one before it; withheld (not materialised) on hold."""
        report = stage.lake.current("release_report")
        candidate = chosen_candidate(report, stage.lake)
        if candidate is None:
            context.log.info("No candidate is promoted: released_policy is withheld and the policy in force stays.")
            return
        yield stage.run(context, release_work(stage.lake, report, candidate))

    return [release_report, released_policy]
