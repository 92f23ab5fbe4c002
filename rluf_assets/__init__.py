"""RLUF toolkit: from users' reactions to a release decision. In a notebook: `from rluf_assets import open_lake`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rluf_assets.workbench import open_lake

__all__ = ["open_lake"]


def __getattr__(name: str) -> object:
    """`open_lake` on first use: jobs import submodules of this package and need none of it."""
    if name in __all__:
        from rluf_assets import workbench

        return getattr(workbench, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
