"""RLUF toolkit: from users' reactions to a release decision. In a notebook: `import rluf_assets as rluf`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rluf_assets.home import Home as Home
    from rluf_assets.home import open_home as open_home

# Name -> the module that has it, loaded on first use: jobs import submodules of this package and need none of it.
_MODULES = {"Home": "home", "open_home": "home"}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"rluf_assets.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
