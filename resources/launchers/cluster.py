"""ClusterLauncher: jobs that outlive whoever asked for them, on any scheduler.

The scheduler's job id stands in the job's folder. Asked for a job: manifest there -> take it; alive -> attach; ended
without a manifest -> submit again (it resumes from what it saved). A submission whose id was never written down is
found by its name. Only a cancel ends a job; a killed orchestrator, a lost poll or a restart of the scheduler does not.
"""

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, TypeVar

import dagster as dg
from filelock import FileLock
from pydantic import Field

from resources.launchers.base import Launcher, Request, job_environment, write_private
from resources.launchers.pipes import pipes_session
from resources.launchers.spec import JobHistory, JobResult, JobSpec
from resources.profiles.accelerate import DEFAULT_CONFIG
from rluf_assets.errors import JobFailed, JobRefused, SchedulerDown
from rluf_assets.jobs.runner import REFUSED
from rluf_assets.lake import Artifact, read_artifact

Interrupted = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
Log = Callable[[str], None]
Answer = TypeVar("Answer")
PUBLISH_GRACE_S = 30.0  # a shared file system may show the manifest a little after the scheduler says "completed"


@dataclass(frozen=True)
class Sighting:
    """What the scheduler says about a job. Times are Unix seconds, None where it does not tell."""

    state: Literal["waiting", "running", "done", "failed"]
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    exit_status: int | None = None  # where the scheduler tells it and the job's script writes none


@dataclass
class Submission:
    """One submission, as kept in `submissions.json` in the job's folder."""

    job_id: str
    submitted: float
    log_offset: int
    started: float | None = None
    ended: float | None = None


class ClusterLauncher(Launcher):
    """What the launchers of schedulers share. The lake must be on a file system that nodes and orchestrator share.

    `python` is the interpreter on the nodes; `secrets` names environment variables that a job gets by reference, never
    by value in a script, spec or manifest.
    """

    scheduler: ClassVar[str]

    python: str
    accelerate_config: str = Field(DEFAULT_CONFIG, description="packaged name or file: how several processes launch")
    secrets: list[str] = Field(default_factory=list)
    poll_s: float = Field(5.0, gt=0)
    submit_attempts: int = Field(5, ge=1, description="tries to reach the scheduler before a run fails")
    retry_wait_s: float = Field(5.0, ge=0, description="wait after the first try; twice as long after each other")
    lost_limit_s: float = Field(86_400, gt=0, description="how long a started job's scheduler may be out of reach")

    @abstractmethod
    def _submit(self, request: Request, environment: Mapping[str, str]) -> str:
        """Hand the request over; returns the scheduler's job id. Raises SchedulerDown if it cannot be reached."""

    @abstractmethod
    def _look(self, job_id: str, request: Request) -> Sighting:
        """What the scheduler says about the job. Raises SchedulerDown if it cannot be reached."""

    @abstractmethod
    def _find(self, request: Request) -> str | None:
        """The id of a live job of this request's name, if there is one. Raises SchedulerDown."""

    @abstractmethod
    def _kill(self, job_id: str) -> None:
        """End the job. Raises SchedulerDown."""

    def run_many(self, context: dg.AssetExecutionContext | None, specs: Sequence[JobSpec]) -> list[JobResult]:
        """Run jobs of one entry point as one submission; raises JobFailed (reason, last log lines), SchedulerDown."""
        before = [read_artifact(spec.output_uri) for spec in specs]
        request = self._request(specs)
        log: Log = context.log.info if context else print
        if not all(before):
            request.prepare()
            with pipes_session(context, request) as pipes:
                self._see_through(request, log, pipes)
        history = self._history(request)
        results = []
        for spec, found in zip(specs, before, strict=True):
            artifact = found or read_artifact(spec.output_uri)
            if artifact is None:
                raise JobFailed(f"{spec.name}: the job ended without publishing {spec.output_uri}.\n{request.tail()}")
            results.append(JobResult(artifact, reused=found is not None, history=history))
        return results

    def cancel(self, spec: JobSpec) -> None:
        """End the job, if it is alive."""
        self._cancel(self._request([spec]))

    def _request(self, specs: Sequence[JobSpec]) -> Request:
        return Request(tuple(specs), self.accelerate_config)

    def _cancel(self, request: Request) -> None:
        submissions = _read_submissions(request)
        found = self._insist(lambda: self._find(request), f"look for a job named {request.name}")
        job_id = found or (submissions[-1].job_id if submissions else None)
        if job_id is not None:
            self._insist(lambda: self._kill(job_id), f"cancel job {job_id}")

    def _see_through(self, request: Request, log: Log, pipes: Mapping[str, str]) -> None:
        environment = job_environment(request.spec.resources.cpus, request.spec.env, pipes)
        try:
            submission = self._attach_or_submit(request, environment, log)
            if submission is not None:
                self._watch(request, submission, log)
        except Interrupted:
            log(f"{request.spec.name}: cancelled; ending its {self.scheduler} job")
            self._cancel(request)
            raise

    def _attach_or_submit(self, request: Request, environment: Mapping[str, str], log: Log) -> Submission | None:
        """The live submission of this request, made now if there is none; None if all was published meanwhile. Two
        callers never both submit."""
        with FileLock(request.folder / "submit.lock", mode=0o600):
            submissions = _read_submissions(request)
            known = submissions[-1] if submissions else None
            if known is not None:
                seen = self._insist(lambda: self._look(known.job_id, request), f"look for job {known.job_id}")
                if seen.state in ("waiting", "running"):
                    log(f"{request.spec.name}: attached to {self.scheduler} job {known.job_id}, {seen.state}")
                    return known
            if _published(request) is not None:
                return None
            offset = request.log.stat().st_size
            found = self._insist(lambda: self._find(request), f"look for a job named {request.name}")
            if found is None:
                _forget_last_attempt(request)
                found = self._insist(lambda: self._submit_once(request, environment), f"submit {request.spec.name}")
                log(f"{request.spec.name}: {self.scheduler} job {found} submitted; log in {request.log}")
            else:
                log(f"{request.spec.name}: attached to {self.scheduler} job {found}, found by its name")
            submission = Submission(found, time.time(), offset)
            _write_submissions(request, [*submissions, submission])
            return submission

    def _submit_once(self, request: Request, environment: Mapping[str, str]) -> str:
        """Submit, unless an earlier try that seemed to fail got through after all."""
        return self._find(request) or self._submit(request, environment)

    def _insist(self, ask: Callable[[], Answer], what: str) -> Answer:
        """Ask the scheduler, again after a while if it is out of reach; raises SchedulerDown after the last try."""
        wait = self.retry_wait_s
        for attempt in range(1, self.submit_attempts + 1):
            try:
                return ask()
            except SchedulerDown as error:
                if attempt == self.submit_attempts:
                    raise SchedulerDown(
                        f"{self.scheduler} could not be reached in {attempt} tries to {what}: {error}\n"
                        "Nothing is lost: run it again once the scheduler is back; a live job is attached to."
                    ) from error
                time.sleep(wait)
                wait *= 2
        raise AssertionError("submit_attempts is at least 1")

    def _watch(self, request: Request, submission: Submission, log: Log) -> None:
        """Wait until the job has ended; raises JobFailed unless everything asked for is published."""
        shown, lost_since, ended_at = "", None, None
        while True:
            try:
                seen = self._look(submission.job_id, request)
                lost_since = None
            except SchedulerDown as error:
                if _published(request) is not None:
                    return
                lost_since = lost_since or time.time()
                if shown != "lost":
                    log(f"{request.spec.name}: {self.scheduler} does not answer, still waiting ({error})")
                    shown = "lost"
                if time.time() - lost_since > self.lost_limit_s:
                    raise
                time.sleep(self.poll_s)
                continue
            if seen.state in ("waiting", "running") and (words := f"{seen.state} {seen.reason}".strip()) != shown:
                log(f"{request.spec.name}: {self.scheduler} job {submission.job_id} {words}")
                shown = words
            if seen.state in ("done", "failed"):
                _note_times(request, submission, seen)
                if _published(request) is not None:
                    return
                ended_at = ended_at or time.monotonic()
                if seen.state == "failed" or time.monotonic() - ended_at > PUBLISH_GRACE_S:
                    raise self._obituary(request, submission, seen)
            time.sleep(self.poll_s if ended_at is None else 0.5)

    def _obituary(self, request: Request, submission: Submission, seen: Sighting) -> JobFailed:
        refused = (seen.exit_status or _exit_status(request)) == REFUSED
        reason = seen.reason or "ended without publishing its artifact"
        remedy = (
            "Mend what it says, then run it again." if refused else "Run it again and it resumes from what it saved."
        )
        return (JobRefused if refused else JobFailed)(
            f"{request.spec.name}: {self.scheduler} job {submission.job_id} {reason}. {remedy}\n"
            f"{request.last_words(submission.log_offset)}"
        )

    def _history(self, request: Request) -> JobHistory | None:
        submissions = _read_submissions(request)
        if not submissions:
            return None
        started = [s for s in submissions if s.started is not None]
        return JobHistory(
            launcher=self.scheduler,
            job_id=submissions[-1].job_id,
            submissions=len(submissions),
            queue_s=round(sum(max(0.0, (s.started or 0) - s.submitted) for s in started), 1),
            run_s=round(sum((s.ended or s.started or 0) - (s.started or 0) for s in started), 1),
        )


