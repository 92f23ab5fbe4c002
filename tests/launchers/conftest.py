"""Real schedulers for the launchers' tests. Where there is none they skip, unless RLUF_REQUIRE_SCHEDULERS is set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resources.launchers.spec import InputArtifact, JobSpec

pytest.register_assert_rewrite("tests.launchers.graph")


def absent(reason: str) -> None:
    """Skip, or fail where schedulers were promised (`.ci/run` sets the variable)."""
    if os.environ.get("RLUF_REQUIRE_SCHEDULERS"):
        pytest.fail(f"RLUF_REQUIRE_SCHEDULERS is set, but {reason}")
    pytest.skip(reason)


def eventually(what: Callable[[], Any], meaning: str, seconds: float = 240) -> Any:
    """Wait until `what()` is true and return it; a generous bound, for machines that are busy."""
    for _ in range(int(seconds / 0.2)):
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"did not happen in {seconds:g} s: {meaning}")


def adopt_spec(base: Path, name: str = "adopted", **changes: Any) -> JobSpec:
    """A short real job: it copies one small table into its artifact."""
    source = base / "source"
    source.mkdir(exist_ok=True, parents=True)
    (source / "table.json").write_text("{}")
    given: dict[str, Any] = {
        "name": name,
        "entrypoint": "rluf_assets.jobs.adopt_tables",
        "version": "1",
        "seed": 0,
        "output_uri": str(base / name),
        "config": {"tables": {"table.json": []}},
        "inputs": {"source": InputArtifact(uri=str(source), content_hash="1")},
    }
    return JobSpec.model_validate({**given, **changes})


def submissions(spec: JobSpec) -> list[dict[str, Any]]:
    path = Path(spec.output_uri) / "logs" / "submissions.json"
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return found


@dataclass
class Worker:
    """A Dagster run worker in a process of its own, which materialises one asset through a launcher."""

    process: subprocess.Popen[str]
    log: Path

    def said(self, words: str) -> bool:
        return words in self.log.read_text()

    def kill(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=240)

    def finish(self) -> int:
        return self.process.wait(timeout=400)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[dict[str, Any], JobSpec], Worker]]:
    started: list[Worker] = []

    def start(launcher: dict[str, Any], spec: JobSpec) -> Worker:
        number = len(started)
        order = tmp_path / f"order{number}.json"
        order.write_text(json.dumps({"launcher": launcher, "spec": spec.model_dump(mode="json")}))
        log = tmp_path / f"worker{number}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.launchers.run_worker", str(order)],
                stdout=stream,
                stderr=stream,
                text=True,
            )
        started.append(Worker(process, log))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def training_spec(tiny_home: Path, out: Path, **resources: Any) -> JobSpec:
    """The tiny loop's base policy, asked for once more in another folder."""
    manifest = next((tiny_home / "lake" / "base_policy").rglob("manifest.json"))
    spec = JobSpec.model_validate(json.loads(manifest.read_text())["spec"])
    needs = spec.resources.model_copy(update=resources)
    return spec.model_copy(update={"output_uri": str(out / "base_policy"), "resources": needs})


@dataclass
class Slurm:
    """The one-node Slurm of `.ci/slurm-up`."""

    home: Path
    node: str

    def call(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def state(self, job_id: str) -> str:
        facts = self.call("scontrol", "show", "job", "-o", job_id).split()
        return next(fact.split("=", 1)[1] for fact in facts if fact.startswith("JobState="))

    @contextmanager
    def controller_down(self) -> Iterator[None]:
        os.kill(int((self.home / "slurmctld.pid").read_text()), signal.SIGTERM)
        eventually(lambda: not ping(), "slurmctld ends")
        try:
            yield
        finally:
            self.restart_controller()

    def restart_controller(self) -> None:
        if not ping():
            self.call("slurmctld", "-f", str(self.home / "slurm.conf"))
            eventually(ping, "slurmctld answers again")

    @contextmanager
    def node_down(self) -> Iterator[None]:
        self.call("scontrol", "update", f"nodename={self.node}", "state=down", "reason=test")
        try:
            yield
        finally:
            eventually(self.node_is_idle, "the node is idle again")

    def node_is_idle(self) -> bool:
        # Refused where the node came back by itself (ReturnToService), so its exit status says nothing.
        subprocess.run(
            ["scontrol", "update", f"nodename={self.node}", "state=resume"], capture_output=True, check=False
        )
        return self.call("sinfo", "-h", "-o", "%T") == "idle"


def ping() -> bool:
    done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=60, check=False)
    return "is UP" in done.stdout


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    home = Path(os.environ.get("SLURM_HOME", "/var/tmp/rluf-slurm"))
    conf = os.environ.get("SLURM_CONF", str(home / "slurm.conf"))
    if not Path(conf).exists():
        absent("no one-node Slurm is set up here; start one with: make cluster-up")
    monkeypatch.setenv("SLURM_CONF", conf)
    if not ping():
        absent(f"the Slurm of {conf} does not answer; start it with: make cluster-up")
    node = subprocess.run(["sinfo", "-h", "-o", "%n"], capture_output=True, text=True, check=True).stdout.split()[0]
    return Slurm(Path(conf).parent, node)


@pytest.fixture
def ray_address() -> str:
    """The dashboard of the one-node Ray of `.ci/ray-up`."""
    address = os.environ.get("RLUF_RAY_ADDRESS", "http://127.0.0.1:8265")
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=10).close()
    except OSError:
        absent(f"no Ray answers at {address}; start one with: make cluster-up")
    return address
