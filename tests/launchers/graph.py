"""A part of the `tiny` graph through a launcher, compared with what a plain local run made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import run_rluf


def artifacts(home: Path) -> dict[str, str]:
    """`asset/partition/fingerprint` -> content hash of everything in the lake."""
    lake = home / "lake"
    found = {}
    for path in lake.rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        found[f"{path.parent.parent.relative_to(lake)}/{manifest['fingerprint']}"] = manifest["content_hash"]
    return found


def check_graph_through(launcher: dict[str, Any], tiny_home: Path, home: Path, without: Sequence[str]) -> None:
    """Run `rluf demo --profile tiny` with every job on the launcher; same fingerprints, same content hashes.

    It starts from the local run's home, takes these `asset/partition` out of it, and makes only them; with another number
    of threads than the local run had: what is stored must not depend on it.
    """
    shutil.copytree(tiny_home, home)
    for folder in without:
        shutil.rmtree(home / "lake" / folder)
    assert artifacts(home) != artifacts(tiny_home)
    (home / "rluf.yaml").write_text(yaml.safe_dump({"profile": "tiny", "launcher": launcher}))
    done = run_rluf("demo", "--profile", "tiny", "--home", str(home), env={"OMP_NUM_THREADS": "3"}, timeout_s=1200)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert artifacts(home) == artifacts(tiny_home)
    jobs = {path.relative_to(home / "lake").parts[0] for path in (home / "lake").rglob("submissions.json")}
    assert {folder.split("/")[0] for folder in without} <= jobs
