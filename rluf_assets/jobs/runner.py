"""What every job shares: read the spec, take the folder's lock, run the stage, publish the manifest last.

A job module holds `run(job: Job) -> Produced` and ends with `if __name__ == "__main__": main(run)`. It imports torch
and the like inside `run`, so that a missing package can be named with the extra that brings it. Under `accelerate
launch` the first rank alone locks, publishes and reports; the others compute with it where the job can use them.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock
from threadpoolctl import threadpool_limits

from resources.launchers.spec import JobSpec
from rluf_assets.errors import RankLost, RlufError, missing_extra
from rluf_assets.lake import SCRATCH, Artifact, Produced, publish, read_artifact
from rluf_assets.progress import duration
from rluf_assets.storage import named_storage

# Exit status of a job that ended by an error of the toolkit's own: not worth a retry.
REFUSED = 3
# How gloo and NCCL say, inside a library's own collective call, that another process has gone.
LOST_RANK = (
    "gloo/transport",
    "NCCL error",
    "NCCL communicator",
    "ProcessGroupNCCL",
    "TCPStore",
    "Connection closed by peer",
)
# What the numeric libraries read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
RECORDED_VERSIONS = ("polars", "numpy", "torch", "transformers", "accelerate")


@dataclass
class Job:
    """What a stage function gets: its spec, a local folder to write to, and a way to tell how far it is."""

    spec: JobSpec
    out: Path
    log: Callable[[str], None] = print
    first_rank: bool = True
    _reported: float = field(default=0.0, repr=False)
    _phase: tuple[int, int, float] | None = field(default=None, repr=False)

    @property
    def config(self) -> dict[str, Any]:
        return self.spec.config

    @property
    def seed(self) -> int:
        return self.spec.seed

    def input(self, name: str) -> Path:
        """Folder of an input artifact (local for now: remote inputs are staged by the launcher)."""
        return Path(self.spec.inputs[name].uri)

    def scratch(self, name: str) -> Path:
        """A folder for resume state (`checkpoints`, `phases`): it survives a kill and is not part of the content."""
        if name not in SCRATCH:
            raise ValueError(f"scratch folder {name!r}: expected one of {SCRATCH}")
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def progress(self, done: int, total: int, message: str = "", **metrics: float) -> None:
        """Append to `logs/progress.jsonl` (a live display tails it) and, at most every five seconds, to the log.

        Both tell how long the rest takes at the pace of this attempt so far, once there is one.
        """
        if not self.first_rank:
            return
        left_s = self._left(done, total)
        line = {"time": time.time(), "done": done, "total": total, "message": message, "left_s": left_s, **metrics}
        with (self.scratch("logs") / "progress.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        if done >= total or time.monotonic() - self._reported > 5:
            self._reported = time.monotonic()
            shown = " ".join(f"{key}={value:.4g}" for key, value in metrics.items())
            left = f" ({duration(left_s)} left)" if left_s else ""
            self.log(f"{self.spec.name} {done}/{total} {message}{left} {shown}".rstrip())

    def _left(self, done: int, total: int) -> float | None:
        """Seconds that the rest of what is being counted takes; None at its start. A resumed job does not start at zero."""
        now = time.monotonic()
        if self._phase is None or self._phase[0] != total or done <= self._phase[1]:
            self._phase = (total, done, now)
            return None
        _, first, since = self._phase
        return round((now - since) / (done - first) * (total - done), 1)


Stage = Callable[[Job], Produced]


def run_job(spec: JobSpec, stage: Stage, log: Callable[[str], None] = print) -> tuple[Artifact, bool]:
    """Run a stage unless its manifest is there; returns the artifact and whether it was reused.

    A second process asked for the same folder waits for the first and takes its artifact, so a job that outlived its
    orchestrator is neither lost nor doubled. Only resume state is kept from an unfinished attempt.
    """
    out = Path(spec.output_uri)
    with named_storage(f"job {spec.name}: {out}"):
        return _run_locked(spec, stage, out, log)


def _run_locked(spec: JobSpec, stage: Stage, out: Path, log: Callable[[str], None]) -> tuple[Artifact, bool]:
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(f"{out}.lock"):
        found = read_artifact(spec.output_uri)
        if found is not None:
            return found, True
        for leftover in out.iterdir():
            if leftover.name not in SCRATCH:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        started = time.monotonic()
        try:
            with one_thread(spec):
                produced = stage(Job(spec, out, log))
        except ModuleNotFoundError as error:
            raise missing_extra(error, f"job {spec.name}") or error from error
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return publish(spec.output_uri, fingerprint=spec.fingerprint, produced=produced, **_facts(spec, started)), False


def assist(spec: JobSpec, stage: Stage) -> None:
    """Run the stage beside the first rank, which waits for this one in its first collective call.

    What the stage writes it writes on the first rank (`job.first_rank`); so nothing here touches the folder.
    """
    if read_artifact(spec.output_uri) is None:
        with one_thread(spec):
            stage(Job(spec, Path(spec.output_uri), lambda message: None, first_rank=False))


@contextmanager
def one_thread(spec: JobSpec) -> Iterator[None]:
    """Let each process of a job without GPUs add up numbers on one thread: a sum's last bits depend on their number.

    So the same inputs give the same bytes on every launcher and machine, in a process of the job's own or in this one.
    More cores are used by more processes. A job on GPUs keeps the threads it was given: its sums are made elsewhere.
    """
    if spec.resources.gpus_per_node:
        yield
        return
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    try:
        with threadpool_limits(1):
            if torch:
                torch.set_num_threads(1)
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main(stage: Stage, argv: Sequence[str] | None = None, *, every_rank: bool = False) -> None:
    """Entry point of a job module: run each SPEC.json given, in order; report through Dagster Pipes if it is there.

    `every_rank`: the stage computes on all ranks of a launch together; else those after the first have nothing to do.
    """
    paths = list(argv if argv is not None else sys.argv[1:])
    if not paths:
        raise SystemExit("usage: python -m rluf_assets.jobs.<name> SPEC.json [SPEC.json ...]")
    specs = [JobSpec.model_validate_json(Path(path).read_text()) for path in paths]
    try:
        if int(os.environ.get("RANK", "0")) > 0:
            for spec in specs if every_rank else ():
                assist(spec, stage)
            return
        if not every_rank and "WORLD_SIZE" in os.environ:
            os.environ["WORLD_SIZE"] = "1"  # it runs alone: nothing in it may wait for ranks that have left
        with _pipes_log() as log:
            for spec in specs:
                run_job(spec, stage, log)
    except (RlufError, RuntimeError) as error:
        told = _lost_rank(error) if not isinstance(error, RlufError) else error
        if told is None:
            raise
        # The launcher shows the last lines of the log: keep them to the message people need.
        print(f"{type(told).__name__}: {told}", file=sys.stderr, flush=True)
        raise SystemExit(1 if isinstance(told, RankLost) else REFUSED) from error


def _lost_rank(error: RuntimeError) -> RankLost | None:
    """The error as one that names what happened, if another process of this launch has gone: worth another try."""
    said = str(error)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not any(words in said for words in LOST_RANK):
        return None
    return RankLost(
        f"another process of this launch ended or fell silent ({said.splitlines()[0]}). Its own log says why; run again: "
        "the job continues from its last checkpoint."
    )


class _pipes_log:
    """A log function: Dagster Pipes if the launcher opened a channel, else standard output."""

    def __enter__(self) -> Callable[[str], None]:
        from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

        self._pipes = open_dagster_pipes() if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ else None
        if self._pipes is None:
            return lambda message: print(message, flush=True)
        return self._pipes.__enter__().log.info

    def __exit__(self, *error: Any) -> None:
        if self._pipes is not None:
            self._pipes.__exit__(*error)


def _facts(spec: JobSpec, started: float) -> dict[str, Any]:
    return {
        "spec": spec.model_dump(mode="json"),
        "wall_s": round(time.monotonic() - started, 3),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        **_gpu_facts(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _gpu_facts() -> dict[str, float]:
    """What was allocated at the peak on the GPU of this process, if it used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 3)}


@cache
def _versions() -> dict[str, str]:
    """Reading a package's metadata takes as long as a day of a small log: once a process."""
    found = {}
    for package in RECORDED_VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
