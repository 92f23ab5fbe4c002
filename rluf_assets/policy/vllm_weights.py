"""The policy's weights handed to a vLLM that lives in this process, in memory: a backend of vLLM's own weight transfer.

vLLM's backends for other processes (nccl, ipc) have a trainer and a worker that meet on a network or a GPU; ours are one
process, so what is handed over is the tensors themselves. vLLM's own session (start, update, finish) does the rest: each
worker takes its part of every weight in its own dtype and lays it out as its kernels want it. Needs vLLM installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

BACKEND = "rluf_same_process"
Weights = Iterable[tuple[str, torch.Tensor]]


@dataclass
class Nothing(WeightTransferInitInfo):
    """One process has nobody to meet."""


@dataclass
class Handed(WeightTransferUpdateInfo):
    """Some of the policy's weights, whole, by their names in a checkpoint."""

    weights: list[tuple[str, torch.Tensor]] = field(default_factory=list)


class SameProcess(WeightTransferEngine[Nothing, Handed]):
    """The worker's side: takes tensors of this process."""

    init_info_cls = Nothing
    update_info_cls = Handed

    def init_transfer_engine(self, init_info: Nothing) -> None:
        return None

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Handed) -> None:
        self.model.load_weights(update_info.weights)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        pack_tied_head(self.model)

    def shutdown(self) -> None:
        return None


def register() -> None:
    """Make the backend known to vLLM, once."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, SameProcess)


def pack_tied_head(model: Any) -> None:
    """Pack a tied output layer's weights again after a reload.

    vLLM 0.32 on a CPU packs them for its matrix product and leaves that copy as it was when the layer is tied to the
    embeddings.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and getattr(model.config, "tie_word_embeddings", False):
        head.quant_method.process_weights_after_loading(head)


def hand_over(llm: Any, weights: Weights) -> str:
    """Give every weight to all workers of `llm` that are in this process; returns the version of what was given.

    One weight is whole at a time, so a sharded policy never is. Ranks that share a copy call this in step.
    """
    version = hashlib.sha256()
    llm.start_weight_update()
    for name, values in weights:
        version.update(f"{name} {tuple(values.shape)} ".encode() + _sampled_bits(values))
        llm.update_weights({"update_info": {"weights": [(name, values)]}})
    llm.finish_weight_update()
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not drop the prefixes of the policy before")
    return version.hexdigest()


def _sampled_bits(values: torch.Tensor, count: int = 1024) -> bytes:
    """The float32 bits of evenly spaced elements: a step of the optimiser moves nearly all, and none need be added up."""
    flat = values.detach().reshape(-1)
    step = max(1, flat.numel() // count)
    return flat[::step][:count].float().cpu().numpy().tobytes()


def stored_names(weights: Weights, tied: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that a checkpoint holds: a tied output layer stands there once, as the embeddings."""
    for name, values in weights:
        if not (tied and name == "lm_head.weight"):
            yield name, values
