"""ProfileLauncher: the profile's launchers behind one; every job goes to the launcher that the profile names for it."""

import sys
from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field, TypeAdapter

from resources.launchers.base import Launcher
from resources.launchers.kuberay import KubeRayLauncher
from resources.launchers.kubernetes import KubernetesLauncher
from resources.launchers.local import LocalLauncher
from resources.launchers.ray import RayLauncher
from resources.launchers.slurm import SlurmLauncher
from resources.launchers.spec import JobResult, JobSpec
from resources.profiles.launchers import (
    KubeRaySettings,
    KubernetesSettings,
    LauncherSettings,
    LocalSettings,
    RaySettings,
    SlurmSettings,
)

DEFAULT = "default"


class ProfileLauncher(Launcher):
    """`launchers` holds settings by name (`default` among them), `by_job` the name for each job that has its own."""

    launchers: dict[str, Any]
    by_job: dict[str, str] = Field(default_factory=dict)

    def run_many(self, context: dg.AssetExecutionContext | None, specs: Sequence[JobSpec]) -> list[JobResult]:
        """Run jobs of one entry point on the launcher that is theirs."""
        return self.of(specs[0]).run_many(context, specs) if specs else []

    def render(self, spec: JobSpec) -> str:
        """What the job's launcher would hand over."""
        return self.of(spec).render(spec)

    def cancel(self, spec: JobSpec) -> None:
        """End the job, if it is alive."""
        self.of(spec).cancel(spec)

    def of(self, spec: JobSpec) -> Launcher:
        """The launcher of a job."""
        name = self.by_job.get(spec.entrypoint.rsplit(".", maxsplit=1)[-1], DEFAULT)
        settings: LauncherSettings = TypeAdapter(LauncherSettings).validate_python(self.launchers[name])
        return build_launcher(settings)


def build_launcher(settings: LauncherSettings) -> Launcher:
    """The launcher that a profile's settings describe."""
    given = settings.model_dump(mode="json", exclude={"kind"}) | {"python": settings.python or sys.executable}
    if isinstance(settings, LocalSettings):
        given["in_process"] = [f"rluf_assets.jobs.{name}" for name in settings.in_process]
    made: dict[type[BaseModel], type[Launcher]] = {
        LocalSettings: LocalLauncher,
        SlurmSettings: SlurmLauncher,
        RaySettings: RayLauncher,
        KubernetesSettings: KubernetesLauncher,
        KubeRaySettings: KubeRayLauncher,
    }
    return made[type(settings)](**given)
