"""`rluf report`: the release's pages anew from what is in the lake, without running the graph."""

from __future__ import annotations

from pathlib import Path

from rluf_assets.home import open_home


def rebuild_pages(home: Path) -> list[Path]:
    """Write the pages of the home's candidates to `reports/`; returns their paths, `index.html` first.

    Whatever has not been made yet (A/B test, audit, backtest, a candidate) is left out, and the decision counts it as
    unknown. Raises ArtifactMissing without a lake or any offline evaluation, DataError without the baseline's.
    """
    from rluf_assets.evaluation.pages import write_pages
    from rluf_assets.evaluation.release_inputs import make_release

    opened = open_home(home)
    config = opened.release.config
    release = make_release(opened.release.folders, config, seed=opened.settings.seed)
    reports = opened.folder / "reports"
    reports.mkdir(exist_ok=True)
    for stale in reports.glob("candidate-*.html"):
        stale.unlink()
    return write_pages(release, config, reports, main="index.html")
