"""No value reaches a shell unquoted: what every launcher renders is run by a real `sh` and looked at from inside."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from resources.launchers.base import Request, job_environment
from resources.launchers.kuberay import KubeRayLauncher
from resources.launchers.kubernetes import KubernetesLauncher
from resources.launchers.local import LocalLauncher
from resources.launchers.ray import RayLauncher
from resources.launchers.slurm import SlurmLauncher
from resources.launchers.spec import JobSpec
from rluf_assets.errors import ConfigError

NASTY = [
    "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "\n touch pwned\n", "&& touch pwned",
    "|| touch pwned", "> pwned", "${HOME}", "$(HOME)", "$$", "-n", "--help", "a'b\"c", "%j", "~", "*", "#", "!", "a b", "",
]  # fmt: skip
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
HOSTILE = st.one_of(st.sampled_from(NASTY), ANY, st.tuples(ANY, st.sampled_from(NASTY)).map("".join))
FOLDER = HOSTILE.filter(lambda text: "/" not in text and text not in ("", ".", "..") and len(text.encode()) < 120)
# Stands for Python on a node: writes down the arguments and the variable it was given.
RECORDER = '#!/bin/sh\nprintf "%s\\0" "$@" >"$RECORD/arguments"\nprintf "%s" "$PLAIN" >"$RECORD/plain"\n'
SRUN = '#!/bin/sh\nwhile case "$1" in --*) true;; *) false;; esac; do shift; done\nexec "$@"\n'


class Node:
    """A folder with the tools a rendered script calls, and a shell to run it in."""

    def __init__(self, root: Path) -> None:
        self.root, self.python = root, str(root / "python of the node")
        for name, text in {"python of the node": RECORDER, "srun": SRUN}.items():
            (root / name).write_text(text)
            (root / name).chmod(0o700)

    def run(self, command: list[str]) -> list[str]:
        """Run it; the arguments that Python got. Fails if anything in it was taken for a command."""
        environment = {
            "PATH": f"{self.root}:/usr/bin:/bin", "RECORD": str(self.root), "HOME": "/home/x", "SLURM_NODEID": "1",
            "SLURM_JOB_ID": "7", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "JOB_COMPLETION_INDEX": "1",
        }  # fmt: skip
        done = subprocess.run(command, env=environment, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not list(self.root.rglob("pwned")), "a value was run as a command"
        return (self.root / "arguments").read_bytes().decode().split("\0")[:-1]

    @property
    def plain(self) -> str:
        return (self.root / "plain").read_bytes().decode()


def job(root: Path, name: str, folder: str, plain: str, nodes: int) -> JobSpec:
    spec = JobSpec.model_validate(
        {
            "name": name, "entrypoint": "rluf_assets.jobs.adopt_tables", "version": "1", "seed": 0,
            "output_uri": str(root / folder), "env": {"PLAIN": plain}, "config": {"anything": name},
            "resources": {"nodes": nodes, "gpus_per_node": 2 if nodes > 1 else 0},
        }
    )  # fmt: skip
    Request((spec,)).prepare()
    return spec


def check_arguments(arguments: list[str], spec: JobSpec) -> None:
    wanted = ["rluf_assets.jobs.adopt_tables", str(Path(spec.output_uri) / "logs" / "spec.json")]
    assert arguments[-2:] == wanted
    if spec.resources.nodes > 1:
        assert arguments[:2] == ["-m", "accelerate.commands.launch"]
        assert arguments[arguments.index("--num_processes") + 1] == "4"
        assert arguments[arguments.index("--machine_rank") + 1] == "1"


@settings(max_examples=25, deadline=None)
@given(name=HOSTILE, folder=FOLDER, plain=HOSTILE, option=HOSTILE, nodes=st.sampled_from([1, 2]))
def test_slurm(name: str, folder: str, plain: str, option: str, nodes: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        node = Node(Path(place))
        spec = job(node.root, name, folder, plain, nodes)
        launcher = SlurmLauncher(python=node.python, partition=option, accelerate_config="ddp")
        if "\\" in folder or any(ord(letter) < 32 for letter in folder):
            with pytest.raises(ConfigError, match="Slurm takes no path"):
                launcher.render(spec)
            return
        words = shlex.split(launcher.render(spec))
        assert words[:2] == ["sbatch", "--parsable"]
        assert f"--partition={option}" in words
        assert f"--output={Request((spec,)).log}".replace("%", "%%") in words
        check_arguments(node.run(["sh", "-c", words[words.index("--wrap") + 1]]), spec)
        assert node.plain == plain


@settings(max_examples=25, deadline=None)
@given(name=HOSTILE, folder=FOLDER, plain=HOSTILE, nodes=st.sampled_from([1, 2]))
def test_ray_kuberay_and_local(name: str, folder: str, plain: str, nodes: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        node = Node(Path(place))
        spec = job(node.root, name, folder, plain, nodes)
        rendered = shlex.split(RayLauncher(python=node.python).render(spec))
        kuberay = KubeRayLauncher(
            python=node.python, image="i", volume_claim="lake", mount_path=place, ray_version="2.60.0"
        )
        [ray_job] = json.loads(kuberay.render(spec))["items"]
        for command in (rendered[rendered.index("--") + 1 :], ["sh", "-c", ray_job["spec"]["entrypoint"]]):
            check_entry_point(node.run(command), spec)
            assert node.plain == plain
        words = shlex.split(LocalLauncher(python=node.python).render(spec))
        assert words[0] == node.python and words[-1] == str(Path(spec.output_uri) / "logs" / "spec.json")


def check_entry_point(arguments: list[str], spec: JobSpec) -> None:
    """The job itself on one node, `ray_nodes` with the launch and the job on several."""
    if spec.resources.nodes > 1:
        assert arguments[:3] == ["-m", "resources.launchers.ray_nodes", "2"]
        assert arguments[4:8] == [str(Request((spec,)).log), arguments[5], "-m", "accelerate.commands.launch"]
        assert arguments[-4:-2] == ["--", "--module"]
    assert arguments[-2:] == ["rluf_assets.jobs.adopt_tables", str(Path(spec.output_uri) / "logs" / "spec.json")]


@settings(max_examples=25, deadline=None)
@given(name=HOSTILE, folder=FOLDER, plain=HOSTILE, nodes=st.sampled_from([1, 2]))
def test_kubernetes(name: str, folder: str, plain: str, nodes: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        node = Node(Path(place))
        spec = job(node.root, name, folder, plain, nodes)
        launcher = KubernetesLauncher(
            python=node.python, image="registry.example/rluf:1", volume_claim="lake", mount_path=place,
            secrets=["HF_TOKEN"], secret_name="hub",
        )  # fmt: skip
        items = json.loads(launcher.render(spec))["items"]
        for item in items:
            assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])", item["metadata"]["name"])
        container = items[0]["spec"]["template"]["spec"]["containers"][0]
        command = [expanded(word) for word in container["command"]]
        check_arguments(node.run(["env", f"PLAIN={plain}", *command]), spec)
        values = {entry["name"]: entry for entry in container["env"]}
        assert expanded(values["PLAIN"]["value"]) == plain
        assert values["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}


@pytest.mark.parametrize("nodes", [1, 2])
def test_kubernetes_manifests_keep_to_the_published_schema(nodes: int, tmp_path: Path) -> None:
    spec = job(tmp_path, "it's $(x)", "a b", NASTY[0], nodes)
    launcher = KubernetesLauncher(
        python="python", image="i", volume_claim="lake", mount_path=str(tmp_path), node_selector={"gpu": "h100"},
        secrets=["HF_TOKEN"], secret_name="hub",
    )  # fmt: skip
    items = json.loads(launcher.render(spec))["items"]
    assert [item["kind"] for item in items] == ["Job", "Service"][:nodes]
    for item in items:
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    items[0]["spec"]["paralelism"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(items[0], kubernetes_validate.latest_version(), strict=True)


def expanded(text: str) -> str:
    """What Kubernetes makes of a value: `$$` is `$`, `$(NAME)` the variable (which must not be left in it)."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", text)
    return text.replace("$$", "$")


