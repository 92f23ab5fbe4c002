"""The release's pages: one of the run, and one per candidate with nothing but it and the baseline."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.release import REFERENCE
from rluf_assets.evaluation.release_inputs import Release
from rluf_assets.evaluation.report import ReportData, render_report


def write_pages(release: Release, config: ReleaseConfig, folder: Path, *, main: str = "report.html") -> list[Path]:
    """Write the run's page and `candidate-<name>.html` beside it; returns their paths, the run's first.

    The run's page shows the first `side_by_side` replies, a candidate's page all that were drawn.
    """
    judged = [d.candidate for d in release.data.decisions if d.decision != REFERENCE]
    links = {name: page_name(name) for name in judged}
    whole = replace(release.data, replies=release.data.replies[: config.side_by_side], links=links)
    pages = {main: whole, **{links[name]: only(release.data, name, config) for name in judged}}
    for name, data in pages.items():
        (folder / name).write_text(render_report(data, config), encoding="utf-8")
    return [folder / name for name in pages]


def page_name(candidate: str) -> str:
    """File name of a candidate's page."""
    return f"candidate-{re.sub(r'[^A-Za-z0-9._-]', '_', candidate)}.html"


def only(data: ReportData, candidate: str, config: ReleaseConfig) -> ReportData:
    """What the page of one candidate shows: its own figures and the baseline's."""
    shown = [candidate, config.baseline]

    def kept(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(pl.col("candidate").is_in(shown))

    offline = replace(
        data.offline,
        objectives=kept(data.offline.objectives),
        pareto=kept(data.offline.pareto),
        correlations=data.offline.correlations.filter(
            (pl.col("level") == "completions") & (pl.col("candidate") == candidate)
        ),
    )
    readout = data.readout
    if readout is not None:
        readout = replace(readout, metrics=kept(readout.metrics), checks=kept(readout.checks), days=kept(readout.days))
        readout = None if readout.metrics.is_empty() else readout
    return replace(
        data,
        decisions=[d for d in data.decisions if d.candidate in shown],
        offline=offline,
        tripwires=kept(data.tripwires),
        trust=kept(data.trust),
        phrases=kept(data.phrases),
        farewells=kept(data.farewells),
        replies=[{**p, "replies": [r for r in p["replies"] if r["candidate"] in shown]} for p in data.replies],
        readout=readout,
        simulation={name: known for name, known in data.simulation.items() if name in shown},
        candidate=candidate,
    )
