"""Real schedulers for the launchers' tests. Where there is none they skip, unless RLUF_REQUIRE_SCHEDULERS is set."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster_graphql import DagsterGraphQLClient

from resources.launchers.local import LocalLauncher
from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.lake import Artifact

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
        log = tmp_path / f"worker{len(started)}.log"
        environment = ordering(log.with_suffix(".json"), launcher, spec)
        command = [sys.executable, "-m", "tests.launchers.run_worker"]
        with log.open("w") as stream:
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, text=True)
        started.append(Worker(process, log))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[Callable[[dict[str, Any], JobSpec], DagsterGraphQLClient]]:
    """Dagster's web server over the worker's asset, and a client that asks what its page asks."""
    started: list[subprocess.Popen[bytes]] = []

    def start(launcher: dict[str, Any], spec: JobSpec) -> DagsterGraphQLClient:
        home = tmp_path / "dagster"
        home.mkdir()
        (home / "dagster.yaml").write_text(
            "telemetry: {enabled: false}\n"
            "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["dagster_webserver", "-m", "tests.launchers.run_worker", "--host", "127.0.0.1", "--port", str(port)]
        environment = ordering(tmp_path / "ui.json", launcher, spec) | {"DAGSTER_HOME": str(home)}
        log = (tmp_path / "ui.log").open("w")
        started.append(subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log))
        eventually(lambda: answers(f"http://127.0.0.1:{port}/server_info"), "the web server answers")
        return DagsterGraphQLClient("127.0.0.1", port_number=port)

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=60)


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except OSError:
        return False
    return True


def ordering(file: Path, launcher: dict[str, Any], spec: JobSpec) -> dict[str, str]:
    """The environment in which `run_worker` runs the job through the launcher."""
    file.write_text(json.dumps({"launcher": launcher, "spec": spec.model_dump(mode="json")}))
    return {**os.environ, "RLUF_TEST_ORDER": str(file)}


def two_node_spec(tiny_home: Path, out: Path) -> JobSpec:
    """A short training of the tiny loop's helpfulness reward model, on two nodes."""
    manifest = next((tiny_home / "lake" / "helpfulness_reward").rglob("manifest.json"))
    spec = JobSpec.model_validate(json.loads(manifest.read_text())["spec"])
    config = {**spec.config, "max_train_rows": 200, "epochs": 1}
    needs = spec.resources.model_copy(update={"nodes": 2})
    return spec.model_copy(update={"output_uri": str(out / "two"), "resources": needs, "config": config})


def ranks_of(artifact: Artifact) -> int:
    """Processes that trained a reward model together, by its own account."""
    return int(json.loads(Path(artifact.path("metrics.json")).read_text())["training"]["ranks"])


def training_spec(tiny_home: Path, out: Path, **resources: Any) -> JobSpec:
    """The tiny loop's base policy, trained for a few steps only, with a checkpoint every few of them."""
    manifest = next((tiny_home / "lake" / "base_policy").rglob("manifest.json"))
    spec = JobSpec.model_validate(json.loads(manifest.read_text())["spec"])
    needs = spec.resources.model_copy(update=resources)
    config = {**spec.config, "steps": 120, "checkpoint_every": 20}
    return spec.model_copy(update={"output_uri": str(out / "base_policy"), "resources": needs, "config": config})


@pytest.fixture(scope="session")
def undisturbed(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Content hash of that training, run here from start to end."""
    spec = training_spec(tiny_home, tmp_path_factory.mktemp("undisturbed"))
    return LocalLauncher().run(None, spec).artifact.content_hash


@dataclass
class Slurm:
    """The Slurm of `.ci/slurm-up`: two nodes on this machine."""

    home: Path

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
    def nodes_in(self, state: str) -> Iterator[None]:
        """Both nodes taken out of use, and back again at the end."""
        self.call("scontrol", "update", "nodename=ALL", f"state={state}", "reason=test")
        try:
            yield
        finally:
            eventually(self.nodes_are_back, "the nodes are idle again")

    def nodes_are_back(self) -> bool:
        # Refused where a node came back by itself (ReturnToService), so its exit status says nothing.
        subprocess.run(["scontrol", "update", "nodename=ALL", "state=resume"], capture_output=True, check=False)
        return not set(self.call("sinfo", "-h", "-N", "-o", "%T").split()) - {"idle", "mixed", "allocated"}


def ping() -> bool:
    done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=60, check=False)
    return "is UP" in done.stdout


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Slurm:
    home = Path(os.environ.get("SLURM_HOME", "/var/tmp/rluf-slurm"))
    conf = os.environ.get("SLURM_CONF", str(home / "slurm.conf"))
    if not Path(conf).exists():
        absent("no Slurm is set up here; start one with: make cluster-up")
    monkeypatch.setenv("SLURM_CONF", conf)
    if not ping():
        absent(f"the Slurm of {conf} does not answer; start it with: make cluster-up")
    return Slurm(Path(conf).parent)


@pytest.fixture
def ray_address() -> str:
    """The dashboard of the Ray of `.ci/ray-up`."""
    address = os.environ.get("RLUF_RAY_ADDRESS", "http://127.0.0.1:8265")
    if not answers(f"{address}/api/version"):
        absent(f"no Ray answers at {address}; start one with: make cluster-up")
    return address


class Way:
    """A way to a port of this machine that can be closed: what is under way is cut, what comes is refused."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        self.under_way: list[socket.socket] = []

    def __enter__(self) -> Way:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self) -> None:
        if self.door.fileno() < 0:
            self.door = socket.create_server(("127.0.0.1", int(self.address.rpartition(":")[2])))
        threading.Thread(target=self._let_in, args=(self.door,), daemon=True).start()

    def close(self) -> None:
        for one in (self.door, *self.under_way):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.under_way.clear()

    def _let_in(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = door.accept()
                there = socket.create_connection(("127.0.0.1", self.target))
                self.under_way += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()


def carry(source: socket.socket, goal: socket.socket) -> None:
    """Hand on what comes, until one side is closed."""
    with suppress(OSError):
        while data := source.recv(65536):
            goal.sendall(data)
        goal.shutdown(socket.SHUT_WR)
