"""RewardTrainer: transformers' Trainer with our losses, our batches and checkpoints that are whole or not there.

Trainer keeps its loop, optimiser, schedule, checkpoints, and its DDP and DeepSpeed hooks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rluf_assets.distributed import TIMEOUT
from rluf_assets.errors import TrainingError
from rluf_assets.progress import Progress
from rluf_assets.rewards.batching import Batch, StepSampler, Unit, collate
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.losses import bce_loss, bradley_terry_loss
from rluf_assets.rewards.memory import give_back
from rluf_assets.rewards.model import RewardNetwork, ScoreReader, with_lora

WHOLE = "whole"


class _EpochLoader(DataLoader[Unit]):
    """A loader that tells its batch sampler the epoch, which Trainer asks loaders for."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class RewardTrainer(Trainer):
    """Trains a reward network on units of examples with per-example targets.

    `targets` holds, per example, label and weight (bce) or margin (bradley_terry), float32 arrays; `args` are those of
    `training_arguments`.
    """

    def __init__(
        self,
        network: RewardNetwork,
        units: Sequence[Unit],
        targets: dict[str, np.ndarray],
        config: RewardConfig,
        args: TrainingArguments,
        *,
        seed: int,
        progress: Progress,
    ) -> None:
        self.config = config
        self.pad_id = int(network.tokenizer.pad_token_id)
        self.targets = {name: torch.from_numpy(values.astype(np.float32)) for name, values in targets.items()}
        ranks, rank = max(args.world_size, 1), args.process_index
        if torch.distributed.is_initialized():
            # Accelerate reports one process under DeepSpeed on a CPU; torch knows better.
            ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        self.ranks = ranks
        self.sampler = StepSampler(
            units,
            batch_tokens=config.batch_tokens,
            micro_tokens=config.micro_batch_tokens,
            rank=rank,
            ranks=ranks,
            seed=seed,
            epochs=config.epochs,
        )
        rounds = self.sampler.rounds
        args.gradient_accumulation_steps = rounds
        steps = config.epochs * len(self.sampler) // rounds
        args.warmup_steps = round(steps * config.warmup_share)
        args.save_steps, args.logging_steps = config.checkpoint_steps, min(config.log_steps, steps)
        model = network.model if config.lora is None else with_lora(network, config.lora)
        self.reader = ScoreReader(network)  # after peft, which copies the head that it hooks into
        super().__init__(model, args, train_dataset=units, callbacks=[_Report(progress)])  # type: ignore[arg-type]
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Unit]:
        """This rank's share, as the sampler deals it: not wrapped by Accelerate, which would shard it again."""
        return _EpochLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            collate_fn=self._collate,
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _collate(self, units: Sequence[Unit]) -> Batch:
        batch = collate(units, self.pad_id)
        examples = batch.pop("examples")
        return batch | {name: values[examples] for name, values in self.targets.items()}

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        """What this step's loss is divided by: its examples' weights, or its pairs, over all ranks and rounds."""
        key = "weights" if self.config.objective == "bce" else "margins"
        if key == "weights":
            total = sum((batch[key].sum() for batch in batch_samples), torch.zeros(()))
        else:
            total = torch.tensor(float(sum(len(batch[key]) for batch in batch_samples)))
        total = total.to(device)
        if self.ranks > 1:
            torch.distributed.all_reduce(total)
        return total.clamp(min=1e-12)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """This rank's part of the step's mean loss, times the ranks because DDP averages gradients over them."""
        logits = self.reader(model, inputs)
        if self.config.objective == "bce":
            loss = bce_loss(logits, inputs["labels"], inputs["weights"])
        else:
            loss = bradley_terry_loss(logits[0::2], logits[1::2], inputs["margins"], self.config.centering)
        return loss / num_items_in_batch * self.ranks

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save, then mark as whole: a checkpoint whose writing was cut short is never resumed from."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with named_writes(folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / WHOLE).touch()


@contextmanager
def named_writes(path: Path) -> Iterator[None]:
    """What fails to be written to `path` (a full disk) becomes a TrainingError that names it."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise TrainingError(
            f"{path}: cannot be written ({error}). Free some disk space and run again: training continues from the "
            "last whole checkpoint."
        ) from error


def resume_point(checkpoints: Path, asked: str) -> str | None:
    """The last whole checkpoint of a run asked for as `asked` says; everything else under `checkpoints` is removed."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    memo = checkpoints / "asked.json"
    folders = {int(folder.name.rpartition("-")[2]): folder for folder in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    same = memo.exists() and memo.read_text() == json.dumps(asked)
    whole = [step for step, folder in folders.items() if same and (folder / WHOLE).exists()]
    for step, folder in folders.items():
        if step not in whole:
            shutil.rmtree(folder)
    memo.write_text(json.dumps(asked))
    return str(folders[max(whole)]) if whole else None


class _Report(TrainerCallback):
    """Progress of every logged step; stops at a loss that is no number."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return
        give_back()
        if not np.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {state.global_step} of {state.max_steps}. "
                "Lower learning_rate, or use dtype: float32."
            )
        if state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps, "training", loss=logs["loss"])


def training_arguments(config: RewardConfig, seed: int, checkpoints: Path) -> TrainingArguments:
    """Trainer's settings. Made after the launch is joined and before the base is loaded, and kept: they tell
    `from_pretrained` of ZeRO-3."""
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=1,  # not used: the sampler makes the batches
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=config.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=config.gradient_checkpointing,
        seed=seed % 2**32,
        save_strategy="steps",
        save_total_limit=2,
        logging_strategy="steps",
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_timeout=int(TIMEOUT.total_seconds()),
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
    )
