"""How long does the code location take to load? `python -m benchmarks.definitions [--python OTHER]`

Fresh processes, alternating: Python alone, `import dagster`, and the definitions of an empty home. The floor is Dagster
itself: what the toolkit adds is the difference. `--python` names another interpreter, e.g. that of an environment
with the control plane alone (`pip install .`, no torch). Wall time, and processor time, which other work on the
machine bends less.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

CASES = {
    "python": "pass",
    "import dagster": "import dagster",
    "definitions": "from rluf_assets.definitions import code_location; code_location().get_repository_def()",
}


def measure(python: str, code: str, home: str) -> tuple[float, float]:
    """Wall and processor seconds of one fresh process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "RLUF_HOME": home, "DAGSTER_HOME": home}
    subprocess.run([python, "-W", "ignore", "-c", code], env=environment, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter to measure")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as home:
        for code in CASES.values():  # warms the file cache and writes bytecode
            measure(given.python, code, home)
        for _ in range(given.repeats):
            for name, code in CASES.items():
                found[name].append(measure(given.python, code, home))
    torch = subprocess.run([given.python, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    print(f"torch {'installed' if torch else 'not installed'}; median (lowest to highest) of {given.repeats}")
    print(f"{'':16} {'wall s':>22} {'processor s':>22}")
    for name, times in found.items():
        cells = (f"{statistics.median(t):.2f} ({min(t):.2f} to {max(t):.2f})" for t in zip(*times, strict=True))
        print(f"{name:16} " + " ".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
