"""JobSpec: one unit of work as JSON, the only thing that crosses from the control plane to the compute plane.

The fingerprint covers what decides the result (entry point, stage version, config, seed, inputs' content) and leaves
out where and how fast it runs (launcher, resources, environment, folders).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rluf_assets.lake import Artifact, make_fingerprint


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

    @property
    def fingerprint(self) -> str:
        hashes = {name: artifact.content_hash for name, artifact in self.inputs.items()}
        return make_fingerprint(f"{self.entrypoint}/{self.version}", self.config, hashes, self.seed)


@dataclass(frozen=True)
class JobResult:
    """The artifact a job published and whether it ran now or was found finished."""

    artifact: Artifact
    reused: bool
