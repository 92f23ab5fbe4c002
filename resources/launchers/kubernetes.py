"""KubernetesLauncher: a batch/v1 Job per request, through the official client.

The lake lies on a volume that every pod mounts at one path. A job of several nodes is an Indexed Job whose pods find
the first one by its stable host name, behind a headless Service. Why not dagster-k8s: its Pipes client ends with its
process and does not attach to a job that is still running. Guide: docs/kubernetes.md.
"""

import json
import secrets
import shlex
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from resources.launchers.base import Request, job_command, job_environment, launch_words
from resources.launchers.cluster import ClusterLauncher, Sighting
from resources.launchers.spec import JobSpec
from rluf_assets.errors import ConfigError, JobFailed, MissingExtra, SchedulerDown

LABEL = "rluf/key"
RENDEZVOUS_PORT = 29500
KEPT_S = 86_400  # a finished job stays this long, for people to look at
# A container that waits for one of these never starts.
STUCK = (
    "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError",
    "ErrImageNeverPull",
)  # fmt: skip
BUSY = (429, 500, 502, 503, 504)


class KubernetesLauncher(ClusterLauncher):
    """Runs jobs on a Kubernetes cluster, with the account of the kubeconfig (or of the pod it runs in).

    `secrets` are keys of the Secret `secret_name` in the namespace; pods refer to it, values never pass through here.
    """

    scheduler: ClassVar[str] = "Kubernetes"

    image: str
    volume_claim: str = Field(description="PersistentVolumeClaim that holds the lake, mounted by every node")
    mount_path: str = Field(description="where pods mount it: the lake's path here and there must be the same")
    namespace: str = "default"
    context: str | None = Field(None, description="context of the kubeconfig; None: the current one")
    secret_name: str | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    run_as_user: int = Field(1000, ge=1)

    def render(self, spec: JobSpec) -> str:
        """The manifests as JSON, one List, as `kubectl create -f -` takes them."""
        request = self._request([spec])
        items = self.manifests(request, job_environment(spec.resources.cpus, spec.env))
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1)

    def manifests(self, request: Request, environment: Mapping[str, str], suffix: str = "") -> list[dict[str, Any]]:
        """The Job, and where it has several nodes the headless Service they find each other by."""
        self._check_folder(request)
        needs = request.spec.resources
        name = request.name + suffix
        labels = {LABEL: request.key, "app.kubernetes.io/name": "rluf"}
        job: dict[str, Any] = {
            "backoffLimit": 0,
            "activeDeadlineSeconds": request.time_limit_s,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": labels}, "spec": self._pod(request, environment, name)},
        }
        if needs.nodes > 1:
            job |= {"completions": needs.nodes, "parallelism": needs.nodes, "completionMode": "Indexed"}
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        made: list[dict[str, Any]] = [{"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job}]
        if needs.nodes > 1:
            ports = [{"name": "rendezvous", "port": RENDEZVOUS_PORT}]
            spec = {"clusterIP": "None", "selector": {"job-name": name}, "ports": ports}
            made.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        return made

    def _check_folder(self, request: Request) -> None:
        if not request.spec.output_uri.startswith(self.mount_path.rstrip("/") + "/"):
            raise ConfigError(
                f"{request.spec.name}: its folder {request.spec.output_uri} is not under mount_path {self.mount_path}, "
                "so no pod would see it. Put the home folder on the shared volume."
            )

    def _pod(self, request: Request, environment: Mapping[str, str], name: str) -> dict[str, Any]:
        needs = request.spec.resources
        amounts = {"cpu": str(needs.cpus), "memory": f"{int(needs.memory_gb * 1024)}Mi"}
        if needs.gpus_per_node:
            amounts["nvidia.com/gpu"] = str(needs.gpus_per_node)
        variables: list[dict[str, Any]] = [
            # `$(NAME)` in a value would be expanded by Kubernetes; `$$` is its own quoting.
            {"name": variable, "value": value.replace("$", "$$")}
            for variable, value in sorted(environment.items())
        ]
        for secret in self.secrets:
            reference = {"name": self.secret_name, "key": secret}
            variables.append({"name": secret, "valueFrom": {"secretKeyRef": reference}})
        if self.secrets and not self.secret_name:
            raise ConfigError(f"secrets {self.secrets}: name the Secret that holds them in `secret_name`.")
        container = {
            "name": "job",
            "image": self.image,
            "command": [word.replace("$", "$$") for word in self._command(request, name)],
            "env": variables,
            "resources": {"requests": amounts, "limits": amounts},
            "volumeMounts": [{"name": "lake", "mountPath": self.mount_path}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        return {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "lake", "persistentVolumeClaim": {"claimName": self.volume_claim}}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": self.run_as_user, "fsGroup": self.run_as_user},
            "automountServiceAccountToken": False,
            **({"nodeSelector": self.node_selector} if self.node_selector else {}),
            **({"subdomain": name} if needs.nodes > 1 else {}),
        }

    def _command(self, request: Request, name: str) -> list[str]:
        if request.spec.resources.nodes == 1:
            return job_command(self.python, request)
        launch, job = launch_words(self.python, request)
        place = f'--machine_rank "$JOB_COMPLETION_INDEX" --main_process_ip {name}-0.{name} '
        place += f"--main_process_port {RENDEZVOUS_PORT}"
        return ["sh", "-c", f"umask 077; exec {shlex.join(launch)} {place} {shlex.join(job)}"]

    def _client(self) -> Any:
        try:
            from kubernetes import client, config
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "launcher kubernetes: the package 'kubernetes' is not installed: pip install 'rluf[k8s]'"
            ) from error
        try:
            return config.new_client_from_config(context=self.context)
        except config.ConfigException as error:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                raise ConfigError(f"Kubernetes: no kubeconfig and not in a pod ({error}). Set KUBECONFIG.") from error
            return client.ApiClient()

    def _api(self) -> Any:
        api = self._client()
        from kubernetes import client

        return client.BatchV1Api(api), client.CoreV1Api(api)

    def _pods(self, selector: str) -> list[Any]:
        _, core = self._api()
        found = self._ask(lambda: core.list_namespaced_pod(self.namespace, label_selector=selector))
        return list(found.items) if found else []

    def _ask(self, ask: Any) -> Any:
        """An answer of the API, or None where the thing asked for is not there."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return ask()
        except HTTPError as error:
            raise SchedulerDown(f"the API server does not answer: {str(error)[:300]}") from error
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status in BUSY:
                raise SchedulerDown(f"the API server says {error.status} {error.reason}") from error
            raise JobFailed(f"Kubernetes refused: {error.status} {_message(error)}") from error

    def _submit(self, request: Request, environment: Mapping[str, str]) -> str:
        batch, core = self._api()
        job, *services = self.manifests(request, environment, suffix=f"-{secrets.token_hex(4)}")
        made = self._ask(lambda: batch.create_namespaced_job(self.namespace, job))
        if made is None:
            raise JobFailed(f"{request.spec.name}: Kubernetes has no namespace {self.namespace!r}.")
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": made.metadata.name, "uid": made.metadata.uid}
        for service in services:
            service["metadata"]["ownerReferences"] = [owner]  # it goes with its job
            self._ask(lambda service=service: core.create_namespaced_service(self.namespace, service))
        return str(made.metadata.name)

    def _look(self, job_id: str, request: Request) -> Sighting:
        batch, core = self._api()
        job = self._ask(lambda: batch.read_namespaced_job(job_id, self.namespace))
        if job is None:
            return Sighting("failed", "is not known to Kubernetes any more")
        pods = self._pods(f"job-name={job_id}")
        conditions = {item.type: item for item in job.status.conditions or [] if item.status == "True"}
        started, ended = _times(pods)
        if "Complete" in conditions or "Failed" in conditions:
            self._keep_log(core, pods, request)
        if "Complete" in conditions:
            return Sighting("done", "", started, ended)
        if "Failed" in conditions:
            return Sighting("failed", _reason(conditions["Failed"], pods, request), started, ended, _exit_status(pods))
        if (why := stuck(pods)) is not None:
            self._kill(job_id)
            return Sighting("failed", f"cannot start: {why}", started, ended)
        running = any(pod.status.phase == "Running" for pod in pods)
        return Sighting("running" if running else "waiting", "", started)

    def _keep_log(self, core: Any, pods: list[Any], request: Request) -> None:
        """What the pods printed, into the job's log: pods are deleted some day, the lake stays."""
        parts = []
        for pod in pods:
            try:
                name = pod.metadata.name
                # Undecoded: client 36 would hand a text body over as the repr of its bytes.
                read = partial(core.read_namespaced_pod_log, name, self.namespace, _preload_content=False)
                answer = self._ask(read)
                parts.append(answer.data.decode(errors="replace") if answer is not None else "")
            except (JobFailed, SchedulerDown) as error:
                parts.append(f"(no log of pod {name}: {error})\n")
        if not request.log.exists() or not request.log.read_text().endswith("".join(parts)):
            with request.log.open("a") as stream:
                stream.writelines(parts)

    def _find(self, request: Request) -> str | None:
        batch, _ = self._api()
        jobs = self._ask(lambda: batch.list_namespaced_job(self.namespace, label_selector=f"{LABEL}={request.key}"))
        ended = {"Complete", "Failed"}
        for job in jobs.items if jobs else []:
            if not any(item.type in ended and item.status == "True" for item in job.status.conditions or []):
                return str(job.metadata.name)
        return None

    def _kill(self, job_id: str) -> None:
        batch, _ = self._api()
        self._ask(lambda: batch.delete_namespaced_job(job_id, self.namespace, propagation_policy="Foreground"))


def stuck(pods: list[Any]) -> str | None:
    """Why one of the pods will never start, if so."""
    for pod in pods:
        for status in pod.status.container_statuses or []:
            waiting = status.state.waiting
            if waiting and waiting.reason in STUCK:
                return f"{waiting.reason}: {waiting.message or 'no message'}"
    return None


def _reason(condition: Any, pods: list[Any], request: Request) -> str:
    needs = request.spec.resources
    for pod in pods:
        if pod.status.reason == "Evicted":
            return f"was evicted: {pod.status.message}"
        for status in pod.status.container_statuses or []:
            ended = status.state.terminated
            if ended and ended.reason == "OOMKilled":
                return f"ran out of memory (memory_gb {needs.memory_gb:g}; give it more)"
    if condition.reason == "DeadlineExceeded":
        return f"ran over its time limit (time_limit_s {request.time_limit_s}; give it more)"
    code = _exit_status(pods)
    return f"ended with exit status {code}" if code else f"ended as {condition.reason}: {condition.message}"


def _exit_status(pods: list[Any]) -> int | None:
    """Of the first container that ended with one."""
    for pod in pods:
        for status in pod.status.container_statuses or []:
            if status.state.terminated and status.state.terminated.exit_code:
                return int(status.state.terminated.exit_code)
    return None


def _times(pods: list[Any]) -> tuple[float | None, float | None]:
    """When the first container started and the last one ended."""
    states = [status.state for pod in pods for status in pod.status.container_statuses or []]
    begun = [_unix((state.running or state.terminated).started_at) for state in states
             if (state.running or state.terminated) and (state.running or state.terminated).started_at]  # fmt: skip
    over = [
        _unix(state.terminated.finished_at) for state in states if state.terminated and state.terminated.finished_at
    ]
    return (min(begun) if begun else None, max(over) if over else None)


def _unix(moment: datetime) -> float:
    return moment.timestamp()


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
