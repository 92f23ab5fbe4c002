"""What Dagster is told about a job's result, for people to read in the UI: counts and rates (Dagster plots floats over
time), the main table's columns and a few of its rows, what it was made from, its pages, its place and its cost.

Dagster keeps this for ever, so no unredacted text is in it: raw tables are told without rows, other texts are redacted.
"""

import posixpath
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl
from fsspec.core import url_to_fs

from resources.launchers.spec import InputArtifact, JobResources, JobResult
from resources.profiles import PAGES_URL
from rluf_assets.catalogue import TableEntry, catalogue, type_name
from rluf_assets.feedback.redaction import excerpt
from rluf_assets.lake import Artifact

EXAMPLES, EXAMPLE_CHARS = 5, 160


def describe(result: JobResult, pages_url: str = PAGES_URL) -> dict[str, Any]:
    """Metadata of one materialisation. `pages_url` is where the lake's HTML pages are served."""
    artifact, manifest = result.artifact, result.artifact.manifest
    asset = artifact.uri.split("/")[-3]  # <root>/<asset>/<partition>/<fingerprint>
    figures = {k: _cell(v) for k, v in artifact.metrics.items() if isinstance(v, int | float | str | bool)}
    return {
        **page_links(artifact, pages_url),
        **{f"rows: {name}": count for name, count in artifact.rows.items()},
        **figures,
        **_table(artifact, catalogue().get(asset)),
        "made from": _lineage(manifest.get("spec", {}).get("inputs", {})),
        "path": dg.MetadataValue.path(artifact.uri),
        "fingerprint": artifact.fingerprint[:16],
        "reused": result.reused,
        "wall_s": float(manifest["wall_s"]),
        **{name: float(manifest[name]) for name in ("peak_memory_gb", "peak_gpu_memory_gb") if name in manifest},
        **_accounting(result),
    }


def page_links(artifact: Artifact, pages_url: str) -> dict[str, Any]:
    """`page: <name>` -> address of each of the artifact's HTML pages; no browser opens a file:// link of the UI."""
    filesystem, folder = url_to_fs(artifact.uri)
    pages = sorted(posixpath.basename(str(page)) for page in filesystem.glob(posixpath.join(folder, "*.html")))
    return {f"page: {page.removesuffix('.html')}": page_link(artifact, page, pages_url) for page in pages}


def page_link(artifact: Artifact, page: str, pages_url: str) -> dg.UrlMetadataValue:
    """Address of one page of an artifact, as `rluf ui` serves it (resources/pages.py)."""
    place = "/".join([*artifact.uri.split("/")[-3:], page])
    return dg.MetadataValue.url(f"{pages_url.rstrip('/')}/lake/{quote(place)}")


def table_schema(columns: Mapping[str, tuple[str, str | None]]) -> dg.TableSchema:
    """Column name -> (type, meaning), as Dagster's Columns tab shows it."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type=kind, description=meaning) for name, (kind, meaning) in columns.items()]
    )


def _table(artifact: Artifact, entry: TableEntry | None) -> dict[str, Any]:
    """The main table's columns as they are, its row count, and its first rows with long texts cut."""
    if entry is None:
        return {}
    frame = pl.scan_parquet(artifact.path(entry.file), hive_partitioning=False)
    schema = frame.collect_schema()
    columns = table_schema({name: (type_name(dtype), entry.meaning(name)) for name, dtype in schema.items()})
    told = {"dagster/column_schema": columns, "dagster/row_count": int(frame.select(pl.len()).collect().item())}
    if entry.raw:
        return told
    head = frame.head(EXAMPLES).collect().iter_rows(named=True)
    records = [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in head]
    return {**told, "examples": dg.MetadataValue.table(records, schema=columns)}


def _cell(value: Any) -> str | int | float | bool | None:
    if isinstance(value, float):
        return float(f"{value:.6g}")  # all that people read; the manifest has the rest
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list) and value and isinstance(value[0], dict):  # turns of a conversation
        value = " / ".join(" ".join(map(str, turn.values())) for turn in value)
    return excerpt(value, EXAMPLE_CHARS)


def _lineage(inputs: Mapping[str, Any]) -> dg.MetadataValue[Any]:
    """The artifacts it was made from, by content hash; a range of days in one line."""
    named = {name: InputArtifact.model_validate(entry) for name, entry in inputs.items()}
    shown: dict[str, str] = {}
    for name, entry in named.items():
        group = name.split("/")[0]
        members = [other for other in named if other.split("/")[0] == group]
        if len(members) > EXAMPLES:
            shown[group] = f"{len(members)}: {members[0]} .. {members[-1]}"
        else:
            shown[name] = f"{entry.content_hash[:12]}  {entry.uri}"
    return dg.MetadataValue.json(shown)


def _accounting(result: JobResult) -> dict[str, Any]:
    """What the job cost: hours of all submissions where a scheduler counted them, else of the one that published."""
    manifest, history = result.artifact.manifest, result.history
    needs = JobResources.model_validate(manifest["spec"]["resources"])
    seconds = max(float(manifest["wall_s"]), history.run_s if history else 0.0)
    hours = {
        "node_hours": round(seconds * needs.nodes / 3600, 6),
        "gpu_hours": round(seconds * needs.nodes * needs.gpus_per_node / 3600, 6),
    }
    if history is None:
        return hours
    return {
        **hours,
        "scheduler": history.launcher,
        "job_id": history.job_id,
        "queue_s": history.queue_s,
        "retries": history.submissions - 1,
    }
