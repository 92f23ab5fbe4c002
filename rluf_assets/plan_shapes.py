"""Which model a plan counts for each role, and how large it is: a checkpoint's own folder says it, where it is on this machine.

Read are its config.json and the headers of its safetensors, never a weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from resources.places import data_folder, locate
from resources.profiles import Profile
from resources.profiles.plan import ModelShape
from rluf_assets.errors import ConfigError
from rluf_assets.objectives import REWARDS
from rluf_assets.policy.config import BasePolicyConfig

ASSETS = {objective if objective != "love" else "p_love": asset for objective, asset in REWARDS.items()}
ROLES = tuple(ASSETS)
WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# What families of models call the same thing in config.json.
NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "vocab_size": ("vocab_size",),
}


def placed(profile: Profile, home: Path) -> Profile:
    """The profile with its models' folders as they can be opened; a package's that is not installed stays a name."""
    place = data_folder(profile, home)

    def found(name: str | None) -> str | None:
        try:
            return name and locate(name, place)
        except ConfigError:
            return name

    base_policy = profile.base_policy.model_copy(update={"checkpoint": found(profile.base_policy.checkpoint)})
    rewards = {asset: getattr(profile, asset) for asset in ASSETS.values()}
    bases = {name: config.model_copy(update={"base": found(config.base)}) for name, config in rewards.items()}
    return profile.model_copy(update={"base_policy": base_policy, **bases})


def policy_shape(profile: Profile) -> ModelShape:
    """The policy: its checkpoint's shape; of one elsewhere what the plan says; else the one trained on the logs."""
    checkpoint, told = profile.base_policy.checkpoint, profile.plan.models.get("policy")
    if checkpoint is None:
        return told or trained_shape(profile.base_policy)
    return _shape(checkpoint, "base_policy.checkpoint", told, "policy")


def role_shape(profile: Profile, role: str) -> ModelShape:
    """A reward model's shape: its base's; else what the plan says, or the policy's, from which it starts."""
    told = profile.plan.models.get(role)
    base = getattr(profile, ASSETS[role]).base if role in ASSETS else None
    if base is not None:
        return _shape(base, f"{ASSETS[role]}.base", told, role)
    return told or policy_shape(profile)


def trained_shape(config: BasePolicyConfig) -> ModelShape:
    """The shape of the base policy trained on the logs."""
    return ModelShape(
        hidden_size=config.hidden_size,
        intermediate_size=config.mlp_size,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        tied=True,
    )


def checkpoint_width(folder: str) -> int:
    """Bytes of a weight of the checkpoint as it is loaded; four where its folder, not on this machine, does not say."""
    settings = _settings(folder)
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    parameters, size, _ = _stored(folder)
    return WIDTHS.get(str(dtype)) or (round(size / parameters) if parameters else 4)


def _shape(folder: str, setting: str, told: ModelShape | None, role: str) -> ModelShape:
    """Raises ConfigError where neither the folder nor the plan says a shape."""
    settings = _settings(folder)
    found = {name: int(settings[n]) for name, names in NAMES.items() for n in reversed(names) if settings.get(n)}
    if missing := sorted(NAMES.keys() - found.keys()):
        if told is not None:
            return told
        raise ConfigError(
            f"{setting} {folder}: "
            + (f"its config.json does not say {missing}" if settings else "no config.json there")
            + f"; a plan needs the model's shape. Set plan.models.{role} in rluf.yaml, or plan where the folder is."
        )
    parameters, _, head = _stored(folder)
    heads, hidden = found["heads"], found["hidden_size"]
    shape = ModelShape(
        **found,
        intermediate_size=settings.get("intermediate_size") or settings.get("n_inner") or 4 * hidden,
        kv_heads=settings.get("num_key_value_heads") or heads,
        head_dim=settings.get("head_dim") or max(1, hidden // heads),
        tied=not head if parameters else bool(settings.get("tie_word_embeddings")),
    )
    if not parameters:
        return shape
    # As many parameters as are stored, whatever the family's MLPs or experts are like: they have what the rest leaves.
    beyond = (parameters - shape.parameters) / (3 * shape.layers * hidden)
    return shape.model_copy(update={"intermediate_size": max(1, shape.intermediate_size + round(beyond))})


@cache
def _settings(folder: str) -> Mapping[str, Any]:
    """A folder's config.json, a text model's own part of it over the rest; empty where there is none."""
    try:
        found = json.loads((Path(folder) / "config.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}/config.json: cannot be read ({error}). Restore the folder.") from error
    return {**found, **(found.get("text_config") or {})}


@cache
def _stored(folder: str) -> tuple[int, int, bool]:
    """Parameters in a folder's safetensors, their bytes, and whether a head of its own is among them."""
    parameters = size = 0
    head = False
    for file in sorted(Path(folder).glob("*.safetensors")):
        for name, entry in _header(file).items():
            parameters += math.prod(entry["shape"])
            size += entry["data_offsets"][1] - entry["data_offsets"][0]
            head |= "lm_head." in name
    return parameters, size, head


def _header(file: Path) -> dict[str, Any]:
    """Name -> shape, dtype and place of each tensor. Raises ConfigError where the file is cut or holds something else."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        whole = 0 < length <= file.stat().st_size - 8
        text = stream.read(length) if whole else b""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"{file}: found no header of safetensors, expected one in its first bytes. Restore the file."
        ) from error
    found.pop("__metadata__", None)
    return found
