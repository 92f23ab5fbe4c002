"""JobSpec: one unit of work as JSON, the only thing that crosses from the control plane to the compute plane.

The fingerprint covers what decides the result (entry point, stage version, config, seed, inputs' content) and leaves
out where and how fast it runs (launcher, resources, environment, folders).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rluf_assets.lake import Artifact, make_fingerprint

# An environment of a job is written to its spec, script and manifest, so nothing that looks like a secret may be in it.
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|(API|ACCESS|AUTH)_?KEY", re.IGNORECASE)
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputArtifact(_Frozen):
    """A published artifact that a job reads: where it is, and what it holds."""

    uri: str
    content_hash: str

    @classmethod
    def of(cls, artifact: Artifact) -> InputArtifact:
        return cls(uri=artifact.uri, content_hash=artifact.content_hash)


class JobResources(_Frozen):
    """What a job needs from a scheduler. CPU-only jobs have `gpus_per_node` 0."""

    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    memory_gb: float = Field(2.0, gt=0)
    time_limit_s: int = Field(3600, gt=0)

    @property
    def processes(self) -> int:
        """Processes of the job: one per GPU, one per node without GPUs."""
        return self.nodes * max(1, self.gpus_per_node)


class JobSpec(_Frozen):
    """One job: `python -m <entrypoint> SPEC.json` reads `inputs` and publishes an artifact at `output_uri`."""

    name: str
    entrypoint: str
    version: str
    seed: int
    output_uri: str
    config: dict[str, Any] = {}
    inputs: dict[str, InputArtifact] = {}
    resources: JobResources = JobResources()
    env: dict[str, str] = {}

    @field_validator("entrypoint")
    @classmethod
    def _entrypoint_is_a_job(cls, value: str) -> str:
        if not value.startswith("rluf_assets.jobs.") or not all(part.isidentifier() for part in value.split(".")):
            raise ValueError(f"entrypoint {value!r}: expected a module under rluf_assets.jobs")
        return value

    @field_validator("name", "output_uri")
    @classmethod
    def _no_nul(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError(f"{value!r}: holds a NUL character, which no command line or path can carry")
        return value

    @field_validator("env")
    @classmethod
    def _plain_environment(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not VARIABLE_NAME.fullmatch(name) or "\0" in text:
                raise ValueError(f"environment variable {name!r}: expected letters, digits and _, and no NUL in it")
            if SECRET_NAME.search(name):
                raise ValueError(
                    f"environment variable {name!r} looks like a secret; a job's spec is written to disk. "
                    "Name it in the launcher's `secrets` instead: it is then passed by reference"
                )
        return value

    @property
    def fingerprint(self) -> str:
        hashes = {name: artifact.content_hash for name, artifact in self.inputs.items()}
        return make_fingerprint(f"{self.entrypoint}/{self.version}", self.config, hashes, self.seed)


@dataclass(frozen=True)
class JobResult:
    """The artifact a job published and whether it ran now or was found finished."""

    artifact: Artifact
    reused: bool
    history: JobHistory | None = None


@dataclass(frozen=True)
class JobHistory:
    """What it took a scheduler to run a job, over all submissions. Times in seconds."""

    launcher: str
    job_id: str
    submissions: int
    queue_s: float
    run_s: float
