"""Accelerate's configurations that come with the toolkit, and how a profile names one: `accelerate_config: zero3`.

`ddp` is one copy of the model per process, `zero2` and `zero3` shard gradients and optimiser, and weights as well
(DeepSpeed, extra `deepspeed`). The text is copied into a job's folder, where every node sees it. Never without one:
Accelerate's own guess on a machine without a GPU is one process, whatever --num_processes says.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rluf_assets.errors import ConfigError, nearest

DEFAULT_CONFIG = "ddp"


def packaged_configs() -> list[str]:
    """Names of the configurations here."""
    return sorted(e.name.removesuffix(".yaml") for e in files(__name__).iterdir() if e.name.endswith(".yaml"))


def known_accelerate_config(value: str) -> str:
    """The value, if it names a packaged configuration or a file. Raises ValueError naming the nearest one."""
    if value in packaged_configs() or Path(value).is_file():
        return value
    raise ValueError(f"neither a file nor a packaged Accelerate configuration; {nearest(value, packaged_configs())}")


def read_accelerate_config(value: str) -> str:
    """The configuration's YAML. Raises ConfigError where it is gone."""
    if value in packaged_configs():
        return files(__name__).joinpath(f"{value}.yaml").read_text()
    try:
        return Path(value).read_text()
    except OSError as error:
        raise ConfigError(f"accelerate_config {value}: cannot be read ({error.strerror}).") from error
