"""The toolkit's one exception tree.

Every error names the thing, what was found, what was expected and the remedy, and is raised before any GPU-hour is
spent. Each class is also of the fitting standard type, so `except ValueError` keeps working for callers who do not
know this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RlufError(Exception):
    """Root of every error the toolkit raises on purpose."""


class ConfigError(RlufError, ValueError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class DataError(RlufError, ValueError):
    """Input data is structurally unusable (missing column, wrong type, corrupt file, one class only, ...)."""


class ArtifactMissing(RlufError, FileNotFoundError):
    """An artifact that a stage reads is not in the lake (never made, or only half-written)."""


class MissingExtra(RlufError, ImportError):
    """A package of an optional extra is not installed; the message names the extra to install."""


# Package -> the extra that brings it.
EXTRA_OF = {
    "torch": "train", "transformers": "train", "accelerate": "train", "tokenizers": "train", "peft": "train",
    "safetensors": "train", "deepspeed": "deepspeed", "vllm": "vllm",
}  # fmt: skip


def missing_extra(error: ModuleNotFoundError, who: str) -> MissingExtra | None:
    """The error as one that names the extra to install; None for a package that no extra brings."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRA_OF:
        return None
    extra = EXTRA_OF[package]
    return MissingExtra(
        f"{who}: the package {package!r} is not installed. Install the extra {extra!r}: pip install 'rluf[{extra}]'"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of an unknown name: which one may have been meant, else all that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}."


class JobFailed(RlufError, RuntimeError):
    """A job ended without publishing its artifact; the message holds its last log lines."""


class JobRefused(JobFailed):
    """A job ended by an error of this tree: asked again it would end the same way, so it is not retried."""


class TrainingError(RlufError, RuntimeError):
    """Training or optimisation cannot go on (non-finite loss, too many NaN rewards, nothing survives the judges)."""


class RankLost(RlufError, RuntimeError):
    """Another process of the launch ended or fell silent: asked again the job goes on from its last checkpoint."""


class SchedulerDown(RlufError, ConnectionError):
    """A scheduler cannot be reached; what it runs is not affected."""


class StorageError(RlufError, OSError):
    """A folder cannot be written: the disk is full, the lake read-only, a file larger than allowed."""

    def __str__(self) -> str:
        return str(self.args[1] if len(self.args) > 1 else self.args[0])
