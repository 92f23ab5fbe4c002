"""SlurmLauncher against a real Slurm: what survives a killed orchestrator, a dead job, a lost node, a scheduler away."""

from __future__ import annotations

import json
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from dagster import DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient

from resources.launchers.profile import build_launcher
from resources.launchers.slurm import SlurmLauncher
from resources.launchers.spec import JobResources, JobSpec
from resources.profiles.launchers import SlurmSettings
from rluf_assets.errors import JobFailed, JobRefused, SchedulerDown
from rluf_assets.lake import read_artifact
from tests.launchers.conftest import (
    Slurm,
    Worker,
    adopt_spec,
    eventually,
    ranks_of,
    submissions,
    training_spec,
    two_node_spec,
)

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"kind": "slurm", "poll_s": 0.3, "retry_wait_s": 0.2, "submit_attempts": 3}
Start = Callable[[dict[str, Any], JobSpec], Worker]


def launcher(**changes: Any) -> SlurmLauncher:
    built = build_launcher(SlurmSettings.model_validate({**SETTINGS, **changes}))
    assert isinstance(built, SlurmLauncher)
    return built


def submitted(spec: JobSpec) -> str:
    found = eventually(lambda: submissions(spec), "the job is submitted")
    return str(found[-1]["job_id"])


def running(slurm: Slurm, spec: JobSpec) -> str:
    job_id = submitted(spec)
    eventually(lambda: slurm.state(job_id) == "RUNNING", "the job runs")
    return job_id


def run_until_cancelled(spec: JobSpec) -> None:
    """What a retry in the UI does, with the time limit raised: resources are not part of the fingerprint."""
    with pytest.raises(JobFailed, match="was cancelled"):
        launcher().run(None, spec)


def test_a_job_whose_folder_has_a_hostile_name(slurm: Slurm, tmp_path: Path) -> None:
    base = tmp_path / 'it\'s $(touch pwned) `id`; %j %% "x" &'
    spec = adopt_spec(base, name="ad'opt[$(id);x]", output_uri=str(base / "out"))
    result = launcher().run(None, spec)
    assert not result.reused
    assert (base / "out" / "table.json").read_text() == "{}"
    assert result.history is not None and result.history.submissions == 1 and result.history.run_s >= 0
    assert launcher().run(None, spec).reused
    assert len(submissions(spec)) == 1
    assert not list(tmp_path.rglob("pwned"))
    for path in [base / "out", *(base / "out" / "logs").iterdir()]:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


def test_a_range_of_days_is_one_submission(slurm: Slurm, tmp_path: Path) -> None:
    specs = [adopt_spec(tmp_path, name=f"day{day}", seed=day) for day in range(3)]
    first = launcher().run(None, specs[0])
    results = launcher().run_many(None, specs)
    assert [result.reused for result in results] == [True, False, False]
    assert results[0].artifact.content_hash == first.artifact.content_hash
    assert len({result.history.job_id for result in results if result.history}) == 1


def test_refused_and_failed_jobs_say_why(slurm: Slurm, tmp_path: Path) -> None:
    spec = adopt_spec(tmp_path, config={"tables": {"absent.json": []}})
    with pytest.raises(JobRefused, match=r"exit status 3(.|\n)*absent\.json: absent"):
        launcher().run(None, spec)
    with pytest.raises(JobFailed, match=r"Slurm refused the job.*[Ii]nvalid partition"):
        launcher(partition="nowhere").run(None, adopt_spec(tmp_path, name="refused"))


