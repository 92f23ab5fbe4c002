"""How far a stage is, in one line that a person reads: what a stage function called in a notebook or terminal says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

# done, total, message, and figures by name.
Progress = Callable[..., None]


def silent(done: int, total: int, message: str = "", **figures: float) -> None:
    """Say nothing."""


def printed(what: str, *, every_s: float = 2.0) -> Progress:
    """Print `what`, how far it is, its figures and when it should end to standard error, at most every few seconds."""
    began, last = time.monotonic(), -every_s

    def show(done: int, total: int, message: str = "", **figures: float) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < every_s:
            return
        last = now
        left = f", {duration((now - began) * (total - done) / done)} left" if 0 < done < total else ""
        shown = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
        print(f"{what} {done}/{total}{left} {message} {shown}".rstrip(), file=sys.stderr, flush=True)

    return show


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
