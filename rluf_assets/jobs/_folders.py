"""Inputs of a job by name: `<asset>/<candidate>` as a mapping from candidate to folder."""

from __future__ import annotations

from pathlib import Path

from rluf_assets.errors import ArtifactMissing
from rluf_assets.jobs.runner import Job


def folders_of(job: Job, asset: str, *, required: bool = True) -> dict[str, Path]:
    """Folder per candidate of the inputs named `<asset>/<candidate>`, in the inputs' order.

    Raises ArtifactMissing if there is none and some are required.
    """
    prefix = f"{asset}/"
    found = {name.removeprefix(prefix): job.input(name) for name in job.spec.inputs if name.startswith(prefix)}
    if required and not found:
        raise ArtifactMissing(
            f"{job.spec.name}: found inputs {sorted(job.spec.inputs)}, expected some named {prefix}<candidate>. "
            f"Materialise {asset} for the baseline and at least one candidate."
        )
    return found


def optional_folder(job: Job, name: str) -> Path | None:
    """Folder of an input that may be absent."""
    return job.input(name) if name in job.spec.inputs else None
