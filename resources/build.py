"""Puts the resources of a profile together for the code location."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resources.launchers.profile import DEFAULT, ProfileLauncher
from resources.places import data_folder, locate
from resources.production import LoggedProduction, Production, SimulatedProduction
from resources.profiles import LoggedSettings, Profile
from resources.stage import LakeResource, StageRunner


def build_resources(profile: Profile, home: Path) -> dict[str, Any]:
    """Dagster resources by name: `lake`, `stage`, `production`."""
    named = {**profile.launchers, DEFAULT: profile.launcher}
    launcher = ProfileLauncher(
        launchers={name: settings.model_dump(mode="json") for name, settings in named.items()},
        by_job={name: settings.launcher for name, settings in profile.jobs.items() if settings.launcher},
    )
    lake = LakeResource(root=str(home.resolve() / "lake"))
    needs = {name: settings.model_dump(mode="json") for name, settings in profile.jobs.items()}
    stage = StageRunner(store=lake, launcher=launcher, seed=profile.seed, jobs=needs, pages_url=profile.pages_url)
    return {"lake": lake, "stage": stage, "production": _production(profile, stage, home)}


def _production(profile: Profile, stage: StageRunner, home: Path) -> Production:
    settings = profile.production
    if isinstance(settings, LoggedSettings):
        folder = data_folder(profile, home)
        return LoggedProduction(
            stage=stage,
            dated=settings.dated,
            messages=locate(settings.messages, folder),
            reactions=locate(settings.reactions, folder),
            log_format=settings.log_format,
            log_layout=settings.log_layout.model_dump(mode="json"),
            user_ids=settings.user_ids,
            first_day=settings.first_day.isoformat(),
            if_missing=settings.if_missing,
            preference_files={name: locate(source, folder) for name, source in settings.preferences.items()},
            past_launches_folder=settings.past_launches and locate(settings.past_launches, folder),
            ab_exposures_folder=settings.ab_exposures and locate(settings.ab_exposures, folder),
        )
    period = {"start_date": settings.first_day.isoformat(), "days": settings.days}
    return SimulatedProduction(
        stage=stage,
        logs_config={**settings.logs, **period},
        launches_config=settings.launches,
        ab_config=settings.ab_test,
    )
