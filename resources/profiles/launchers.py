"""Settings of launchers, and what each job needs from its launcher: the part of a profile that decides *where*.

Nothing here is in a fingerprint: a profile that moves a job to a cluster finds the artifacts that a laptop made.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

import rluf_assets.jobs
from resources.launchers.spec import VARIABLE_NAME, JobResources
from resources.profiles.accelerate import DEFAULT_CONFIG, known_accelerate_config
from rluf_assets.errors import ConfigError, nearest

AccelerateConfig = Annotated[str, AfterValidator(known_accelerate_config)]
SecretName = Annotated[str, Field(pattern=f"^{VARIABLE_NAME.pattern}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _AnyLauncher(_Frozen):
    python: str | None = Field(None, description="interpreter of the jobs; None: the path of the one running here")
    accelerate_config: AccelerateConfig = Field(
        DEFAULT_CONFIG,
        description="a packaged name (ddp, zero2, zero3) or a file: how jobs of several processes are launched",
    )


class LocalSettings(_AnyLauncher):
    """On this machine, light jobs in the Dagster process, the others as subprocesses.

    A job that wants an environment of its own (vLLM's, say) gets a launcher of its own: `kind: local` with `python`.
    """

    kind: Literal["local"] = "local"
    in_process: tuple[str, ...] = ()
    threads_per_job: int = Field(1, ge=1)


class _ClusterSettings(_AnyLauncher):
    secrets: tuple[SecretName, ...] = Field((), description="environment variables a job gets, by reference only")
    poll_s: float = Field(5.0, gt=0)
    submit_attempts: int = Field(5, ge=1)
    retry_wait_s: float = Field(5.0, ge=0)
    lost_limit_s: float = Field(86_400, gt=0, description="how long a running job's scheduler may be out of reach")


class SlurmSettings(_ClusterSettings):
    """Through sbatch; see `SlurmLauncher`."""

    kind: Literal["slurm"]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch_arguments: tuple[str, ...] = ()


class RaySettings(_ClusterSettings):
    """Through Ray's job submission API; see `RayLauncher`."""

    kind: Literal["ray"]
    address: str = "http://127.0.0.1:8265"


class _KubernetesSettings(_ClusterSettings):
    image: str
    volume_claim: str
    mount_path: str
    namespace: str = "default"
    context: str | None = None
    secret_name: str | None = None
    node_selector: dict[str, str] = {}
    run_as_user: int = Field(1000, ge=1)


class KubernetesSettings(_KubernetesSettings):
    """As batch/v1 Jobs; see `KubernetesLauncher`."""

    kind: Literal["kubernetes"]


class KubeRaySettings(_KubernetesSettings):
    """As RayJobs that KubeRay's operator runs; see `KubeRayLauncher`."""

    kind: Literal["kuberay"]
    ray_version: str
    start_s: int = Field(1800, ge=1)


LauncherSettings = Annotated[
    LocalSettings | SlurmSettings | RaySettings | KubernetesSettings | KubeRaySettings, Field(discriminator="kind")
]


class JobSettings(_Frozen):
    """Where one job runs and what it asks for; None: as the stage says."""

    launcher: str | None = Field(None, description="a name in `launchers`; None: the profile's `launcher`")
    nodes: int | None = Field(None, ge=1)
    gpus_per_node: int | None = Field(None, ge=0)
    cpus: int | None = Field(None, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    time_limit_s: int | None = Field(None, gt=0)

    def resources(self, ground: JobResources) -> JobResources:
        """What the stage asks for, with the profile's figures laid over it."""
        own = self.model_dump(exclude_none=True, exclude={"launcher"})
        return ground.model_copy(update=own)


def job_names() -> list[str]:
    """The jobs there are: modules of `rluf_assets.jobs`, found without importing them."""
    found = (module.name for module in pkgutil.iter_modules(rluf_assets.jobs.__path__))
    return sorted(name for name in found if not name.startswith("_") and name != "runner")


def check_jobs(jobs: Mapping[str, JobSettings], launchers: Collection[str]) -> None:
    """Raise ConfigError for a job or a launcher that is not there, naming the nearest one."""
    for name, settings in jobs.items():
        _check("jobs", name, job_names())
        if settings.launcher is not None:
            _check(f"jobs.{name}.launcher", settings.launcher, sorted(launchers))


def _check(place: str, name: str, known: list[str]) -> None:
    if name in known:
        return
    raise ConfigError(f"{place}: {name!r} is unknown; {nearest(name, known)}")
