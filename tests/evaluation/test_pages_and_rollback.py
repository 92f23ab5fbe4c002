"""Pages rebuilt from a lake, whole or half-built; a release taken back, and kept back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from resources.launchers.local import LocalLauncher
from resources.stage import LakeResource, StageRunner
from rluf_assets.assets.release import chosen_candidate, release_work
from rluf_assets.cli import app
from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.pages import page_name
from rluf_assets.evaluation.readout import read_out
from rluf_assets.jobs import release_policy
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Artifact, Lake, Produced, publish, read_json, write_json
from rluf_assets.rebuild import rebuild_pages
from rluf_assets.rollback import roll_back, rolled_back
from tests.evaluation.world import write_release_inputs

ASSETS = {"rewards/love": "p_love", "rewards/safety": "safety_reward"}
CANDIDATES = """candidates:
  untouched: {optimiser: none}
  baseline: {weights: {helpfulness: 0.7, safety: 0.3}}
  moderate: {weights: {helpfulness: 0.7, safety: 0.3, love: 0.1}}
  aggressive: {weights: {helpfulness: 0.7, safety: 0.3, love: 0.3}}
"""


def put(lake: Lake, asset: str, partition: str | None, folder: Path) -> Artifact:
    """Publish a folder's files as the artifact in force."""
    place = Path(lake.folder(asset, partition, "0" * 64))
    shutil.copytree(folder, place)
    artifact = publish(str(place), fingerprint="0" * 64, produced=Produced())
    lake.set_current(asset, partition, artifact)
    return artifact


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake holds everything up to the release report."""
    root = tmp_path_factory.mktemp("made")
    home = root / "home"
    (home / "lake").mkdir(parents=True)
    (home / "rluf.yaml").write_text("profile: tiny\nrelease_report: {resamples: 200}\n")
    (home / "candidates.yaml").write_text(CANDIDATES)
    lake = Lake(str(home / "lake"))
    for name, folder in write_release_inputs(root / "inputs", prompts=120, users=2000).items():
        asset, _, partition = name.partition("/")
        put(lake, ASSETS.get(name, asset), None if name in ASSETS else partition or None, folder)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def test_pages_are_rebuilt_one_per_run_and_one_per_candidate(home: Path) -> None:
    (home / "reports").mkdir()
    (home / "reports" / "candidate-gone.html").write_text("an old one")
    done = CliRunner().invoke(app, ["report", "--home", str(home)], catch_exceptions=False)
    pages = [Path(line) for line in done.stdout.split()]
    assert pages[0].name == "index.html"
    assert {page.name for page in pages[1:]} == {"candidate-moderate.html", "candidate-aggressive.html"}
    assert {page.name for page in (home / "reports").iterdir()} == {page.name for page in pages}
    run, moderate = ((home / "reports" / name).read_text() for name in ("index.html", "candidate-moderate.html"))
    assert 'href="candidate-moderate.html"' in run
    assert "Everything on" not in moderate
    body = moderate.split('<script type="application/json"')[0]
    # The base policy is named where the legend explains it, and as the run's lowest policy in the degenerate control.
    others = re.sub(r"untouched (?:is the\nbase policy|[\d.]+%: )", "", body)
    assert "aggressive" not in others and "untouched" not in others
    assert body.count('class="user"') > 2 * run.split('<script type="application/json"')[0].count('class="user"')
    assert all("NaN" not in page.split('<script type="text/plain"')[0] for page in (run, moderate))
    assert all(len(page) < 5_000_000 for page in (run, moderate))


def test_a_half_built_lake_is_reported_as_far_as_it_goes(home: Path) -> None:
    for asset in ("ab_exposures", "ab_test_readout", "reward_hacking_audit", "offline_online_backtest", "signal_set"):
        shutil.rmtree(home / "lake" / asset)
    shutil.rmtree(home / "lake" / "offline_evaluation" / "aggressive")
    pages = rebuild_pages(home)
    assert [page.name for page in pages] == ["index.html", "candidate-moderate.html"]
    assert "needs an A/B test" in pages[0].read_text()
    shutil.rmtree(home / "lake" / "offline_evaluation" / "baseline")
    with pytest.raises(DataError, match="the baseline 'baseline' among them"):
        rebuild_pages(home)
    shutil.rmtree(home / "lake" / "offline_evaluation")
    with pytest.raises(ArtifactMissing, match="offline_evaluation: nothing published"):
        rebuild_pages(home)
    shutil.rmtree(home / "lake")
    with pytest.raises(ArtifactMissing, match="holds no lake"):
        rebuild_pages(home)


def one_user(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.head(1)


def no_reactions(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(0).alias(c) for c in ("love", "thumbs_up", "thumbs_down", "copy", "regenerate"))


def half_of_the_traffic(frame: pl.DataFrame) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 0
    return frame.with_columns(
        pl.when(first).then(pl.col("replies").sum()).otherwise(pl.col("replies")).alias("replies")
    )


def no_conversations(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(0).alias("conversations"), pl.lit(0).alias("early_endings"))


@pytest.mark.parametrize(
    ("broken", "how"),
    [
        ("moderate", one_user),
        ("baseline", one_user),
        ("moderate", no_reactions),
        ("baseline", half_of_the_traffic),
        ("moderate", no_conversations),
    ],
)
def test_a_broken_experiment_leaves_no_undefined_figure_on_a_page(
    home: Path, broken: str, how: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    exposures = {
        path.parts[-3]: pl.read_parquet(path) for path in (home / "lake" / "ab_exposures").glob("*/*/exposures.parquet")
    }
    readout = read_out({**exposures, broken: how(exposures[broken])}, ReadoutConfig())
    place = home / "lake" / "ab_test_readout" / "_" / ("0" * 16)
    for name, frame in (("readout", readout.metrics), ("checks", readout.checks), ("by_day", readout.days)):
        figures = [column for column in frame.iter_columns() if column.dtype == pl.Float64]
        assert all(column.is_finite().all() for column in figures), "a null is undefined, NaN a mistake"
        frame.write_parquet(place / f"{name}.parquet")
    for page in rebuild_pages(home):
        text = page.read_text().split('<script type="text/plain"')[0]
        assert not re.search(r"\b(?:NaN|nan|None|inf|Infinity)\b", text), page.name
    row = readout.row("moderate", "love_rate")
    assert row is not None
    if how is one_user:
        assert row["verdict"] == "unclear"
    if how is no_reactions:
        assert (row["verdict"], row["lift"]) == ("worse", None), "a fall to nothing is plain, though no ratio is"


def test_file_names_of_candidates_are_harmless() -> None:
    assert page_name("../x y") == "candidate-.._x_y.html"


@pytest.fixture
def stage(tmp_path: Path) -> StageRunner:
    lake = LakeResource(root=str(tmp_path / "home" / "lake"))
    return StageRunner(store=lake, launcher=LocalLauncher(), seed=0)


def release(stage: StageRunner, candidate: str, weights: str) -> Artifact:
    """Put a policy and a report that promotes it into the lake, and release it as the asset does."""
    lake = stage.lake
    for asset, partition in (("crraft_policy", candidate), ("release_report", None)):
        shutil.rmtree(lake.folder(asset, partition, weights.ljust(64, "0")), ignore_errors=True)
    policy = Path(lake.folder("crraft_policy", candidate, weights.ljust(64, "0")))
    policy.mkdir(parents=True)
    (policy / "model.safetensors").write_text(weights)
    config = {"optimiser": "crraft", "weights": {"love": 0.1}, "kl_max": 15.0, "completions_per_prompt": 4}
    spec = {"inputs": {"p_love": {"content_hash": "abc"}}, "config": config}
    artifact = publish(str(policy), fingerprint=weights.ljust(64, "0"), produced=Produced(), spec=spec)
    lake.set_current("crraft_policy", candidate, artifact)
    report = Path(lake.folder("release_report", None, weights.ljust(64, "0")))
    report.mkdir(parents=True)
    pl.DataFrame({"candidate": [candidate], "decision": ["promote"]}).write_parquet(report / "decisions.parquet")
    write_json(str(report / "summary.json"), {"conclusion": f"Release {candidate}."})
    found = publish(str(report), fingerprint=weights.ljust(64, "0"), produced=Produced())
    lake.set_current("release_report", None, found)
    return put_in_force(stage)


def put_in_force(stage: StageRunner) -> Artifact:
    report = stage.lake.current("release_report")
    candidate = chosen_candidate(report, stage.lake)
    assert candidate is not None
    spec = stage.spec("released_policy", None, release_work(stage.lake, report, candidate))
    artifact, _ = run_job(spec, release_policy.run)
    stage.lake.set_current("released_policy", None, artifact)
    return artifact


def in_force(lake: Lake) -> str:
    return str(read_json(lake.current("released_policy").path("release.json"))["candidate"])


def test_a_release_is_taken_back_and_stays_back(stage: StageRunner, tmp_path: Path) -> None:
    lake = stage.lake
    release(stage, "first", "aa")
    second = release(stage, "second", "bb")
    assert "rluf rollback" in Path(second.path("MODEL_CARD.md")).read_text()
    third = release(stage, "third", "cc")
    assert in_force(lake) == "third"
    (tmp_path / "home" / "dagster").mkdir()
    done = CliRunner().invoke(
        app, ["rollback", "--home", str(tmp_path / "home"), "--reason", "users left"], catch_exceptions=False
    )
    assert "Withdrawn: third. In force: second." in done.stdout
    assert in_force(lake) == "second"
    entry = rolled_back(lake)[lake.current("crraft_policy", "third").content_hash]
    assert entry["reason"] == "users left"
    # The report still promotes it: materialising released_policy again must not bring it back.
    assert chosen_candidate(lake.current("release_report"), lake) is None
    assert read_json(third.path("release.json"))["candidate"] == "third", "the withdrawn release stays on record"
    release(stage, "third", "dd")  # trained anew
    assert in_force(lake) == "third"
    assert roll_back(lake, "again").restored["candidate"] == "second"
    assert roll_back(lake, "and again").restored["candidate"] == "first"
    with pytest.raises(ArtifactMissing, match="'first' is the first release"):
        roll_back(lake, "once more")
    assert in_force(lake) == "first"


def test_nothing_changes_when_the_weights_before_are_gone(stage: StageRunner) -> None:
    lake = stage.lake
    with pytest.raises(ArtifactMissing, match="released_policy: nothing published"):
        roll_back(lake, "?")
    first = release(stage, "first", "aa")
    release(stage, "second", "bb")
    shutil.rmtree(read_json(first.path("release.json"))["policy"]["uri"])
    with pytest.raises(ArtifactMissing, match="weights of 'first' are not at"):
        roll_back(lake, "?")
    shutil.rmtree(first.uri)
    with pytest.raises(ArtifactMissing, match="no release of the policy"):
        roll_back(lake, "?")
    assert in_force(lake) == "second"
    assert rolled_back(lake) == {}


def test_dagster_knows_what_is_in_force(stage: StageRunner, tmp_path: Path) -> None:
    import dagster as dg

    release(stage, "first", "aa")
    release(stage, "second", "bb")
    (tmp_path / "home" / "dagster").mkdir()
    CliRunner().invoke(app, ["rollback", "--home", str(tmp_path / "home"), "--reason", "x"], catch_exceptions=False)
    with dg.DagsterInstance.from_config(str(tmp_path / "home" / "dagster")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("released_policy"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["candidate"].value == "first"
