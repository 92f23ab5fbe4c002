"""Every job of the graph that a profile describes, in the graph's order, with what it needs.

Jobs that compute with a model come with an estimate (`planning`), the others with what they ask of their launcher.
Days and candidates are partitions: a job of a daily asset stands here once, for one day or a range of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from resources.launchers.spec import JobResources
from resources.profiles import LoggedSettings, Profile
from rluf_assets.objectives import REWARDS
from rluf_assets.plan_shapes import ROLES
from rluf_assets.planning import (
    Estimate,
    estimate_backtest,
    estimate_base,
    estimate_evaluation,
    estimate_exposures,
    estimate_off_policy,
    estimate_policy,
    estimate_reward,
)
from rluf_assets.policy.config import OptimisationConfig

LOGS = (
    ("ingest", "raw_messages[DAY]"),
    ("ingest", "raw_reactions[DAY]"),
    ("validate_replies", "validated_replies[DAY]"),
    ("signal_audit", "signal_audit"),
    ("signal_set", "signal_set"),
    ("preference_pairs", "preference_pairs[helpfulness]"),
    ("preference_pairs", "preference_pairs[safety]"),
    ("evaluation_prompts", "evaluation_prompts"),
)
DECISION = (
    ("reward_hacking_audit", "reward_hacking_audit"),
    ("ab_test_readout", "ab_test_readout"),
    ("release_report", "release_report"),
    ("release_policy", "released_policy"),
)


def estimates(profile: Profile, candidates: Mapping[str, OptimisationConfig]) -> Iterator[Estimate]:
    """One row per job and asset."""

    def needs(job: str) -> JobResources:
        return profile.jobs[job].resources(JobResources()) if job in profile.jobs else JobResources()

    logged = isinstance(profile.production, LoggedSettings)
    for job, asset in LOGS if logged else (("play_production", "production_store"), *LOGS):
        yield Estimate(job, asset, needs(job))
    yield estimate_base(profile, needs("train_base_policy"))
    for asset, role in zip(REWARDS.values(), ROLES, strict=True):
        yield estimate_reward(asset, role, getattr(profile, asset), profile, needs("train_reward"))
    for name, config in candidates.items():
        yield estimate_policy(name, config, profile, needs("optimise_policy"))
        yield estimate_evaluation(name, profile, needs("evaluate_candidate"))
    launches, exposures = _production_jobs(profile)
    if exposures is not None:
        for name in candidates:
            played = exposures == "play_ab_test"
            told = Estimate(exposures, f"ab_exposures[{name}]", needs(exposures))
            yield estimate_exposures(name, profile, needs(exposures)) if played else told
    yield Estimate(launches, "past_launches", needs(launches))
    yield estimate_backtest(profile, needs("offline_online_backtest"))
    yield estimate_off_policy(profile, needs("off_policy_evaluation"))
    for job, asset in DECISION:
        yield Estimate(job, asset, needs(job))


def _production_jobs(profile: Profile) -> tuple[str, str | None]:
    """The jobs of past launches and of a candidate's exposures (None: no candidate was live)."""
    settings = profile.production
    if not isinstance(settings, LoggedSettings):
        return "play_past_launches", "play_ab_test"
    launches = "adopt_tables" if settings.past_launches else "logged_arms"
    return launches, "adopt_tables" if settings.ab_exposures else None
