"""Starts one command per node of a Ray cluster and waits for all of them: what `srun` is to Slurm.

`python -m resources.launchers.ray_nodes NODES SHARE LOG LAUNCH... -- JOB...` is the entry point of a Ray job of several
nodes; SHARE is JSON, what a node's part takes: {"CPU": 8, "GPU": 8, "memory": bytes}. Node i runs LAUNCH, its rank and
the first node's address, JOB, in a bundle of its own of a placement group: all nodes are there or none is. The first
command to fail ends the others.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any


def run_on_every_node(nodes: int, share: dict[str, float], log: str, launch: list[str], job: list[str]) -> int:
    """Run the command on `nodes` nodes that each have the share free; returns the first exit status that is not 0."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(log_to_driver=False)
    taken = {name: amount for name, amount in share.items() if amount}
    group = placement_group([taken] * nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())

    def on(node: int, function: Any) -> Any:
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
        needs = {"num_cpus": share["CPU"], "num_gpus": share["GPU"], "memory": share["memory"]}
        remote: Any = ray.remote  # its stubs know no function of any number of arguments
        return remote(**needs, scheduling_strategy=place, max_retries=0)(function)

    address, port = ray.get(on(0, rendezvous).remote())
    place = ["--main_process_ip", address, "--main_process_port", str(port)]
    # The job's own variables alone: PATH, secrets and the like are each node's own.
    variables = {name: os.environ[name] for name in os.environ.get("RLUF_VARIABLES", "").split(",") if name}
    waiting = [
        on(node, run_here).remote([*launch, "--machine_rank", str(node), *place, *job], variables, os.getcwd(), log)
        for node in range(nodes)
    ]
    while waiting:
        done, waiting = ray.wait(waiting)
        if status := ray.get(done[0]):
            return int(status)  # the driver's end takes the other nodes' workers, and they their commands
    return 0


def rendezvous() -> tuple[str, int]:
    """Address of the node this runs on, and a free port there."""
    from ray import util

    node: Any = util
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(node.get_node_ip_address()), int(probe.getsockname()[1])


def run_here(command: list[str], variables: dict[str, str], folder: str, log: str) -> int:
    """Run the command on this node, its output appended to the log, and end it when this worker ends."""
    os.umask(0o077)
    with open(log, "ab") as stream:
        # A worker that Ray kills must not leave its command behind.
        bound = ["setpriv", "--pdeathsig", "TERM", *command]
        environment = {**os.environ, **variables}
        return subprocess.run(bound, env=environment, cwd=folder, stdout=stream, stderr=stream, check=False).returncode


def main() -> None:
    nodes, share, log, *words = sys.argv[1:]
    split = words.index("--")
    raise SystemExit(run_on_every_node(int(nodes), json.loads(share), log, words[:split], words[split + 1 :]))


if __name__ == "__main__":
    main()
