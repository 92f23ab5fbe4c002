"""KubeRayLauncher: a RayJob (ray.io/v1) per request, which KubeRay's operator turns into a Ray cluster for this job alone.

The cluster has one pod per node of the job, on the same volume and under the same restrictions as a Kubernetes job's pod;
the operator submits the entry point over HTTP, and removes the cluster when the job has ended. A Ray cluster that
KubeRay keeps running takes jobs through `kind: ray` instead. Guide: docs/ray.md.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from resources.launchers.base import Request
from resources.launchers.cluster import Sighting
from resources.launchers.kubernetes import LABEL, KubernetesLauncher, stuck
from resources.launchers.ray import entrypoint_of, exit_reason
from rluf_assets.errors import JobFailed

PLACE = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
OVER = ("Complete", "Failed")
DASHBOARD = [{"containerPort": 6379, "name": "gcs"}, {"containerPort": 8265, "name": "dashboard"}]


class KubeRayLauncher(KubernetesLauncher):
    """Runs jobs on a Kubernetes cluster with KubeRay's operator (1.3 or newer); `ray_version` is the image's."""

    scheduler: ClassVar[str] = "KubeRay"

    ray_version: str = Field(description="version of Ray in the image")
    start_s: int = Field(1800, ge=1, description="seconds a Ray cluster may take to start, on top of the time limit")

    def manifests(self, request: Request, environment: Mapping[str, str], suffix: str = "") -> list[dict[str, Any]]:
        """The RayJob, named by the request's key alone (KubeRay takes 47 characters). Secrets are the pods', by reference."""
        self._check_folder(request)
        needs = request.spec.resources
        labels = {LABEL: request.key, "app.kubernetes.io/name": "rluf"}
        # An entry point of several nodes takes no CPU itself: its parts, one per node, take them all.
        alone = needs.nodes == 1
        spec: dict[str, Any] = {
            "entrypoint": entrypoint_of(request, self.python, self.secrets, environment),
            "entrypointNumCpus": needs.cpus if alone else 0,
            "entrypointNumGpus": needs.gpus_per_node if alone else 0,
            "submissionMode": "HTTPMode",
            "backoffLimit": 0,
            "activeDeadlineSeconds": request.time_limit_s + self.start_s,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "rayClusterSpec": {
                "rayVersion": self.ray_version,
                "headGroupSpec": {"rayStartParams": {}, "template": self._ray_pod(request, labels, DASHBOARD)},
                "workerGroupSpecs": [self._workers(request, labels)] if needs.nodes > 1 else [],
            },
        }
        metadata = {"name": f"rluf-{request.key}{suffix}", "namespace": self.namespace, "labels": labels}
        return [{"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}]

    def _workers(self, request: Request, labels: Mapping[str, str]) -> dict[str, Any]:
        others = request.spec.resources.nodes - 1
        return {
            "groupName": "others", "replicas": others, "minReplicas": others, "maxReplicas": others,
            "rayStartParams": {}, "template": self._ray_pod(request, labels, []),
        }  # fmt: skip

    def _ray_pod(self, request: Request, labels: Mapping[str, str], ports: list[dict[str, Any]]) -> dict[str, Any]:
        """A pod whose command is Ray's, which the operator fills in."""
        pod = self._pod(request, {}, request.name)
        for name in ("restartPolicy", "subdomain"):
            pod.pop(name, None)
        container = pod["containers"][0]
        del container["command"]
        container |= {"name": "ray", **({"ports": ports} if ports else {})}
        return {"metadata": {"labels": dict(labels)}, "spec": pod}

    def _submit(self, request: Request, environment: Mapping[str, str]) -> str:
        [job] = self.manifests(request, environment, suffix=f"-{secrets.token_hex(2)}")
        made = self._ask(lambda: self._custom().create_namespaced_custom_object(**self._place(), body=job))
        if made is None:
            raise JobFailed(
                f"{request.spec.name}: Kubernetes knows no RayJob (ray.io/v1) in namespace {self.namespace!r}. Install "
                "KubeRay's operator, make the namespace, or choose another launcher."
            )
        return str(made["metadata"]["name"])

    def _look(self, job_id: str, request: Request) -> Sighting:
        job = self._ask(lambda: self._custom().get_namespaced_custom_object(**self._place(), name=job_id))
        if job is None:
            return Sighting("failed", "is not known to KubeRay any more")
        status = job.get("status") or {}
        ran = status.get("rayJobInfo") or {}
        started, ended = _time(ran.get("startTime")), _time(ran.get("endTime") or status.get("endTime"))
        if status.get("jobDeploymentStatus") in OVER:
            if status.get("jobStatus") == "SUCCEEDED":
                return Sighting("done", "", started, ended)
            return Sighting("failed", _reason(status, request), started, ended)
        if status.get("jobStatus") == "RUNNING":
            return Sighting("running", "", started)
        cluster = status.get("rayClusterName")
        if cluster and (why := stuck(self._pods(f"ray.io/cluster={cluster}"))) is not None:
            self._kill(job_id)
            return Sighting("failed", f"cannot start: {why}")
        return Sighting("waiting", f"({status['jobDeploymentStatus']})" if "jobDeploymentStatus" in status else "")

    def _find(self, request: Request) -> str | None:
        selector = f"{LABEL}={request.key}"
        found = self._ask(
            lambda: self._custom().list_namespaced_custom_object(**self._place(), label_selector=selector)
        )
        for job in (found or {}).get("items", []):
            if (job.get("status") or {}).get("jobDeploymentStatus") not in OVER:
                return str(job["metadata"]["name"])
        return None

    def _kill(self, job_id: str) -> None:
        self._ask(lambda: self._custom().delete_namespaced_custom_object(**self._place(), name=job_id))

    def _place(self) -> dict[str, str]:
        return {**PLACE, "namespace": self.namespace}

    def _custom(self) -> Any:
        from kubernetes.client import CustomObjectsApi

        return CustomObjectsApi(self._client())


def _reason(status: Mapping[str, Any], request: Request) -> str:
    if status.get("reason") == "DeadlineExceeded":
        return f"ran over its time limit (time_limit_s {request.time_limit_s}; give it more)"
    told = exit_reason(request)
    if told is not None:
        return told
    return f"ended as {status.get('reason') or status.get('jobStatus')}: {status.get('message') or 'no message'}"


def _time(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
