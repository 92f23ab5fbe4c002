"""Keeping a training process on a CPU small; import before the first matrix product.

Batches by token budget have ever new shapes. oneDNN would keep a compiled kernel, with its scratch memory, for each of
the last 1,024, and glibc would keep what was freed: hundreds of megabytes for a model of one.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Shapes seldom come back, so a long memory for them saves no time. An operator's own value wins.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


def give_back() -> None:
    """Return freed heap memory to the system (glibc only; elsewhere nothing happens)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
