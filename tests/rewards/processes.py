"""Training runs in processes of their own, killed or watched as the environment says.

KILL_AT_STEP: SIGKILL itself when that step is reported. KILL_IN_CHECKPOINT: SIGKILL while the checkpoint of that step
is written, before it is marked whole. KILL_BEFORE: SIGKILL after training, before the `model` or its `calibration` is
saved. SEEN: folder to record the examples this rank was given. HELD: folder to record how much of each weight this rank
holds once the base is loaded. FIT_FROM: so few validation rows of a class are enough to fit a temperature.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import torch

from rluf_assets.rewards import calibration as calibration_module
from rluf_assets.rewards import trainer as trainer_module
from rluf_assets.rewards import training as training_module
from rluf_assets.rewards.config import RewardConfig
from tests.rewards.conftest import labelled_frame, pair_frame


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def progress(step: int, total: int, message: str, **metrics: float) -> None:
    if message == "training" and step >= int(os.environ.get("KILL_AT_STEP", 10**9)):
        die()


def watch_checkpoints(step: int) -> None:
    save = trainer_module.Trainer._save_checkpoint

    def dying(self, *args):  # type: ignore[no-untyped-def]
        save(self, *args)
        if self.state.global_step == step:
            die()

    trainer_module.Trainer._save_checkpoint = dying


def watch_saving(what: str) -> None:
    def dying(*args):  # type: ignore[no-untyped-def]
        die()

    if what == "model":
        training_module.save_network = dying
    else:
        training_module.Calibration.save = dying


def watch_examples(folder: Path) -> None:
    collate = trainer_module.collate

    def noting(units, pad_id):  # type: ignore[no-untyped-def]
        batch = collate(units, pad_id)
        rank = os.environ.get("RANK", "0")
        with (folder / f"rank{rank}.txt").open("a") as stream:
            stream.writelines(f"{i}\n" for i in batch["examples"].tolist())
        return batch

    trainer_module.collate = noting


def watch_loading(folder: Path) -> None:
    load = training_module.load_network

    def measured(*args, **options):  # type: ignore[no-untyped-def]
        network = load(*args, **options)
        held = {
            name: [p.numel(), *((p.ds_tensor.numel(), p.ds_numel) if hasattr(p, "ds_id") else (0, p.numel()))]
            for name, p in network.model.named_parameters()
        }
        path = folder / f"rank{os.environ.get('RANK', '0')}.json"
        if not path.exists():  # the training's own load, not the calibration's
            path.write_text(json.dumps(held))
        return network

    training_module.load_network = measured


def train(base: str, out: Path, config: dict, env: dict[str, str]) -> None:
    """What a child process runs."""
    os.environ |= env
    torch.set_num_threads(1)
    settings = RewardConfig.model_validate(config)
    if "KILL_IN_CHECKPOINT" in os.environ:
        watch_checkpoints(int(os.environ["KILL_IN_CHECKPOINT"]))
    if "KILL_BEFORE" in os.environ:
        watch_saving(os.environ["KILL_BEFORE"])
    if "SEEN" in os.environ:
        watch_examples(Path(os.environ["SEEN"]))
    if "HELD" in os.environ:
        watch_loading(Path(os.environ["HELD"]))
    if "FIT_FROM" in os.environ:
        calibration_module.MIN_VALIDATION_EXAMPLES = int(os.environ["FIT_FROM"])
    out.mkdir(exist_ok=True)
    frame = labelled_frame(200) if settings.objective == "bce" else pair_frame(120)
    training_module.fit_reward(
        base, frame, settings, seed=7, out=out, checkpoints=out / "checkpoints", progress=progress
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(base: Path, out: Path, config: dict, *, processes: int = 1, **env: object) -> list[int]:
    """Exit codes of the processes of one run (negative: killed by that signal); each is a real process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the imports, once for all children
    settings = {name: str(value) for name, value in env.items()}
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    children = []
    for rank in range(processes):
        ranked = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        mine = settings | {name: str(value) for name, value in ranked.items() if processes > 1}
        children.append(context.Process(target=train, args=(str(base), out, config, mine)))
        children[-1].start()
    while any(child.is_alive() for child in children):
        for child in children:
            child.join(0.1)
        if any(child.exitcode for child in children):
            # As a launcher does: when one process dies, the others are stopped.
            for child in children:
                child.kill()
    return [child.exitcode or 0 for child in children]


if __name__ == "__main__":
    import sys

    # Under `accelerate launch`, which sets the rank of each process.
    train(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), {})
