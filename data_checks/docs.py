"""Data Docs: Great Expectations' own pages over the metrics of all days, and over a capped, seeded sample of rows."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import polars as pl

from data_checks.checks import day_metrics
from data_checks.metrics import signal_set_metrics
from data_checks.suites import as_pandas, load_suite, quiet_context, suite_path
from rluf_assets.errors import ArtifactMissing
from rluf_assets.feedback.sampling import stable_uniform
from rluf_assets.lake import Lake

SAMPLE_ROWS = 5_000


def build_data_docs(lake: Lake, home: Path, seed: int = 0, signal: str = "love") -> Path:
    """Write the pages to `<home>/reports/data-docs` and give the index. Suites in `<home>/suites` come first.

    Raises ArtifactMissing where no day is validated yet.
    """
    days = lake.partitions("validated_replies")
    if not days:
        raise ArtifactMissing(f"{lake.root}: no validated_replies to show. Materialise at least one day.")
    frames = {"validated_replies": day_metrics(lake, days, days, signal), "reply_rows": _sample(lake, days, seed)}
    if lake.partitions("signal_set"):
        frames["signal_set"] = signal_set_metrics(lake.current("signal_set").uri)
    folder = home / "reports" / "data-docs"
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write(frames, home, folder)
    return folder / "index.html"


def _write(frames: dict[str, pl.DataFrame], home: Path, folder: Path) -> None:
    import great_expectations as gx

    context = quiet_context()
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site: Any = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
    context.add_data_docs_site(site_name="rluf", site_config=site)
    source = context.data_sources.add_pandas("lake")
    for name, frame in frames.items():
        wanted = load_suite(suite_path(name, home / "suites"))
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=wanted["expectations"]))
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        validation = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        checkpoint = gx.Checkpoint(name=name, validation_definitions=[context.validation_definitions.add(validation)])
        context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": as_pandas(frame)})
    context.build_data_docs(site_names=["rluf"])


def _sample(lake: Lake, days: list[str], seed: int) -> pl.DataFrame:
    """The rows with the lowest numbers, over all days."""
    paths = [lake.current("validated_replies", day).path("replies.parquet") for day in days]
    rows = pl.scan_parquet(paths, hive_partitioning=False)
    total = rows.select(pl.len()).collect().item()
    share = min(1.0, 1.2 * SAMPLE_ROWS / max(1, total))  # a little more than needed, then cut to size
    drawn = rows.with_columns(u=stable_uniform("message_id", seed)).filter(pl.col("u") < share)
    return drawn.collect(engine="streaming").sort("u", "message_id").head(SAMPLE_ROWS).drop("u")
