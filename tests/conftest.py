"""Shared fixtures: the `tiny` loop, run once through the real command and shared by every test and worker.

`RLUF_TINY_HOME` names a folder that several test runs share (`.ci/run`: both tiers); whoever comes first fills it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

# Two test workers on two cores: what runs in them, and what they start, has one thread each unless a test says otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
DATA = Path(__file__).parents[2] / "shared" / "data"


# Files of few but long tests: begun last, they would leave one of two workers idle for minutes.
LONGEST = (
    "tests/loop/test_update",
    "tests/faults/test_automation",
    "tests/launchers/test_ray",
    "tests/launchers/test_slurm",
    "tests/loop/test_kill",
    "tests/real/test_real_logs",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; of the rest one test that makes the `tiny` loop, while others run that need none."""
    fast = [item for item in items if item.get_closest_marker("slow") is None]
    maker = next((item for item in fast if "tiny_home" in getattr(item, "fixturenames", ())), None)

    def order(item: pytest.Item) -> tuple[int, int]:
        long = next((n for n, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))
        return long, 0 if item is maker else 1 + ("tiny_home" in getattr(item, "fixturenames", ()))

    items.sort(key=order)


def run_rluf(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 1800
) -> subprocess.CompletedProcess[str]:
    """`rluf ...` as a user runs it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rluf_assets.cli", *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a finished `rluf demo --profile tiny`; read it, never write to it (copy it instead)."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    home = Path(os.environ.get("RLUF_TINY_HOME") or shared / "tiny-home")
    with FileLock(f"{home}.lock"):
        if not (home / "reports" / "summary.json").exists():
            done = run_rluf("demo", "--profile", "tiny", "--home", str(home))
            assert done.returncode == 0, f"rluf demo failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return home


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of real public data, laid out beside the project; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip("no folder ../shared/data with the public data sets (docs/real-data.md)")
    return DATA


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """An interpreter that has vLLM: what RLUF_VLLM_PYTHON names, else that of `make vllm-env`.

    Without one the test skips; RLUF_REQUIRE_VLLM=1 makes that a failure.
    """
    python = os.environ.get("RLUF_VLLM_PYTHON") or str(Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python")
    if not Path(python).exists():
        reason = f"no interpreter with vLLM at {python} (make vllm-env, or RLUF_VLLM_PYTHON)"
        if os.environ.get("RLUF_REQUIRE_VLLM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return python
