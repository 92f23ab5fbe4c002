"""LocalLauncher: jobs as subprocesses of this machine (Dagster Pipes), light ones in this very process.

`launcher.run(context, spec)` works the same inside a Dagster asset and, with `context=None`, in a notebook or the CLI.
A job's output goes to `<output_uri>/logs/job.log`; its last lines stand in the error if it fails.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import dagster as dg
import psutil
from pydantic import Field

from resources.launchers.base import Launcher, Request, job_command, job_environment, write_private
from resources.launchers.spec import JobResult, JobSpec
from resources.profiles.accelerate import DEFAULT_CONFIG
from rluf_assets.errors import ConfigError, JobFailed, JobRefused
from rluf_assets.jobs.runner import REFUSED, run_job
from rluf_assets.lake import read_artifact


class LocalLauncher(Launcher):
    """Runs jobs on this machine.

    `in_process` lists the entry points light enough to run without a process of their own; `threads_per_job` is what
    each subprocess may use of the CPU (two single-thread jobs side by side beat one with two threads). A job whose
    orchestrator was killed goes on; a second one asked for the same folder waits for it and takes its artifact.
    """

    python: str = Field(default_factory=lambda: sys.executable)
    accelerate_config: str = DEFAULT_CONFIG
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
        request = Request((spec,), self.accelerate_config)
        self._run_subprocess(context, request)
        artifact_made = read_artifact(spec.output_uri)
        if artifact_made is None:
            raise JobFailed(f"{spec.name}: the job ended without publishing {spec.output_uri}.\n{request.tail()}")
        return JobResult(artifact_made, reused=False)

    def run_many(self, context: dg.AssetExecutionContext | None, specs: Sequence[JobSpec]) -> list[JobResult]:
        """Run jobs of one entry point one after another (a range of days)."""
        return [self.run(context, spec) for spec in specs]

    def render(self, spec: JobSpec) -> str:
        """The command line that `run` would start, without starting it."""
        return shlex.join(job_command(self.python, Request((spec,), self.accelerate_config)))

    def cancel(self, spec: JobSpec) -> None:
        """End the job's process if it is alive."""
        record = Request((spec,)).folder / "process.json"
        if not record.exists():
            return
        known = json.loads(record.read_text())
        try:
            process = psutil.Process(known["pid"])
            if process.create_time() == known["create_time"]:  # the number may be another process's by now
                process.terminate()
        except psutil.NoSuchProcess:
            pass

    def _run_subprocess(self, context: dg.AssetExecutionContext | None, request: Request) -> None:
        request.prepare()
        begun = request.log.stat().st_size  # the log of an earlier attempt goes on
        if context is None:
            status = self._run_process(request, {})
        else:
            # PipesSubprocessClient lets the child inherit this process's output, which would tear a live display apart.
            with dg.open_pipes_session(
                context=context,
                context_injector=dg.PipesTempFileContextInjector(),
                message_reader=dg.PipesTempFileMessageReader(),
            ) as session:
                status = self._run_process(request, session.get_bootstrap_env_vars())
        if status != 0:
            raise (JobRefused if status == REFUSED else JobFailed)(
                f"{request.spec.name}: the job ended with exit status {status}.\n{request.last_words(begun)}"
            )

    def _run_process(self, request: Request, pipes: Mapping[str, str]) -> int:
        environment = {**os.environ, **job_environment(self.threads_per_job, request.spec.env, pipes)}
        command = job_command(self.python, request)
        with request.log.open("ab") as log:
            try:
                child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            except OSError as error:
                raise ConfigError(
                    f"{request.spec.name}: its interpreter {self.python} cannot be started ({error.strerror}). Mend "
                    "`python` of its launcher in the profile, or leave it out."
                ) from error
        known = {"pid": child.pid, "create_time": psutil.Process(child.pid).create_time()}
        write_private(request.folder / "process.json", json.dumps(known))
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
