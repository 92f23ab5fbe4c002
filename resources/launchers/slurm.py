"""SlurmLauncher: jobs through sbatch, squeue, scontrol and scancel, called directly.

Why not a library: dagster-slurm reaches the cluster by SSH and packs environments with pixi; submitit pickles Python
functions, keeps job folders of its own and forgets its jobs with its process. Neither re-attaches to a job by
fingerprint. Four commands, present wherever jobs can be submitted, are the smaller dependency. Guide: docs/slurm.md.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from resources.launchers.base import Request, job_command, job_environment, job_script, launch_words
from resources.launchers.cluster import ClusterLauncher, Sighting, gone
from resources.launchers.spec import JobSpec
from rluf_assets.errors import ConfigError, JobFailed, SchedulerDown

COMMAND_TIMEOUT_S = 90
ALIVE = {
    "PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUED": "waiting", "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting", "RESV_DEL_HOLD": "waiting", "SPECIAL_EXIT": "waiting",
    "RUNNING": "running", "COMPLETING": "running", "SUSPENDED": "running", "STOPPED": "running",
    "RESIZING": "running", "SIGNALING": "running", "STAGE_OUT": "running",
}  # fmt: skip
WORDS = {
    "OUT_OF_MEMORY": "ran out of memory",
    "TIMEOUT": "ran over its time limit",
    "NODE_FAIL": "lost its node",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "was preempted",
    "DEADLINE": "missed its deadline",
    "BOOT_FAIL": "did not start: its node did not boot",
}
# What the memory gatherer and the cgroup plugin write to the job's output.
OUT_OF_MEMORY_MARKS = ("exceeded memory limit", "oom_kill", "oom-kill", "Exceeded job memory limit")
# Refusals that no waiting mends; anything else that sbatch says is taken for a scheduler out of reach.
UNREACHABLE = (
    "unable to contact", "socket timed out", "connection refused", "communication", "temporarily unable", "timed out",
    "zero bytes were transmitted", "slurm_persist", "munge", "connect failure", "slurmctld", "insane message length",
)  # fmt: skip


class SlurmLauncher(ClusterLauncher):
    """Runs jobs on a Slurm cluster from any machine where `sbatch` works."""

    scheduler: ClassVar[str] = "Slurm"

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch_arguments: list[str] = Field(default_factory=list, description="more arguments for sbatch, as they are")

    def render(self, spec: JobSpec) -> str:
        """One shell line that submits the job as `run` would."""
        request = self._request([spec])
        return shlex.join(self._sbatch(request, job_environment(spec.resources.cpus, spec.env)))

    def _sbatch(self, request: Request, environment: Mapping[str, str]) -> list[str]:
        needs = request.spec.resources
        log = str(request.log)
        if "\\" in log or any(ord(letter) < 32 for letter in log):
            raise ConfigError(f"job folder {log!r}: Slurm takes no path with backslashes or control characters.")
        options = {
            "--job-name": request.name,
            "--output": log.replace("%", "%%"),
            "--open-mode": "append",
            "--chdir": os.getcwd(),
            "--export": ",".join(["PATH", "HOME", "LANG", *self.secrets]),
            "--nodes": str(needs.nodes),
            "--ntasks-per-node": "1",
            "--cpus-per-task": str(needs.cpus),
            "--mem": f"{int(needs.memory_gb * 1024)}M",
            "--time": str(-(-request.time_limit_s // 60)),
            "--gpus-per-node": str(needs.gpus_per_node) if needs.gpus_per_node else None,
            "--partition": self.partition,
            "--account": self.account,
            "--qos": self.qos,
        }
        chosen = [f"{name}={value}" for name, value in options.items() if value is not None]
        script = self._script(request, environment)
        return ["sbatch", "--parsable", "--no-requeue", *chosen, *self.sbatch_arguments, "--wrap", script]

    def _script(self, request: Request, environment: Mapping[str, str]) -> str:
        one = request.spec.resources.processes == 1
        command = shlex.join(job_command(self.python, request)) if one else self._many_processes(request)
        return job_script(request, environment, command)

    def _many_processes(self, request: Request) -> str:
        """`accelerate launch` once per node; Slurm says which node this is, and where the first one is: the batch
        script runs there, and `srun` tells every task the address that it was called from."""
        launch, job = launch_words(self.python, request)
        place = (
            '--machine_rank "$SLURM_NODEID" --main_process_ip "$SLURM_LAUNCH_NODE_IPADDR" '
            '--main_process_port "$((20000 + SLURM_JOB_ID % 20000))"'
        )
        inner = f"exec {shlex.join(launch)} {place} {shlex.join(job)}"
        srun = f"srun --kill-on-bad-exit=1 --ntasks={request.spec.resources.nodes} --ntasks-per-node=1"
        return f"export RLUF_ATTEMPT=$SLURM_JOB_ID\n{srun} sh -c {shlex.quote(inner)}"

    def _submit(self, request: Request, environment: Mapping[str, str]) -> str:
        missing = [name for name in self.secrets if name not in os.environ]
        if missing:
            raise ConfigError(
                f"{request.spec.name}: no environment variable {missing[0]!r} here, which is to be passed."
            )
        done = _call(self._sbatch(request, environment))
        if done.returncode == 0:
            return done.stdout.strip().split(";")[0]
        if any(mark in done.stderr.lower() for mark in UNREACHABLE):
            raise SchedulerDown(_words(done.stderr))
        raise JobFailed(f"{request.spec.name}: Slurm refused the job: {_words(done.stderr)}")

    def _look(self, job_id: str, request: Request) -> Sighting:
        done = _call(["scontrol", "show", "job", "--oneliner", job_id])
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise SchedulerDown(_words(done.stderr))
        if done.returncode != 0 or not done.stdout.strip():
            return gone(request, self.scheduler)
        facts = dict(pair.split("=", 1) for pair in done.stdout.split() if "=" in pair)
        state, times = facts["JobState"], (_time(facts.get("StartTime")), _time(facts.get("EndTime")))
        if state in ALIVE:
            reason = facts.get("Reason", "None")
            waiting = ALIVE[state] == "waiting"
            return Sighting(
                "waiting" if waiting else "running",
                f"({reason})" if waiting and reason != "None" else "",
                None if waiting else times[0],
            )
        if state == "COMPLETED":
            return Sighting("done", "", *times)
        return Sighting("failed", _reason(state, facts, request), *times)

    def _find(self, request: Request) -> str | None:
        done = _call(
            ["squeue", "--noheader", "--me", "--name", request.name, "--format", "%i", "--states", "PD,R,CF,S"]
        )
        if done.returncode != 0:
            raise SchedulerDown(_words(done.stderr))
        ids = done.stdout.split()
        return ids[0] if ids else None

    def _kill(self, job_id: str) -> None:
        done = _call(["scancel", job_id])
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise SchedulerDown(_words(done.stderr))


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{command[0]}: not found. The Slurm launcher runs where jobs can be submitted: install Slurm's client "
            "commands, or choose another launcher."
        ) from None
    except subprocess.TimeoutExpired:
        raise SchedulerDown(f"{command[0]} gave no answer in {COMMAND_TIMEOUT_S} s") from None


def _reason(state: str, facts: Mapping[str, str], request: Request) -> str:
    """Why a job ended. Without cgroups Slurm calls a job that it ended for its memory just FAILED: its log tells."""
    if any(mark in request.tail() for mark in OUT_OF_MEMORY_MARKS):
        state = "OUT_OF_MEMORY"
    needs = request.spec.resources
    limits = {
        "OUT_OF_MEMORY": f" (memory_gb {needs.memory_gb:g}; give it more)",
        "TIMEOUT": f" (time_limit_s {request.time_limit_s}; give it more)",
    }
    words = WORDS.get(state, f"ended as {state}, exit status {facts.get('ExitCode', 'unknown')}")
    return words + limits.get(state, "")


def _time(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


def _words(stderr: str) -> str:
    return " ".join(stderr.split())[:500] or "no message"
