"""Puts the resources of a profile together for the code location."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resources.launchers.local import LocalLauncher
from resources.production import LoggedProduction, Production, SimulatedProduction
from resources.profiles import LoggedSettings, Profile
from resources.stage import LakeResource, StageRunner


def build_resources(profile: Profile, home: Path) -> dict[str, Any]:
    """Dagster resources by name: `lake`, `stage`, `production`."""
    launcher = LocalLauncher(
        in_process=[f"rluf_assets.jobs.{name}" for name in profile.launcher.in_process],
        threads_per_job=profile.launcher.threads_per_job,
    )
    lake = LakeResource(root=str(home / "lake"))
    stage = StageRunner(store=lake, launcher=launcher, seed=profile.seed)
    return {"lake": lake, "stage": stage, "production": _production(profile, stage)}


def _production(profile: Profile, stage: StageRunner) -> Production:
    settings = profile.production
    if isinstance(settings, LoggedSettings):
        return LoggedProduction(
            stage=stage,
            messages=settings.messages,
            reactions=settings.reactions,
            log_format=settings.log_format,
            preference_files=settings.preferences,
            past_launches_folder=settings.past_launches,
            ab_exposures_folder=settings.ab_exposures,
        )
    period = {"start_date": settings.first_day.isoformat(), "days": settings.days}
    return SimulatedProduction(
        stage=stage,
        logs_config={**settings.logs, **period},
        launches_config=settings.launches,
        ab_config=settings.ab_test,
    )
