"""Resume state of a training run: model and optimiser tensors as one safetensors file, published by rename.

A folder without its last file is never seen: state is written beside its place and renamed into it. Restoring gives the
bits that were saved, so a killed run that resumes ends where an uninterrupted one does.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rluf_assets.errors import DataError


def save_state(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any] | None = None
) -> None:
    """Write parameters and optimiser moments (by parameter name) and JSON `facts` to `path`, whole or not at all."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).detach().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, beside, metadata={"facts": json.dumps(facts or {}, sort_keys=True)})
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    beside.replace(path)


def load_state(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put saved tensors back into `model` and `optimizer`; returns the facts saved with them.

    Raises DataError if the file belongs to another model.
    """
    with safe_open(path, framework="pt", device="cpu") as stream:
        names = set(stream.keys())
        for name, parameter in model.named_parameters():
            if f"model.{name}" not in names:
                raise DataError(f"{path}: no tensor for parameter {name}. Remove the file and start again.")
            with torch.no_grad():
                parameter.copy_(stream.get_tensor(f"model.{name}"))
            state = {
                key: stream.get_tensor(f"optimizer.{key}.{name}")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in names
            }
            if state:
                moved = {key: value if key == "step" else value.to(parameter.device) for key, value in state.items()}
                optimizer.state[parameter] = moved
        return dict(json.loads(stream.metadata()["facts"]))


def newest_state(folder: Path, pattern: str = "*.safetensors") -> Path | None:
    """The last state file of a folder by name (names are zero-padded numbers)."""
    return max(folder.glob(pattern), default=None) if folder.exists() else None
