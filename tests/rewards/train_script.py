"""A training run in a process of its own: BASE OUT CONFIG_JSON, killed or watched as the environment says.

KILL_AT_STEP: SIGKILL itself when that step is reported. KILL_IN_CHECKPOINT: SIGKILL while the checkpoint of that step
is written, before it is marked whole. SEEN: folder to record the examples this rank was given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

from rluf_assets.rewards import trainer as trainer_module  # noqa: E402
from rluf_assets.rewards.config import RewardConfig  # noqa: E402
from rluf_assets.rewards.training import train_reward  # noqa: E402
from tests.rewards.conftest import labelled_frame, pair_frame  # noqa: E402


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


def watch_examples(folder: Path) -> None:
    collate = trainer_module.collate

    def noting(units, pad_id):  # type: ignore[no-untyped-def]
        batch = collate(units, pad_id)
        rank = os.environ.get("RANK", "0")
        with (folder / f"rank{rank}.txt").open("a") as stream:
            stream.writelines(f"{i}\n" for i in batch["examples"].tolist())
        return batch

    trainer_module.collate = noting


def main() -> None:
    base, out, config = sys.argv[1], Path(sys.argv[2]), RewardConfig.model_validate(json.loads(sys.argv[3]))
    if "KILL_IN_CHECKPOINT" in os.environ:
        watch_checkpoints(int(os.environ["KILL_IN_CHECKPOINT"]))
    if "SEEN" in os.environ:
        watch_examples(Path(os.environ["SEEN"]))
    out.mkdir(exist_ok=True)
    frame = labelled_frame(200) if config.objective == "bce" else pair_frame(120)
    train_reward(base, frame, config, seed=7, out=out, checkpoints=out / "checkpoints", progress=progress)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
