"""KubernetesLauncher through the official client, against an API server over HTTP that runs the pods' commands."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from resources.launchers.kuberay import KubeRayLauncher
from resources.launchers.kubernetes import KubernetesLauncher
from resources.launchers.profile import build_launcher
from resources.profiles.launchers import KubeRaySettings, KubernetesSettings
from rluf_assets.errors import ConfigError, JobFailed, JobRefused, SchedulerDown
from tests.launchers.api_server import Cluster, serve, validate
from tests.launchers.conftest import Worker, adopt_spec, eventually, submissions


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    known = Cluster()
    server = serve(known)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))  # for processes that tests start
    yield known
    server.shutdown()
    server.server_close()


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "kubernetes", "image": "registry.example/rluf:1", "volume_claim": "lake", "mount_path": str(tmp_path),
        "poll_s": 0.05, "retry_wait_s": 0.01, "submit_attempts": 3, "python": sys.executable, **changes,
    }  # fmt: skip


def launcher(tmp_path: Path, **changes: Any) -> KubernetesLauncher:
    built = build_launcher(KubernetesSettings.model_validate(settings(tmp_path, **changes)))
    assert isinstance(built, KubernetesLauncher)
    return built


def test_a_job_is_created_seen_through_and_not_run_again(cluster: Cluster, tmp_path: Path) -> None:
    spec = adopt_spec(tmp_path, name="it's $(HOME) $$")
    result = launcher(tmp_path).run(None, spec)
    assert (Path(spec.output_uri) / "table.json").read_text() == "{}"
    assert not result.reused and result.history is not None and result.history.launcher == "Kubernetes"
    assert launcher(tmp_path).run(None, spec).reused
    assert len(cluster.created) == 1


def test_a_failed_job_brings_the_pods_log_and_is_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    spec = adopt_spec(tmp_path, config={"tables": {"later.json": []}})
    with pytest.raises(JobRefused, match=r"ended with exit status 3(.|\n)*later\.json: absent") as failure:
        launcher(tmp_path).run(None, spec)
    assert "b'" not in str(failure.value) and "\\n" not in str(failure.value)
    (tmp_path / "source" / "later.json").write_text("{}")
    cluster.jobs.clear()  # what ttlSecondsAfterFinished does
    eventually(lambda: not cluster.jobs, "the first job is gone")
    result = launcher(tmp_path).run(None, spec)
    assert result.history is not None and result.history.submissions == 2


@pytest.mark.parametrize(
    ("play", "message"),
    [
        ("evict", r"was evicted: The node was low on resource: memory"),
        ("oom", r"ran out of memory \(memory_gb 2"),
        ("image", r"cannot start: ErrImagePull: no such image registry\.example/rluf:1"),
    ],
)
def test_what_ended_a_job_is_named(cluster: Cluster, tmp_path: Path, play: str, message: str) -> None:
    cluster.play = play
    with pytest.raises(JobFailed, match=message):
        launcher(tmp_path).run(None, adopt_spec(tmp_path))
    assert (cluster.deleted != []) == (play == "image")


def test_a_second_caller_attaches_and_lost_polls_fail_nothing(cluster: Cluster, tmp_path: Path) -> None:
    cluster.play = "hold"
    spec = adopt_spec(tmp_path)
    results: list[Any] = []
    # Patient: the second caller may first ask while the server is down.
    patient = {"retry_wait_s": 0.5, "submit_attempts": 5}
    callers = [
        threading.Thread(target=lambda: results.append(launcher(tmp_path, **patient).run(None, spec))) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    eventually(lambda: submissions(spec), "one of them submits")
    cluster.down = True
    threading.Event().wait(0.3)
    cluster.down, cluster.play = False, "run"
    for caller in callers:
        caller.join(timeout=120)
    assert len(results) == 2 and len(cluster.created) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"kind": "kuberay", "ray_version": "2.60.0"}], ids=["kubernetes", "kuberay"])
def test_the_run_worker_is_killed_and_the_next_one_attaches(
    cluster: Cluster, tmp_path: Path, worker: Callable[..., Worker], kind: dict[str, str]
) -> None:
    cluster.play = "hold"
    spec = adopt_spec(tmp_path)
    first = worker(settings(tmp_path, **kind), spec)
    eventually(lambda: submissions(spec), "the job is submitted")
    first.kill(signal.SIGKILL)
    second = worker(settings(tmp_path, **kind), spec)
    eventually(lambda: second.said("attached to Kube"), "the next worker attaches")
    cluster.play = "run"
    assert second.finish() == 0, second.log.read_text()
    assert len(cluster.created) == len(submissions(spec)) == 1
    assert second.said('"retries": "0"') and second.said('"node_hours"')


def test_cancel_deletes_the_job(cluster: Cluster, tmp_path: Path) -> None:
    cluster.play = "hold"
    spec = adopt_spec(tmp_path)
    failures: list[JobFailed] = []

    def run() -> None:
        with pytest.raises(JobFailed, match="is not known to Kubernetes any more") as caught:
            launcher(tmp_path).run(None, spec)
        failures.append(caught.value)

    caller = threading.Thread(target=run)
    caller.start()
    eventually(lambda: submissions(spec), "the job is submitted")
    launcher(tmp_path).cancel(spec)
    caller.join(timeout=60)
    assert cluster.deleted == cluster.created and len(failures) == 1


def kuberay(tmp_path: Path, **changes: Any) -> KubeRayLauncher:
    given = settings(tmp_path, **{"kind": "kuberay", "ray_version": "2.60.0", **changes})
    built = build_launcher(KubeRaySettings.model_validate(given))
    assert isinstance(built, KubeRayLauncher)
    return built


def test_a_ray_job_of_kuberay_is_seen_through(cluster: Cluster, tmp_path: Path) -> None:
    spec = adopt_spec(tmp_path, name="it's $(HOME) $$")
    result = kuberay(tmp_path).run(None, spec)
    assert (Path(spec.output_uri) / "table.json").read_text() == "{}"
    assert result.history is not None and result.history.launcher == "KubeRay"
    assert kuberay(tmp_path).run(None, spec).reused and len(cluster.created) == 1
    bad = adopt_spec(tmp_path, name="bad", config={"tables": {"absent.json": []}})
    with pytest.raises(JobRefused, match=r"ended with exit status 3(.|\n)*absent\.json: absent"):
        kuberay(tmp_path).run(None, bad)


@pytest.mark.parametrize(
    ("play", "message"),
    [
        ("image", r"cannot start: ErrImagePull: no such image"),
        ("deadline", r"ran over its time limit \(time_limit_s 3600"),
    ],
)
def test_what_ended_a_ray_job_of_kuberay_is_named(cluster: Cluster, tmp_path: Path, play: str, message: str) -> None:
    cluster.play = play
    with pytest.raises(JobFailed, match=message):
        kuberay(tmp_path).run(None, adopt_spec(tmp_path))
    assert (cluster.deleted != []) == (play == "image")


def test_a_ray_job_of_several_nodes_has_a_pod_for_each(tmp_path: Path) -> None:
    needs = {"nodes": 4, "gpus_per_node": 8, "cpus": 16, "memory_gb": 64}
    spec = adopt_spec(tmp_path, resources=needs)
    launcher = kuberay(tmp_path, secrets=("HF_TOKEN",), secret_name="hub", accelerate_config="zero3")
    [job] = json.loads(launcher.render(spec))["items"]
    validate(job)
    groups = job["spec"]["rayClusterSpec"]
    assert [group["replicas"] for group in groups["workerGroupSpecs"]] == [3]
    for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert container["env"] == [
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}}
        ]
    assert "resources.launchers.ray_nodes 4" in job["spec"]["entrypoint"]


def test_an_api_server_away_and_a_folder_no_pod_sees(cluster: Cluster, tmp_path: Path) -> None:
    cluster.down = True
    with pytest.raises(SchedulerDown, match=r"Kubernetes could not be reached in 3 tries.*503"):
        launcher(tmp_path).run(None, adopt_spec(tmp_path))
    with pytest.raises(ConfigError, match="is not under mount_path /elsewhere"):
        launcher(tmp_path, mount_path="/elsewhere").render(adopt_spec(tmp_path))
