"""Jobs that a scheduler has: they outlive the command that asked for them, and a person must know what became of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

from resources.build import build_resources
from resources.launchers.cluster import ClusterLauncher
from resources.launchers.spec import JobSpec
from resources.profiles import load_profile
from rluf_assets.lake import MANIFEST
from rluf_assets.materialise import Outcome, Unit


def jobs_that_go_on(home: Path, unit: Unit, outcome: Outcome) -> list[str]:
    """One sentence for each job that a scheduler was given for a unit of this run and that has not published anything."""
    since = time.time() - outcome.wall_s - 1
    launcher = build_resources(load_profile(home), home)["stage"].launcher
    schedulers: list[str] = []
    jobs: list[str] = []
    for file in _asked(home, unit):
        if file.stat().st_mtime < since or (file.parents[1] / MANIFEST).exists():
            continue
        own = launcher.of(JobSpec.model_validate_json(file.read_text()))
        if isinstance(own, ClusterLauncher):
            schedulers.append(own.scheduler)
            jobs += [
                f"{own.scheduler} job {job} goes on, and the same command comes back to it" for job in _ids(file.parent)
            ]
    if schedulers and not jobs:
        jobs = [f"a job may be on its way to {schedulers[0]}; the same command finds it by its name"]
    return list(dict.fromkeys(jobs))


def _asked(home: Path, unit: Unit) -> list[Path]:
    lake = (home / "lake").resolve()
    found = (file for asset in unit.assets for file in lake.glob(f"{asset}/{unit.partition or '*'}/*/logs/spec.json"))
    return sorted(found)


def _ids(logs: Path) -> list[str]:
    """The id of the newest submission of a job; of an array of days it stands with the first of them."""
    records = [file for file in (logs / "submissions.json", *logs.glob("batch-*/submissions.json")) if file.exists()]
    newest = sorted(records, key=lambda file: file.stat().st_mtime)[-1:]
    return [str(json.loads(file.read_text())[-1]["job_id"]) for file in newest]
