"""RayLauncher: jobs through Ray's job submission API, on any Ray cluster (one that KubeRay runs, too).

The job is the entry point of a Ray job: a shell command on a node that has its CPUs and GPUs free; of a job of several
nodes the entry point is `ray_nodes`, which starts the job on each of them. Ray itself knows no time limit and no memory
limit: `timeout` keeps the first, a job killed for the second is told by its exit status. Guide: docs/ray.md.
"""

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from resources.launchers.base import Request, job_command, job_environment, job_script, launch_words
from resources.launchers.cluster import ClusterLauncher, Sighting, gone
from resources.launchers.spec import JobSpec
from rluf_assets.errors import JobFailed, MissingExtra, SchedulerDown

ALIVE = {"PENDING": "waiting", "RUNNING": "running"}
TIMED_OUT, KILLED = "124", "137"  # what `timeout` and a shell say of a job ended for its time, by SIGKILL
NO_SECRET = 78


class RayLauncher(ClusterLauncher):
    """Runs jobs on a Ray cluster. `secrets` name variables that must be set in the environment of Ray's nodes."""

    scheduler: ClassVar[str] = "Ray"

    address: str = Field("http://127.0.0.1:8265", description="of the head node's dashboard, which takes jobs")

    def render(self, spec: JobSpec) -> str:
        """The command line that submits the job as `run` would."""
        request = self._request([spec])
        entrypoint = entrypoint_of(request, self.python, self.secrets, job_environment(spec.resources.cpus, spec.env))
        options = [f"--entrypoint-{name.replace('_', '-')}={amount}" for name, amount in _needs(request).items()]
        submit = ["ray", "job", "submit", "--no-wait", f"--address={self.address}", f"--submission-id={request.name}"]
        return shlex.join([*submit, *options, "--"]) + " " + entrypoint

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
        client = self._client()
        given: dict[str, Any] = {f"entrypoint_{name}": amount for name, amount in _needs(request).items()}
        given |= {
            "entrypoint": entrypoint_of(request, self.python, self.secrets, environment),
            "submission_id": f"{request.name}-{time.time_ns() // 10**6}",
            "metadata": {"rluf": request.key},
        }
        try:
            return str(self._reach(lambda: client.submit_job(**given)))
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


def entrypoint_of(request: Request, python: str, secrets: Sequence[str], environment: Mapping[str, str]) -> str:
    """The shell command that is the job on Ray; `secrets` must be set where it runs."""
    needs = request.spec.resources
    command = job_command(python, request)
    if needs.nodes > 1:
        launch, job = launch_words(python, request)
        share = {"CPU": needs.cpus, "GPU": needs.gpus_per_node, "memory": int(needs.memory_gb * 2**30)}
        here = [str(needs.nodes), json.dumps(share), str(request.log)]
        command = [python, "-m", "resources.launchers.ray_nodes", *here, *launch, "--", *job]
        environment = {**environment, "RLUF_VARIABLES": ",".join(environment)}
    wanted = [f'[ -n "${{{name}+x}}" ] || {{ echo "{name} is not set on this node"; exit {NO_SECRET}; }}'
              for name in secrets]  # fmt: skip
    limited = shlex.join(["timeout", "--kill-after=30", str(request.time_limit_s), *command])
    script = job_script(request, environment, f"{limited} >>{shlex.quote(str(request.log))} 2>&1")
    return shlex.join(["sh", "-c", "\n".join([*wanted, f"cd {shlex.quote(os.getcwd())}", script])])


def _needs(request: Request) -> dict[str, int]:
    """What the entry point reserves; with several nodes it only waits, and the nodes' own shares are reserved by it."""
    needs = request.spec.resources
    if needs.nodes > 1:
        return {"num_cpus": 0, "num_gpus": 0}
    return {"num_cpus": needs.cpus, "num_gpus": needs.gpus_per_node, "memory": int(needs.memory_gb * 2**30)}


def _reason(status: str, message: str, request: Request) -> str:
    if status == "STOPPED":
        return "was cancelled"
    return exit_reason(request) or f"ended as {status}: {' '.join(message.split())[:500] or 'no message'}"


def exit_reason(request: Request) -> str | None:
    """Why a job on Ray ended, by the exit status that its script wrote down; None if it wrote none."""
    record = request.folder / "exit_status"
    ended = record.read_text().strip() if record.exists() else ""
    if ended == TIMED_OUT:
        return f"ran over its time limit (time_limit_s {request.time_limit_s}; give it more)"
    if ended == KILLED:
        return "was killed by signal 9, most often because the node ran out of memory"
    return f"ended with exit status {ended}" if ended else None


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
