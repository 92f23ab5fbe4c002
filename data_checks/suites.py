"""Run a Great Expectations suite (JSON, editable without Python) on a small metrics frame.

Great Expectations has no Polars engine and takes seconds to import: it is imported here, on use, in an ephemeral
context that writes nothing, draws no progress bars and calls nobody. A suite names each expectation in `meta.name`;
`severity` critical means the contract is broken, warning that a figure is out of its band.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.errors import ConfigError, DataError

CRITICAL = "critical"
_HIDDEN_KWARGS = ("batch_id", "column")
_DAYS_NAMED = 5


@dataclass(frozen=True)
class CheckOutcome:
    """What one expectation found: observed figure (or offending rows) against the expected band."""

    name: str
    passed: bool
    observed: str
    expected: str
    severity: str
    description: str
    outside: tuple[str, ...] = ()  # keys of the rows that fell outside, e.g. days


def suite_path(name: str, folder: Path | None = None) -> Path:
    """The suite's JSON: in `folder` if it is there (a user's own), else the packaged one."""
    own = folder / f"{name}.json" if folder is not None else None
    return own if own is not None and own.exists() else Path(__file__).with_name("suites") / f"{name}.json"


def basis_of(path: Path, signal: str = "") -> str:
    """What decides how checks judge, in twelve characters: the suite's bytes (if there is one), the signal, our own code."""
    digest = hashlib.sha256(signal.encode() if path.exists() else b"")
    for file in [path, *sorted(Path(__file__).parent.glob("*.py"))]:
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()[:12]


def load_suite(path: Path) -> dict[str, Any]:
    """The suite as JSON, with a unique `meta.name` for each expectation. Raises ConfigError naming what is amiss."""
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a suite ({error}); expected JSON. Mend or remove the file."
        ) from error
    entries = suite.get("expectations") if isinstance(suite, dict) else None
    if not entries or not suite.get("name"):
        raise ConfigError(f"{path}: expected keys name and expectations (a non-empty list), found {str(suite)[:80]}.")
    names = [entry.get("meta", {}).get("name") for entry in entries]
    if None in names or len(set(names)) < len(names):
        raise ConfigError(f"{path}: expected a unique meta.name in every expectation, found {names}.")
    return dict(suite)


def run_suite(frame: pl.DataFrame, path: Path, *, key: str | None = None) -> list[CheckOutcome]:
    """Validate the frame (one row per partition) against the suite; outcomes in the suite's order.

    `key` is the column that names a row in what was observed (the day). An expectation that cannot be computed, for
    instance on a column that is not there, has failed and says why. Raises ConfigError for one that does not exist.
    """
    if frame.is_empty():
        raise DataError(f"suite {path.stem}: no metrics row to check, expected at least one. Materialise a partition.")
    suite = load_suite(path)
    outcomes = _validate(frame, suite, path, key)
    return [_outcome(frame, entry, result, key) for entry, result in zip(suite["expectations"], outcomes, strict=True)]


def _validate(frame: pl.DataFrame, suite: dict[str, Any], path: Path, key: str | None) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = quiet_context()
        import great_expectations as gx

        expectations = gx.ExpectationSuite(name=suite["name"], expectations=suite["expectations"])
        # GX logs an expectation that it does not know, and drops it; we do not.
        if len(expectations.expectations) < len(suite["expectations"]):
            known = {one.meta["name"] for one in expectations.expectations if one.meta}
            lost = [e["meta"]["name"] for e in suite["expectations"] if e["meta"]["name"] not in known]
            raise ConfigError(f"{path}: Great Expectations {gx.__version__} cannot build {lost}. Mend type and kwargs.")
        source = context.data_sources.add_pandas("metrics")
        batch = source.add_dataframe_asset(suite["name"]).add_batch_definition_whole_dataframe("all")
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": [key] if key else []}
        validated = batch.get_batch({"dataframe": as_pandas(frame)}).validate(expectations, result_format=form)
    configured = [(one.expectation_config, one) for one in validated.results]
    by_name = {config.meta["name"]: one for config, one in configured if config is not None and config.meta}
    return [by_name[entry["meta"]["name"]] for entry in suite["expectations"]]


def quiet_context() -> Any:
    """An ephemeral context that draws no progress bars and calls nobody."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def as_pandas(frame: pl.DataFrame) -> Any:
    """The frame as Great Expectations takes it; times and dates become text."""
    import pandas as pd

    return pd.DataFrame({name: _plain(frame[name]) for name in frame.columns})


def _plain(column: pl.Series) -> list[Any]:
    return column.cast(pl.String).to_list() if column.dtype.is_temporal() else column.to_list()


def _outcome(frame: pl.DataFrame, entry: dict[str, Any], result: Any, key: str | None) -> CheckOutcome:
    kwargs, meta = entry.get("kwargs", {}), entry["meta"]
    band = ", ".join(f"{name}={value}" for name, value in kwargs.items() if name not in _HIDDEN_KWARGS)
    return CheckOutcome(
        name=meta["name"],
        passed=bool(result.success),
        observed=_observed(frame, result, kwargs.get("column"), key),
        expected=f"{entry['type']}({kwargs.get('column', '')}: {band})",
        severity=entry.get("severity", CRITICAL),
        description=meta.get("description", ""),
        outside=tuple(str(row[key]) for row in (result.result or {}).get("unexpected_index_list") or [] if key),
    )


def _observed(frame: pl.DataFrame, result: Any, column: str | None, key: str | None) -> str:
    found = result.result or {}
    if "observed_value" in found:
        return str(found["observed_value"])
    if "unexpected_count" not in found:
        reasons = [e["exception_message"] for e in _exceptions(result.exception_info) if e.get("exception_message")]
        return f"could not be computed: {reasons[0] if reasons else result.exception_info}"
    rows = found.get("unexpected_index_list") or []
    named = [f"{row.get(key)}: {row.get(column)}" for row in rows] if key else list(map(str, found["unexpected_list"]))
    more = f" and {len(named) - _DAYS_NAMED} more" if len(named) > _DAYS_NAMED else ""
    whole = f"{found['unexpected_count']} of {found['element_count']} rows outside"
    if named or column not in frame.columns:
        return f"{whole} ({', '.join(named[:_DAYS_NAMED])}{more})"
    return f"{whole} (from {frame[column].min()!r} to {frame[column].max()!r})"


def _exceptions(info: dict[str, Any]) -> list[dict[str, Any]]:
    return [info] if "exception_message" in info else [one for one in info.values() if isinstance(one, dict)]
