"""Which assets a run is about: names, or Dagster's selection syntax with bare names in it (`+p_love`, `group:signals`)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import replace

import dagster as dg

from rluf_assets.errors import ConfigError, nearest
from rluf_assets.materialise import Unit

WORDS = ("and", "or", "not", "sinks", "roots")
_TOKEN = re.compile(r'\w+:(?:"[^"]*"|[^\s()+]+)|"[^"]*"|[A-Za-z_]\w*')


def selected(defs: dg.Definitions, select: str) -> set[str]:
    """The assets that a selection names; commas mean *or*. Raises ConfigError for one that is not there, naming the nearest."""
    graph = defs.resolve_asset_graph()
    known = {key.to_user_string() for key in graph.materializable_asset_keys}
    text = _TOKEN.sub(lambda found: _as_key(found[0], known), select.replace(",", " or "))
    try:
        warnings.simplefilter("ignore", dg.BetaWarning)  # its own syntax uses what it calls beta
        selection = dg.AssetSelection.from_string(text)
        chosen = {key.to_user_string() for key in selection.resolve(graph)}
    except Exception as error:  # its parser has no error of its own
        raise ConfigError(
            f"selection {select!r}: not understood. Expected names of assets, or Dagster's selection syntax, as in "
            "'+signal_set' (with all that it is made from) or 'group:signals or p_love+'."
        ) from error
    if not chosen & known:
        raise ConfigError(f"selection {select!r}: no asset of this home is in it.")
    return chosen & known


def up_to(name: str) -> str:
    """The selection of an asset and all that it is made from; of several with commas between them."""
    return ", ".join(f"+{one.strip()}" for one in name.split(","))


def only(units: Iterable[Unit], assets: set[str]) -> list[Unit]:
    """The units with these assets alone."""
    kept = (replace(unit, assets=tuple(asset for asset in unit.assets if asset in assets)) for unit in units)
    return [unit for unit in kept if unit.assets]


def _as_key(token: str, known: set[str]) -> str:
    if ":" in token or token.startswith('"') or token in WORDS:
        return token
    if token in known:
        return f'key:"{token}"'
    raise ConfigError(f"asset {token!r}: unknown; {nearest(token, known)}")