def gone(request: Request, scheduler: str) -> Sighting:
    """A job that its scheduler no longer knows (they forget after a while): its script wrote down how it ended."""
    record = request.folder / "exit_status"
    if not record.exists():
        return Sighting("failed", f"is not known to {scheduler} any more and left no exit status")
    status = record.read_text().strip()
    ended = record.stat().st_mtime
    return Sighting("done" if status == "0" else "failed", f"ended with exit status {status}", None, ended)


def _exit_status(request: Request) -> int | None:
    """What the job's script wrote down when it ended; None where it was killed before it could."""
    record = request.folder / "exit_status"
    status = record.read_text().strip() if record.exists() else ""
    return int(status) if status.isdigit() else None


def _published(request: Request) -> list[Artifact] | None:
    found = [read_artifact(spec.output_uri) for spec in request.specs]
    return [artifact for artifact in found if artifact] if all(found) else None


def _forget_last_attempt(request: Request) -> None:
    for name in ("exit_status", "messages.jsonl"):
        (request.folder / name).unlink(missing_ok=True)


def _read_submissions(request: Request) -> list[Submission]:
    path = request.folder / "submissions.json"
    return [Submission(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def _write_submissions(request: Request, submissions: Sequence[Submission]) -> None:
    write_private(request.folder / "submissions.json", json.dumps([asdict(entry) for entry in submissions], indent=1))


def _note_times(request: Request, submission: Submission, seen: Sighting) -> None:
    others = [entry for entry in _read_submissions(request) if entry.job_id != submission.job_id]
    submission.started, submission.ended = seen.started, seen.ended
    _write_submissions(request, [*others, submission])
