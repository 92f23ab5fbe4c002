"""Launcher: what every launcher can do, and what they share: private job folders, a job's command and environment.

A request is one job or several of one entry point (a range of days), which then share a process. Everything about it
lies in one folder that only its owner can read: `spec.json`, `job.log`, the scheduler's job id, the Pipes messages,
and Accelerate's configuration where the job is several processes.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from resources.launchers.spec import JobResult, JobSpec
from resources.profiles.accelerate import DEFAULT_CONFIG, read_accelerate_config

LOG_TAIL_LINES = 15
LAST_LINES = "Last lines of "  # comes between why a job failed and the path of its log
# How Python, and our own jobs, end a log: the name of an error, and what it says.
_ERROR_LINE = re.compile(
    r"([A-Za-z_]\w*\.)*[A-Za-z_]*(Error|Exception|Failed|Missing|MissingExtra|Lost|Down|Interrupt): "
)
ACCELERATE_FILE = "accelerate.yaml"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


class Launcher(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where jobs run. The same job has the same fingerprint, and gives the same bytes, on every launcher."""

    def run(self, context: dg.AssetExecutionContext | None, spec: JobSpec) -> JobResult:
        """Run one job, or return its artifact if already published. Raises JobFailed with the log's last lines."""
        return self.run_many(context, [spec])[0]

    @abstractmethod
    def run_many(self, context: dg.AssetExecutionContext | None, specs: Sequence[JobSpec]) -> list[JobResult]:
        """Run jobs of one entry point; those already published are not run again."""

    @abstractmethod
    def render(self, spec: JobSpec) -> str:
        """The command or manifest that `run` would hand over, without running it."""

    @abstractmethod
    def cancel(self, spec: JobSpec) -> None:
        """End the job if it is alive; what it has saved for resuming stays."""


@dataclass(frozen=True)
class Request:
    """Jobs that are submitted as one: `specs` of one entry point, in order, and how several processes are launched."""

    specs: tuple[JobSpec, ...]
    accelerate_config: str = DEFAULT_CONFIG

    @property
    def spec(self) -> JobSpec:
        """The first job: it says what all of them need."""
        return self.specs[0]

    @property
    def key(self) -> str:
        """Twelve characters that are the same whenever the same jobs are asked for in the same lake."""
        asked = [f"{spec.fingerprint} {spec.output_uri}" for spec in self.specs]
        return hashlib.sha256("\n".join(asked).encode("utf-8", "surrogatepass")).hexdigest()[:12]

    @property
    def name(self) -> str:
        """A name any scheduler takes: letters, digits and `-`, lower case, ending in the key."""
        readable = re.sub(r"[^a-z0-9]+", "-", self.spec.name.lower()).strip("-")[:30].strip("-")
        return f"rluf-{readable or 'job'}-{self.key}"

    @property
    def time_limit_s(self) -> int:
        return self.spec.resources.time_limit_s * len(self.specs)

    @property
    def folder(self) -> Path:
        logs = Path(self.spec.output_uri) / "logs"
        return logs if len(self.specs) == 1 else logs / f"batch-{self.key}"

    @property
    def log(self) -> Path:
        return self.folder / "job.log"

    @property
    def spec_paths(self) -> list[str]:
        return [str(Path(spec.output_uri) / "logs" / "spec.json") for spec in self.specs]

    def prepare(self) -> None:
        """Make the folders, readable by their owner alone, and write the specs into them."""
        for spec, path in zip(self.specs, self.spec_paths, strict=True):
            make_private(Path(path).parent)
            write_private(Path(path), spec.model_dump_json(indent=1))
        make_private(self.folder)
        if self.spec.resources.processes > 1:
            write_private(self.folder / ACCELERATE_FILE, read_accelerate_config(self.accelerate_config))
        if not self.log.exists():
            write_private(self.log, "")

    def tail(self, since: int = 0) -> str:
        """The last lines of the job's log, from byte `since` on."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as stream:
            stream.seek(since)
            lines = stream.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:]) or "(nothing in its log)"

    def last_words(self, since: int = 0) -> str:
        """The error that the job's log ends with, if it does, then the log's path and last lines."""
        tail = self.tail(since)
        lines = tail.splitlines()
        starts = [nth for nth, line in enumerate(lines) if _ERROR_LINE.match(line)]
        error = "\n".join(lines[starts[-1] :]) + "\n" if starts else ""
        return f"{error}{LAST_LINES}{self.log}:\n{tail}"


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can enter; the artifact's own folder, its parent, likewise."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)


def write_private(path: Path, text: str) -> None:
    """Write a file whole, readable by its owner alone."""
    # mkstemp: a name of its own for each caller (two threads may ask for the same job), mode 0600.
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(part).replace(path)


def job_command(python: str, request: Request) -> list[str]:
    """The command line of a job on one node: one process, or one per GPU under `accelerate launch`."""
    if request.spec.resources.processes == 1:
        return [python, "-m", request.spec.entrypoint, *request.spec_paths]
    launch, job = launch_words(python, request)
    return [*launch, "--main_process_port", "0", *job]  # 0: any free one, for two jobs may share the node


def launch_words(python: str, request: Request) -> tuple[list[str], list[str]]:
    """`accelerate launch` for all processes of a job, and the job; a node's place among several goes in between."""
    needs = request.spec.resources
    threads = max(1, needs.cpus // max(1, needs.gpus_per_node))
    launch = [python, "-m", "accelerate.commands.launch", "--config_file", str(request.folder / ACCELERATE_FILE)]
    launch += ["--num_machines", str(needs.nodes), "--num_processes", str(needs.processes)]
    launch += ["--num_cpu_threads_per_process", str(threads)]
    return launch, ["--module", request.spec.entrypoint, *request.spec_paths]


def job_environment(threads: int, *more: Mapping[str, str]) -> dict[str, str]:
    """Variables every job gets: threads of the numeric libraries, no hub, then `more`."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads))
    return {**limits, **OFFLINE, **{name: value for extra in more for name, value in extra.items()}}


def exports(environment: Mapping[str, str]) -> str:
    """The environment as lines of a POSIX shell script, every value quoted."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items()))


def job_script(request: Request, environment: Mapping[str, str], command: str) -> str:
    """A POSIX shell script: private files, the environment, the command, and how it ended written down."""
    status = shlex.quote(str(request.folder / "exit_status"))
    ending = ["status=$?", f'echo "$status" >{status}', 'exit "$status"']
    return "\n".join(["umask 077", exports(environment), command, *ending])