@settings(max_examples=50, deadline=None)
@given(name=ANY)
def test_names_are_ones_that_every_scheduler_takes(name: str) -> None:
    spec = JobSpec.model_validate(
        {"name": name, "entrypoint": "rluf_assets.jobs.ingest", "version": "1", "seed": 0, "output_uri": "/lake/x"}
    )
    assert re.fullmatch(r"rluf-[a-z0-9-]{1,30}-[0-9a-f]{12}", Request((spec,)).name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": {"HF_TOKEN": "x"}}, "looks like a secret"),
        ({"env": {"aws_secret_access_key": "x"}}, "looks like a secret"),
        ({"env": {"A;touch pwned": "x"}}, "expected letters, digits and _"),
        ({"env": {"A": "x\0y"}}, "no NUL"),
        ({"name": "a\0b"}, "NUL character"),
        ({"output_uri": "/a\0b"}, "NUL character"),
    ],
)  # fmt: skip
def test_what_no_command_line_can_carry_is_refused(change: dict[str, Any], message: str) -> None:
    given_ = {"name": "n", "entrypoint": "rluf_assets.jobs.ingest", "version": "1", "seed": 0, "output_uri": "/lake/x"}
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate({**given_, **change})


def test_secrets_are_never_in_what_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret-value")
    spec = job(tmp_path, "n", "out", "x", 1)
    slurm = SlurmLauncher(python="python", secrets=["HF_TOKEN"])
    ray = RayLauncher(python="python", secrets=["HF_TOKEN"])
    for launcher in (slurm, ray):
        assert "s3cret" not in launcher.render(spec)
        assert "HF_TOKEN" in launcher.render(spec)
    assert "HF_TOKEN" not in job_environment(1, spec.env)
