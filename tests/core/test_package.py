"""The package as others get it: a wheel in a clean environment, the control plane alone, without torch.

Needs a package index (whatever pip is set up to use). The extras are what `make install` installs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("rluf_assets", "resources", "data_checks")
# `dagster definitions validate` in the project that `rluf init` made: its workspace.yaml, its settings.
VALIDATE = ["-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in its source."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(base / "dist"), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return next((base / "dist").glob("rluf-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(tracked) <= packed


@pytest.mark.slow
def test_the_control_plane_works_without_torch(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    python, rluf = venv / "bin" / "python", venv / "bin" / "rluf"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel], check=True, capture_output=True
    )
    environment = {
        "PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "yes",
        "RLUF_HOME": str(tmp_path / "mine"), "PYTHONWARNINGS": "ignore",
    }  # fmt: skip

    def run(*command: str | os.PathLike[str], status: int = 0, cwd: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    assert "No module named 'torch'" in run(python, "-c", "import torch", status=1)
    assert "rollback" in run(rluf, "--help")
    run(rluf, "init", "mine")
    # 1: the project's logs are not there yet, and it says so.
    assert "MEND" in run(rluf, "doctor", "--home", "mine", status=1)
    assert "rluf_assets.definitions" in run(python, *VALIDATE, cwd=tmp_path / "mine")
    assert "crraft_policy" in run(rluf, "plan", "--profile", "laptop")
    pairs = '{"prompt": [{"role": "user", "content": "a"}], "chosen": [], "rejected": []}\n'
    (tmp_path / "pairs.jsonl").write_text(pairs)
    said = run(
        rluf, "train-reward", "--objective", "kind", "--train", "pairs.jsonl", "--eval", "pairs.jsonl", "--base", "mine",
        "--out", "model", status=1,
    )  # fmt: skip
    assert "pip install 'rluf[train]'" in said


def test_pre_commit_runs_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"].removeprefix(".venv/bin/").split(" --force-exclude")[0] for hook in hooks]
    check = (ROOT / "Makefile").read_text().split("check: install")[1].split("\n\n")[0]
    assert entries == ["ruff check", "ruff format", "mypy", "lint-imports"]
    assert all(f"$(BIN)/{entry}" in check for entry in entries)


@pytest.mark.slow
def test_dagsters_own_tool_reads_the_project(tmp_path: Path) -> None:
    dg = Path(sys.executable).with_name("dg")
    environment = {**os.environ, "RLUF_HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path)}

    def run(*words: str) -> str:
        done = subprocess.run([dg, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "All definitions loaded successfully" in run("check", "defs")
    listed = run("list", "defs", "--json")
    assert '"crraft_policy"' in listed
    assert '"decide_release"' in listed
