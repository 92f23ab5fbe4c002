"""RayLauncher against a real Ray: attach, cancel, time limit, failure, two nodes, the whole tiny graph."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest

from resources.launchers.profile import build_launcher
from resources.launchers.ray import RayLauncher
from resources.launchers.spec import JobSpec
from resources.profiles.launchers import RaySettings
from rluf_assets.errors import JobFailed, JobRefused, SchedulerDown
from rluf_assets.lake import read_artifact
from tests.launchers.conftest import (
    Way,
    Worker,
    absent,
    adopt_spec,
    eventually,
    ranks_of,
    submissions,
    training_spec,
    two_node_spec,
)

pytestmark = pytest.mark.slow
Start = Callable[[dict[str, Any], JobSpec], Worker]


def settings(address: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "ray", "address": address, "poll_s": 0.3, "retry_wait_s": 0.2, "submit_attempts": 3, **changes}


def launcher(address: str, **changes: Any) -> RayLauncher:
    built = build_launcher(RaySettings.model_validate(settings(address, **changes)))
    assert isinstance(built, RayLauncher)
    return built


def process_of(spec: JobSpec) -> psutil.Process | None:
    """The job's own Python process on this machine."""
    path = f"{spec.output_uri}/logs/spec.json"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if path in words and words[1:2] == ["-m"]:
            return process
    return None


def test_jobs_run_are_reused_and_fail_with_their_last_words(ray_address: str, tmp_path: Path) -> None:
    base = tmp_path / 'it\'s $(touch pwned) `id`; %j "x" &'
    spec = adopt_spec(base, name="ad'opt[$(id);x]", output_uri=str(base / "out"))
    result = launcher(ray_address).run(None, spec)
    assert (base / "out" / "table.json").read_text() == "{}"
    assert not result.reused and result.history is not None and result.history.launcher == "Ray"
    assert launcher(ray_address).run(None, spec).reused
    assert not list(tmp_path.rglob("pwned"))
    bad = adopt_spec(tmp_path, config={"tables": {"absent.json": []}})
    with pytest.raises(JobRefused, match=r"exit status 3(.|\n)*absent\.json: absent"):
        launcher(ray_address).run(None, bad)
    secret = adopt_spec(tmp_path, name="secret")
    with pytest.raises(JobFailed, match=r"exit status 78|RLUF_NO_SUCH_TOKEN|code 78"):
        launcher(ray_address, secrets=("RLUF_NO_SUCH_TOKEN",)).run(None, secret)


def test_an_address_where_no_ray_answers_is_named(tmp_path: Path) -> None:
    if find_spec("ray") is None:
        absent("the extra `ray` is not installed; make cluster-up installs it")
    with pytest.raises(SchedulerDown, match=r"Ray could not be reached in 2 tries.*127\.0\.0\.1:9"):
        launcher("http://127.0.0.1:9", submit_attempts=2).run(None, adopt_spec(tmp_path))


def test_the_run_worker_is_killed_and_the_next_one_attaches(
    ray_address: str, tiny_home: Path, tmp_path: Path, worker: Start
) -> None:
    spec = training_spec(tiny_home, tmp_path)
    first = worker(settings(ray_address), spec)
    job = eventually(lambda: process_of(spec), "the job's process is there")
    job.suspend()
    first.kill(signal.SIGKILL)
    second, third = worker(settings(ray_address), spec), worker(settings(ray_address), spec)
    for one in (second, third):
        eventually(lambda one=one: one.said("attached to Ray job"), "the next workers attach")
    job.resume()
    assert second.finish() == 0, second.log.read_text()
    assert third.finish() == 0, third.log.read_text()
    assert len(submissions(spec)) == 1
    assert second.said('"retries": "0"') and second.said('"scheduler": "Ray"')


def test_a_cancel_ends_the_job(ray_address: str, tmp_path: Path, worker: Start) -> None:
    spec = adopt_spec(tmp_path)
    one = worker(settings(ray_address), spec)
    job = eventually(lambda: process_of(spec), "the job's process is there")
    job.suspend()
    eventually(lambda: one.said("running"), "the worker watches")
    one.kill(signal.SIGINT)
    assert one.said("cancelled; ending its Ray job")
    with suppress(psutil.NoSuchProcess):  # ended by SIGKILL already, else SIGTERM waits for it to go on
        job.resume()
    eventually(lambda: not job.is_running(), "the job's process ends")
    assert read_artifact(spec.output_uri) is None


def test_time_limit_and_a_killed_process_are_named_and_the_retry_resumes(
    ray_address: str, tiny_home: Path, tmp_path: Path, worker: Start, undisturbed: str
) -> None:
    endless = training_spec(tiny_home, tmp_path / "endless", time_limit_s=25)
    endless = endless.model_copy(update={"config": {**endless.config, "steps": 1_000_000}})
    with pytest.raises(JobFailed, match=r"ran over its time limit \(time_limit_s 25"):
        launcher(ray_address).run(None, endless)
    spec = training_spec(tiny_home, tmp_path)
    one = worker(settings(ray_address), spec)
    eventually(lambda: list((tmp_path / "base_policy" / "checkpoints").glob("*")), "a checkpoint is saved")
    os.kill(process_of(spec).pid, signal.SIGKILL)
    assert one.finish() == 1
    assert one.said("was killed by signal 9"), one.log.read_text()
    result = launcher(ray_address).run(None, spec)
    assert result.artifact.content_hash == undisturbed
    assert len(submissions(spec)) == 2


def test_lost_polls_fail_nothing(ray_address: str, tmp_path: Path, worker: Start) -> None:
    spec = adopt_spec(tmp_path)
    with Way(urlparse(ray_address).port) as way:
        one = worker(settings(way.address), spec)
        job = eventually(lambda: process_of(spec), "the job's process is there")
        job.suspend()
        eventually(lambda: one.said("running"), "the worker watches")
        way.close()
        eventually(lambda: one.said("does not answer, still waiting"), "the worker notices")
        way.open()
        job.resume()
        assert one.finish() == 0, one.log.read_text()
    assert len(submissions(spec)) == 1


def test_a_job_of_two_nodes_meets_at_the_first(ray_address: str, tiny_home: Path, tmp_path: Path) -> None:
    spec = two_node_spec(tiny_home, tmp_path)
    result = launcher(ray_address).run(None, spec)
    assert ranks_of(result.artifact) == 2
    assert result.history is not None and result.history.submissions == 1


def test_a_part_of_the_tiny_graph_gives_the_same_artifacts_as_here(
    ray_address: str, tiny_home: Path, tmp_path: Path
) -> None:
    """A day, what is made from all days, the base policy and what judges candidates; the rest goes through Slurm."""
    from tests.launchers.graph import check_graph_through

    made_here = ("validated_replies/2026-01-03", "signal_set/_", "base_policy/_", "offline_evaluation/untouched",
                 "offline_online_backtest/_", "reward_hacking_audit/_")  # fmt: skip
    check_graph_through(settings(ray_address), tiny_home, tmp_path / "home", without=made_here)
