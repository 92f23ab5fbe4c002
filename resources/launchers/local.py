"""LocalLauncher: jobs as subprocesses of this machine (Dagster Pipes), light ones in this very process.

`launcher.run(context, spec)` works the same inside a Dagster asset and, with `context=None`, in a notebook or the CLI.
A job's output goes to `<output_uri>/logs/job.log`; its last lines stand in the error if it fails.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import dagster as dg
from pydantic import Field

from resources.launchers.spec import JobResult, JobSpec
from rluf_assets.errors import JobFailed
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import read_artifact

LOG_TAIL_LINES = 15


class LocalLauncher(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs jobs on this machine.

    `in_process` lists the entry points light enough to run without a process of their own; `threads_per_job` is what
    each subprocess may use of the CPU (two single-thread jobs side by side beat one with two threads).
    """

    in_process: list[str] = Field(default_factory=list)
    threads_per_job: int = 1

    def run(self, context: dg.AssetExecutionContext | None, spec: JobSpec) -> JobResult:
        """Run one job, or return its artifact if already published. Raises JobFailed with the log's last lines."""
        found = read_artifact(spec.output_uri)
        if found is not None:
            return JobResult(found, reused=True)
        if spec.entrypoint in self.in_process:
            stage = import_module(spec.entrypoint).run
            artifact, reused = run_job(spec, stage, context.log.debug if context else print)
            return JobResult(artifact, reused)
        self._run_subprocess(context, spec)
        artifact_made = read_artifact(spec.output_uri)
        if artifact_made is None:
            raise JobFailed(f"{spec.name}: the job ended without publishing {spec.output_uri}.\n{_tail(spec)}")
        return JobResult(artifact_made, reused=False)

    def run_many(self, context: dg.AssetExecutionContext | None, specs: Sequence[JobSpec]) -> list[JobResult]:
        """Run jobs of one entry point one after another (a range of days)."""
        return [self.run(context, spec) for spec in specs]

    def render(self, spec: JobSpec) -> str:
        """The command line that `run` would start, without starting it."""
        return shlex.join(self._command(spec))

    def _command(self, spec: JobSpec) -> list[str]:
        return [sys.executable, "-m", spec.entrypoint, str(_spec_path(spec))]

    def _environment(self, spec: JobSpec) -> dict[str, str]:
        threads = str(self.threads_per_job)
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), threads)
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **limits, **offline, **spec.env}

    def _run_subprocess(self, context: dg.AssetExecutionContext | None, spec: JobSpec) -> None:
        path = _spec_path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(spec.model_dump_json(indent=1))
        with (path.parent / "job.log").open("ab") as log:
            if context is None:
                status = subprocess.run(
                    self._command(spec), env=self._environment(spec), stdout=log, stderr=log, check=False
                ).returncode
            else:
                status = self._run_with_pipes(context, spec, log.fileno())
        if status != 0:
            raise JobFailed(
                f"{spec.name}: the job ended with exit status {status}. Last lines of its log:\n{_tail(spec)}"
            )

    def _run_with_pipes(self, context: dg.AssetExecutionContext, spec: JobSpec, log: int) -> int:
        # PipesSubprocessClient lets the child inherit this process's output, which would tear a live display apart.
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            child = subprocess.Popen(
                self._command(spec),
                env={**self._environment(spec), **session.get_bootstrap_env_vars()},
                stdout=log,
                stderr=log,
            )
            try:
                return child.wait()
            finally:
                if child.poll() is None:
                    child.terminate()


def _spec_path(spec: JobSpec) -> Path:
    return Path(spec.output_uri) / "logs" / "spec.json"


def _tail(spec: JobSpec) -> str:
    log = Path(spec.output_uri) / "logs" / "job.log"
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
