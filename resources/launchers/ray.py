"""RayLauncher: jobs through Ray's job submission API, on any Ray cluster (one that KubeRay runs, too).

The job is the entry point of a Ray job: a shell command on a node that has its CPUs and GPUs free. Ray itself knows no
time limit and no memory limit for it: `timeout` keeps the first, a job killed for the second is told by its exit
status. A job of several nodes wants Slurm or Kubernetes. Guide: docs/ray.md.
"""

import os
import shlex
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from resources.launchers.base import Request, job_command, job_environment, job_script
from resources.launchers.cluster import ClusterLauncher, Sighting, gone
from resources.launchers.spec import JobSpec
from rluf_assets.errors import ConfigError, JobFailed, MissingExtra, SchedulerDown

ALIVE = {"PENDING": "waiting", "RUNNING": "running"}
TIMED_OUT, KILLED = "124", "137"  # what `timeout` and a shell say of a job ended for its time, by SIGKILL
NO_SECRET = 78


class RayLauncher(ClusterLauncher):
    """Runs jobs on a Ray cluster. `secrets` name variables that must be set in the environment of Ray's nodes."""

    scheduler: ClassVar[str] = "Ray"

    address: str = Field("http://127.0.0.1:8265", description="of the head node's dashboard, which takes jobs")
    accelerate_config: str | None = None

    def render(self, spec: JobSpec) -> str:
        """The command line that submits the job as `run` would."""
        request = Request((spec,))
        needs = spec.resources
        entrypoint = self._entrypoint(request, job_environment(needs.cpus, spec.env))
        options = [
            f"--address={self.address}",
            f"--submission-id={request.name}",
            f"--entrypoint-num-cpus={needs.cpus}",
            f"--entrypoint-num-gpus={needs.gpus_per_node}",
            f"--entrypoint-memory={int(needs.memory_gb * 2**30)}",
        ]
        return shlex.join(["ray", "job", "submit", "--no-wait", *options, "--"]) + " " + entrypoint

    def _entrypoint(self, request: Request, environment: Mapping[str, str]) -> str:
        needs = request.spec.resources
        if needs.nodes > 1:
            raise ConfigError(
                f"{request.spec.name}: {needs.nodes} nodes asked for; a Ray job's entry point runs on one. Give it one "
                "node, or another launcher under `jobs:` in the profile."
            )
        python = job_command(self.python, request)
        if needs.gpus_per_node > 1:
            config = ["--config_file", self.accelerate_config] if self.accelerate_config else []
            launch = [self.python, "-m", "accelerate.commands.launch", *config]
            python = [*launch, "--num_processes", str(needs.gpus_per_node), "--module", *python[2:]]
        wanted = [f'[ -n "${{{name}+x}}" ] || {{ echo "{name} is not set on this node"; exit {NO_SECRET}; }}'
                  for name in self.secrets]  # fmt: skip
        limited = shlex.join(["timeout", "--kill-after=30", str(request.time_limit_s), *python])
        command = f"{limited} >>{shlex.quote(str(request.log))} 2>&1"
        script = job_script(request, environment, command)
        return shlex.join(["sh", "-c", "\n".join([*wanted, f"cd {shlex.quote(os.getcwd())}", script])])

    def _client(self) -> Any:
        try:
            from ray.job_submission import JobSubmissionClient
        except ModuleNotFoundError as error:
            raise MissingExtra("launcher ray: the package 'ray' is not installed: pip install 'rluf[ray]'") from error
        return self._reach(lambda: JobSubmissionClient(self.address))

    def _reach(self, ask: Any) -> Any:
        import requests

        try:
            return ask()
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise SchedulerDown(f"{self.address}: {str(error)[:300]}") from error
        except RuntimeError as error:
            # The client has one class for every refusal; the gateway's own failures pass, the others do not.
            if any(f"status code {code}" in str(error) for code in (502, 503, 504)):
                raise SchedulerDown(f"{self.address}: {str(error)[:300]}") from error
            raise

    def _submit(self, request: Request, environment: Mapping[str, str]) -> str:
        needs = request.spec.resources
        client = self._client()
        try:
            return str(
                self._reach(
                    lambda: client.submit_job(
                        entrypoint=self._entrypoint(request, environment),
                        submission_id=f"{request.name}-{int(time.time())}",
                        entrypoint_num_cpus=needs.cpus,
                        entrypoint_num_gpus=needs.gpus_per_node,
                        entrypoint_memory=int(needs.memory_gb * 2**30),
                        metadata={"rluf": request.key},
                    )
                )
            )
        except RuntimeError as error:
            if isinstance(error, SchedulerDown):
                raise
            raise JobFailed(f"{request.spec.name}: Ray refused the job: {str(error)[:500]}") from error

    def _look(self, job_id: str, request: Request) -> Sighting:
        client = self._client()
        try:
            info = self._reach(lambda: client.get_job_info(job_id))
        except RuntimeError as error:
            if "does not exist" in str(error):
                return gone(request, self.scheduler)
            raise SchedulerDown(str(error)[:300]) from error
        times = (_seconds(info.start_time), _seconds(info.end_time))
        status = str(info.status.value)
        if status in ALIVE:
            return Sighting("running" if status == "RUNNING" else "waiting", "", times[0])
        if status == "SUCCEEDED":
            return Sighting("done", "", *times)
        return Sighting("failed", _reason(status, str(info.message or ""), request), *times)

    def _find(self, request: Request) -> str | None:
        client = self._client()
        jobs = self._reach(client.list_jobs)
        alive = [job.submission_id for job in jobs
                 if (job.metadata or {}).get("rluf") == request.key and job.status.value in ALIVE]  # fmt: skip
        return str(alive[0]) if alive else None

    def _kill(self, job_id: str) -> None:
        client = self._client()
        try:
            self._reach(lambda: client.stop_job(job_id))
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise SchedulerDown(str(error)[:300]) from error


def _reason(status: str, message: str, request: Request) -> str:
    record = request.folder / "exit_status"
    ended = record.read_text().strip() if record.exists() else ""
    if status == "STOPPED":
        return "was cancelled"
    if ended == TIMED_OUT:
        return f"ran over its time limit (time_limit_s {request.time_limit_s}; give it more)"
    if ended == KILLED:
        return "was killed by signal 9, most often because the node ran out of memory"
    if ended:
        return f"ended with exit status {ended}"
    return f"ended as {status}: {' '.join(message.split())[:500] or 'no message'}"


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
