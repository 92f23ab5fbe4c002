"""`rluf report`: the release's pages anew from what is in the lake, without running the graph."""

from __future__ import annotations

from pathlib import Path

from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Lake
from rluf_assets.workbench import REWARDS, open_lake


def rebuild_pages(home: Path) -> list[Path]:
    """Write the pages of the home's candidates to `reports/`; returns their paths, `index.html` first.

    Whatever has not been made yet (A/B test, audit, backtest, a candidate) is left out, and the decision counts it as
    unknown. Raises ArtifactMissing without a lake or any offline evaluation, DataError without the baseline's.
    """
    from resources.profiles import load_profile
    from rluf_assets.evaluation.decision_log import release_config
    from rluf_assets.evaluation.pages import write_pages
    from rluf_assets.evaluation.release_inputs import ReleaseFolders, make_release

    bench = open_lake(home)
    lake, profile = bench.lake, load_profile(bench.home)
    names = bench.candidates["candidate"].to_list()
    evaluations = _there(lake, "offline_evaluation", names)
    if not evaluations:
        raise ArtifactMissing(
            f"offline_evaluation: nothing published under {lake.root} for {', '.join(names)}. Materialise it for the "
            "baseline and at least one candidate."
        )
    folders = ReleaseFolders(
        evaluations=evaluations,
        exposures=_there(lake, "ab_exposures", names),
        rewards={objective: folder for objective, a in REWARDS.items() if (folder := _folder(lake, a)) is not None},
        audit=_folder(lake, "reward_hacking_audit"),
        readout=_folder(lake, "ab_test_readout"),
        backtest=_folder(lake, "offline_online_backtest"),
        signal_set=_folder(lake, "signal_set"),
        off_policy=_folder(lake, "off_policy_evaluation"),
    )
    config = release_config(profile.release_report, profile.ab_plan, lake, names, {})
    release = make_release(folders, config, seed=profile.seed)
    reports = bench.home / "reports"
    reports.mkdir(exist_ok=True)
    for stale in reports.glob("candidate-*.html"):
        stale.unlink()
    return write_pages(release, config, reports, main="index.html")


def _there(lake: Lake, asset: str, names: list[str]) -> dict[str, Path]:
    """Folder of each candidate's artifact, of those that have one."""
    return {name: folder for name in names if (folder := _folder(lake, asset, name)) is not None}


def _folder(lake: Lake, asset: str, partition: str | None = None) -> Path | None:
    try:
        return Path(lake.current(asset, partition).uri)
    except ArtifactMissing:
        return None
