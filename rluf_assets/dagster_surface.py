"""What of Dagster is used that it does not promise to keep: named here alone, and held by tests/core/test_dagster_surface.py.

A new version of Dagster that moves any of it breaks that test and this module, and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._serdes.config_class import ConfigurableClassData

__all__ = ["CheckRunHealthResult", "ConfigurableClassData", "DefaultRunLauncher", "WorkerStatus", "evaluate_conditions",
           "read_cursor", "write_cursor"]  # fmt: skip


def evaluate_conditions(
    defs: dg.Definitions, instance: dg.DagsterInstance, *, leave_out: Sequence[str], cursor: Any
) -> tuple[dict[str, set[str | None]], Any]:
    """One evaluation of the conditions: asset -> partitions asked for, in the order of the graph, and the memory after it.

    Dagster documents the function for unit tests; its daemon evaluates the same conditions, of a running code server.
    """
    graph = defs.resolve_asset_graph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        selection = dg.AssetSelection.all() - dg.AssetSelection.assets(*leave_out)
        result = dg.evaluate_automation_conditions(defs, instance, asset_selection=selection, cursor=cursor)
    asked = {
        key.to_user_string(): set(found)
        for key in graph.toposorted_asset_keys
        if key in graph.materializable_asset_keys and (found := result.get_requested_partitions(key))
    }
    return asked, result.cursor


def write_cursor(cursor: Any) -> str:
    """The conditions' memory as text."""
    from dagster_shared.serdes import serialize_value

    return str(serialize_value(cursor))


def read_cursor(text: str) -> Any:
    """The conditions' memory from `write_cursor`'s text."""
    from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
    from dagster_shared.serdes import deserialize_value

    return deserialize_value(text, AssetDaemonCursor)
