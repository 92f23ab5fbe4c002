"""A Kubernetes API server over HTTP, as far as the life of a Job or a RayJob goes: create, read, list, delete, pods, logs.

It checks every manifest against the published schema, as a real one does, and plays the kubelet and KubeRay's operator:
`play` says what becomes of a job. `run` starts its command for real, as a process of this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import kubernetes_validate

PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1|apis/ray.io/v1)/namespaces/([^/]+)/(jobs|rayjobs|pods|services)(?:/([^/]+))?(/log)?$"
)
# Fields of KubeRay's RayJobSpec, RayClusterSpec and group specs that the launcher may use (API reference, v1.6).
RAY_JOB = {
    "entrypoint", "entrypointNumCpus", "entrypointNumGpus", "submissionMode", "backoffLimit", "activeDeadlineSeconds",
    "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
}  # fmt: skip
RAY_CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
RAY_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
MOMENT = "2026-01-01T00:00:00Z"
WAITING = {"image": {"waiting": {"reason": "ErrImagePull", "message": "no such image registry.example/rluf:1"}}}


class Cluster:
    """What the API server knows, and what it is told to play."""

    def __init__(self) -> None:
        self.play = "run"  # run, hold, evict, oom, image
        self.down = False
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[str] = []
        self.deleted: list[str] = []
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        validate(manifest)
        name = manifest["metadata"]["name"]
        self.created.append(name)
        manifest["metadata"]["uid"] = f"uid-{len(self.created)}"
        self.jobs[name] = manifest
        return manifest

    def start(self, name: str) -> None:
        if self.jobs[name]["kind"] == "RayJob":
            command = ["sh", "-c", self.jobs[name]["spec"]["entrypoint"]]
            self.processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
            return
        container = self.jobs[name]["spec"]["template"]["spec"]["containers"][0]
        command = [word.replace("$$", "$") for word in container["command"]]
        given = {entry["name"]: entry["value"].replace("$$", "$") for entry in container["env"] if "value" in entry}
        self.processes[name] = subprocess.Popen(
            command, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def job(self, name: str) -> dict[str, Any]:
        if self.play == "run" and name not in self.processes:
            self.start(name)
        if self.jobs[name]["kind"] == "RayJob":
            return {**self.jobs[name], "status": self.ray_status(name)}
        conditions = []
        if self.play == "run" and (code := self.processes[name].poll()) is not None:
            conditions = [condition("Complete")] if code == 0 else [condition("Failed", "BackoffLimitExceeded")]
        elif self.play in ("evict", "oom"):
            conditions = [condition("Failed", "BackoffLimitExceeded")]
        return {**self.jobs[name], "status": {"conditions": conditions}}

    def ray_status(self, name: str) -> dict[str, Any]:
        """What KubeRay's operator writes under `status`."""
        ended = {
            "jobDeploymentStatus": "Failed",
            "jobStatus": "FAILED",
            "reason": "AppFailed",
            "message": "see the log",
        }
        if self.play == "image":
            return {"jobDeploymentStatus": "Initializing", "rayClusterName": name}
        if self.play == "deadline":
            return {**ended, "reason": "DeadlineExceeded"}
        if self.play != "run":
            return {"jobDeploymentStatus": "Initializing"}
        if (code := self.processes[name].poll()) is None:
            return {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayJobInfo": {"startTime": MOMENT}}
        info = {"rayJobInfo": {"startTime": MOMENT, "endTime": MOMENT}}
        return {**ended, **info} if code else {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", **info}

    def pod(self, name: str) -> dict[str, Any]:
        state, status = {"waiting": {"reason": "ContainerCreating"}}, {"phase": "Pending"}
        if self.play == "run" and name in self.processes:
            code = self.processes[name].poll()
            ended = {"exitCode": code, "startedAt": MOMENT, "finishedAt": MOMENT, "reason": "Error"}
            state = {"running": {"startedAt": MOMENT}} if code is None else {"terminated": ended}
            status = {"phase": "Running" if code is None else "Succeeded"}
        elif self.play == "oom":
            state = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": MOMENT, "finishedAt": MOMENT}}
        elif self.play == "evict":
            status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
        elif self.play == "image":
            state = WAITING["image"]
        container = {"name": "job", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        return {"metadata": {"name": f"{name}-abcde"}, "status": {**status, "containerStatuses": [container]}}

    def log(self, pod: str) -> str:
        process = self.processes.get(pod.removesuffix("-abcde"))
        return process.stdout.read() if process and process.stdout else ""


def validate(manifest: dict[str, Any]) -> None:
    """Refuse what the API would refuse; a RayJob's pods are checked as pods are, its own fields by name."""
    version = kubernetes_validate.latest_version()
    if manifest["kind"] != "RayJob":
        kubernetes_validate.validate(manifest, version, strict=True)
        return
    assert manifest["apiVersion"] == "ray.io/v1" and len(manifest["metadata"]["name"]) <= 47
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert set(spec) <= RAY_JOB and set(cluster) <= RAY_CLUSTER
    assert "replicas" not in cluster["headGroupSpec"]
    for group in groups:
        assert set(group) <= RAY_GROUP
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **group["template"]["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": group["template"]["spec"]}, version, strict=True)


def condition(kind: str, reason: str = "") -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": reason, "message": "told by the cluster"}


class Handler(BaseHTTPRequestHandler):
    cluster: ClassVar[Cluster]

    def do_GET(self) -> None:
        name, selector = self.place()
        if self.kind == "pods" and name and self.path.split("?")[0].endswith("/log"):
            self.answer(200, self.cluster.log(name))
        elif self.kind == "pods":
            job = selector.get("job-name") or selector.get("ray.io/cluster", "")
            items = [self.cluster.pod(job)] if job in self.cluster.jobs else []
            self.answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})
        elif name is None:
            wanted = [
                key for key, job in self.cluster.jobs.items() if selector.items() <= job["metadata"]["labels"].items()
            ]
            items = [self.cluster.job(key) for key in wanted]
            self.answer(200, {"kind": "JobList", "apiVersion": "batch/v1", "items": items})
        elif name in self.cluster.jobs:
            self.answer(200, self.cluster.job(name))
        else:
            self.answer(404, {"kind": "Status", "message": f'jobs.batch "{name}" not found', "code": 404})

    def do_POST(self) -> None:
        self.place()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.answer(201, self.cluster.create(body) if self.kind.endswith("jobs") else body)
        except (AssertionError, kubernetes_validate.ValidationError) as error:
            self.answer(422, {"kind": "Status", "message": str(error), "code": 422})

    def do_DELETE(self) -> None:
        name, _ = self.place()
        assert name is not None
        self.cluster.deleted.append(name)
        self.cluster.jobs.pop(name, None)
        self.answer(200, {"kind": "Status", "status": "Success"})

    def place(self) -> tuple[str | None, dict[str, str]]:
        url = urlparse(self.path)
        found = PATH.search(url.path)
        assert found is not None, self.path
        self.kind = found[2]
        pairs = parse_qs(url.query).get("labelSelector", [""])[0].split(",")
        return found[3], dict(pair.split("=", 1) for pair in pairs if pair)

    def answer(self, code: int, body: Any) -> None:
        if self.cluster.down:
            code, body = 503, {"kind": "Status", "message": "etcd leader changed", "code": 503}
        text = body if isinstance(body, str) else json.dumps(body)
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        pass


def serve(cluster: Cluster) -> ThreadingHTTPServer:
    """Start the server on a free loopback port."""
    handler = type("Bound", (Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