def test_a_secret_reaches_the_job_by_reference(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLUF_TEST_TOKEN", "s3cret-value")
    monkeypatch.setenv("RLUF_NOT_FOR_JOBS", "other-value")
    probe = tmp_path / "python"
    probe.write_text("#!/bin/sh\nenv\nexit 5\n")
    probe.chmod(0o700)
    spec = adopt_spec(tmp_path, env={"RLUF_PLAIN": "it's $HOME"})
    here = launcher(python=str(probe), secrets=("RLUF_TEST_TOKEN",))
    assert "s3cret" not in here.render(spec)
    with pytest.raises(JobFailed, match="exit status 5"):
        here.run(None, spec)
    log = Path(spec.output_uri) / "logs" / "job.log"
    seen = log.read_text()
    assert "RLUF_TEST_TOKEN=s3cret-value" in seen
    assert "RLUF_PLAIN=it's $HOME" in seen
    assert "RLUF_NOT_FOR_JOBS" not in seen
    written = [path.read_text() for path in log.parent.iterdir() if path != log and path.is_file()]
    assert not any("s3cret" in text for text in written)


def test_the_run_worker_is_killed_and_the_next_one_attaches(
    slurm: Slurm, tiny_home: Path, tmp_path: Path, worker: Start
) -> None:
    spec = training_spec(tiny_home, tmp_path)
    first = worker(SETTINGS, spec)
    job_id = running(slurm, spec)
    slurm.call("scontrol", "suspend", job_id)
    first.kill(signal.SIGKILL)
    second, third = worker(SETTINGS, spec), worker(SETTINGS, spec)
    for one in (second, third):
        eventually(lambda one=one: one.said(f"attached to Slurm job {job_id}"), "the next workers attach")
    slurm.call("scontrol", "resume", job_id)
    assert second.finish() == 0, second.log.read_text()
    assert third.finish() == 0, third.log.read_text()
    assert [entry["job_id"] for entry in submissions(spec)] == [job_id]
    assert second.said('"retries": "0"') and second.said('"node_hours"') and second.said('"queue_s"')


def test_a_submission_whose_id_was_lost_is_found_by_its_name(slurm: Slurm, tmp_path: Path, worker: Start) -> None:
    spec = adopt_spec(tmp_path)
    first = worker({**SETTINGS, "sbatch_arguments": ["--hold"]}, spec)
    job_id = submitted(spec)
    first.kill(signal.SIGKILL)
    (Path(spec.output_uri) / "logs" / "submissions.json").unlink()
    second = worker(SETTINGS, spec)
    eventually(lambda: second.said("found by its name"), "the second worker finds the job")
    slurm.call("scontrol", "release", job_id)
    assert second.finish() == 0, second.log.read_text()
    assert [entry["job_id"] for entry in submissions(spec)] == [job_id]


def test_a_cancel_ends_the_job(slurm: Slurm, tmp_path: Path, worker: Start) -> None:
    spec = adopt_spec(tmp_path)
    one = worker({**SETTINGS, "sbatch_arguments": ["--hold"]}, spec)
    job_id = submitted(spec)
    eventually(lambda: one.said(f"job {job_id} waiting"), "the worker watches")
    one.kill(signal.SIGINT)
    eventually(lambda: slurm.state(job_id) == "CANCELLED", "the job is cancelled")
    assert one.said("cancelled; ending its Slurm job")
    assert read_artifact(spec.output_uri) is None
    assert not launcher().run(None, spec).reused
    assert len(submissions(spec)) == 2


def test_scheduler_away_at_submit_and_while_waiting(slurm: Slurm, tmp_path: Path, worker: Start) -> None:
    spec = adopt_spec(tmp_path)
    with slurm.controller_down(), pytest.raises(SchedulerDown, match=r"Slurm could not be reached in 3 tries"):
        launcher().run(None, spec)
    assert submissions(spec) == []
    one = worker({**SETTINGS, "sbatch_arguments": ["--hold"]}, spec)
    job_id = submitted(spec)
    with slurm.controller_down():
        eventually(lambda: one.said("does not answer, still waiting"), "the worker notices")
    slurm.call("scontrol", "release", job_id)
    assert one.finish() == 0, one.log.read_text()
    assert len(submissions(spec)) == 1


def test_out_of_memory_and_time_are_named(slurm: Slurm, tiny_home: Path, tmp_path: Path) -> None:
    hungry = training_spec(tiny_home, tmp_path / "hungry", memory_gb=0.15)
    with pytest.raises(JobFailed, match=r"ran out of memory \(memory_gb 0\.15"):
        launcher().run(None, hungry)
    endless = training_spec(tiny_home, tmp_path / "endless", time_limit_s=60)
    endless = endless.model_copy(update={"config": {**endless.config, "steps": 1_000_000, "checkpoint_every": 10}})
    with pytest.raises(JobFailed, match=r"ran over its time limit \(time_limit_s 60"):
        launcher().run(None, endless)
    progress = Path(endless.output_uri) / "logs" / "progress.jsonl"
    lines = len(progress.read_text().splitlines())
    more = endless.resources.model_copy(update={"time_limit_s": 900})
    endless = endless.model_copy(update={"resources": more})
    again = Thread(target=run_until_cancelled, args=(endless,))
    again.start()
    try:
        eventually(lambda: len(progress.read_text().splitlines()) > lines, "the second submission makes progress")
    finally:
        launcher().cancel(endless)
        again.join()
    assert json.loads(progress.read_text().splitlines()[lines])["done"] > 1, "it began anew instead of resuming"
    assert len(submissions(endless)) == 2


def test_a_lost_node_is_named_and_the_retry_ends_with_the_same_bytes(
    slurm: Slurm, tiny_home: Path, tmp_path: Path, worker: Start, undisturbed: str
) -> None:
    spec = training_spec(tiny_home, tmp_path)
    one = worker(SETTINGS, spec)
    running(slurm, spec)
    eventually(lambda: list((tmp_path / "base_policy" / "checkpoints").glob("*")), "a checkpoint is saved")
    with slurm.nodes_in("down"):
        assert one.finish() == 1
    assert one.said("lost its node")
    result = launcher().run(None, spec)
    assert result.artifact.content_hash == undisturbed
    assert len(submissions(spec)) == 2


def test_a_drained_node_ends_its_job_and_takes_no_other(slurm: Slurm, tmp_path: Path, worker: Start) -> None:
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nwhile [ ! -e "{tmp_path}/go" ]; do sleep 0.2; done\nexec "{sys.executable}" "$@"\n')
    slow.chmod(0o700)
    at_work, next_one = adopt_spec(tmp_path, name="at-work"), adopt_spec(tmp_path, name="next-one")
    first = worker({**SETTINGS, "python": str(slow)}, at_work)
    running(slurm, at_work)
    with slurm.nodes_in("drain"):
        second = worker(SETTINGS, next_one)
        eventually(
            lambda: second.said("waiting (Nodes_required_for_job_are_DOWN"), "the next job waits, and says for what"
        )
        (tmp_path / "go").touch()
        assert first.finish() == 0, first.log.read_text()
        assert read_artifact(next_one.output_uri) is None
    assert second.finish() == 0, second.log.read_text()
    assert len(submissions(at_work)) == len(submissions(next_one)) == 1


def test_a_job_of_two_nodes_meets_at_the_first(slurm: Slurm, tiny_home: Path, tmp_path: Path) -> None:
    spec = two_node_spec(tiny_home, tmp_path)
    result = launcher().run(None, spec)
    assert ranks_of(result.artifact) == 2
    assert result.history is not None and result.history.submissions == 1
    assert launcher().run(None, spec.model_copy(update={"resources": JobResources()})).reused


def test_a_cancel_in_the_ui_ends_the_job(slurm: Slurm, tmp_path: Path, ui: Callable[..., DagsterGraphQLClient]) -> None:
    spec = adopt_spec(tmp_path)
    client = ui({**SETTINGS, "sbatch_arguments": ["--hold"]}, spec)
    run_id = client.submit_job_execution("work")
    job_id = submitted(spec)
    eventually(lambda: client.get_run_status(run_id) is DagsterRunStatus.STARTED, "the run has started")
    client.terminate_run(run_id)
    eventually(lambda: slurm.state(job_id) == "CANCELLED", "the job is cancelled")
    eventually(lambda: client.get_run_status(run_id) is DagsterRunStatus.CANCELED, "the run is shown as cancelled")
    assert read_artifact(spec.output_uri) is None


def test_a_part_of_the_tiny_graph_gives_the_same_artifacts_as_here(
    slurm: Slurm, tiny_home: Path, tmp_path: Path
) -> None:
    """A model, a candidate, its arm and what compares them; another part goes through Ray (`test_ray.py`)."""
    from tests.launchers.graph import check_graph_through

    made_here = ("p_love/_", "crraft_policy/moderate", "ab_exposures/moderate", "ab_test_readout/_", "release_report/_")
    check_graph_through(SETTINGS, tiny_home, tmp_path / "home", without=made_here)
