"""The release decision and its page: what decides, what is shown, and that nothing undefined reaches a reader."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.evaluation.config import BoundPlan, ReadoutConfig, ReleaseConfig
from rluf_assets.evaluation.decision import Result
from rluf_assets.evaluation.gates import audit_gate, live_gates
from rluf_assets.evaluation.rates import attribute_rates, love_rate_change
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.words import number, percent, points, span
from rluf_assets.jobs import ab_test_readout, release_report, reward_hacking_audit
from rluf_assets.jobs.runner import run_job
from rluf_assets.lake import Artifact
from tests.evaluation.world import plan_of, true_rates_of, write_release_inputs

USERS = 3000
PLAN = plan_of(USERS)
BOUND = {
    name: BoundPlan(plan=PLAN.hash, at="2026-03-01") for name in ("baseline", "moderate", "aggressive", "untouched")
}
CONFIG = ReleaseConfig(resamples=300, plan=PLAN, bound=BOUND)
UNTESTED = ReleaseConfig(resamples=300, plan=PLAN)
PAGE_LIMIT = 5_000_000


def job(out: Path, folders: dict[str, Path], name: str = "release_report", config: dict | None = None) -> JobSpec:
    return JobSpec(
        name=name, entrypoint=f"rluf_assets.jobs.{name}", version="1", seed=0, output_uri=str(out),
        config=CONFIG.model_dump(mode="json") if config is None else config,
        inputs={k: InputArtifact(uri=str(v), content_hash="x") for k, v in folders.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_release_inputs(tmp_path_factory.mktemp("release"), prompts=600, users=USERS)


@pytest.fixture(scope="module")
def released(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run_job(job(tmp_path_factory.mktemp("out") / "a", folders), release_report.run)[0]


def decisions_of(artifact: Artifact) -> dict[str, str]:
    return dict(pl.read_parquet(artifact.path("decisions.parquet")).select("candidate", "decision").iter_rows())


def test_decisions_gate_by_gate(released: Artifact) -> None:
    table = pl.read_parquet(released.path("decisions.parquet"))
    assert table["candidate"].to_list() == ["moderate", "aggressive", "baseline", "untouched"]
    assert table["decision"].to_list() == ["promote", "hold", "reference", "reference"]
    gates = {g["name"]: g for g in json.loads(table["gates"][1])}
    assert gates["hacking_audit"]["result"] == "fail"
    assert "farewell" in table["reasons"][1][0]
    assert gates["guardrail_early_ending_rate"]["result"] == "fail"
    assert gates["guardrail_harmful_compliance_rate"]["result"] == "not measured", "excused by the plan, by name"
    summary = json.loads(Path(released.path("summary.json")).read_text())
    assert summary["conclusion"].startswith("Release moderate")
    assert summary["candidates"]["moderate"]["simulation"]["love_rate_change"] == pytest.approx(0.1, abs=0.03)
    assert summary["offline_online"]["pairs"] == 45


def test_everything_but_the_page_is_deterministic(released: Artifact, folders: dict[str, Path], tmp_path: Path) -> None:
    again, _ = run_job(job(tmp_path / "again", folders), release_report.run)
    assert again.content_hash == released.content_hash


def test_page_is_self_contained_and_has_no_undefined_figure(released: Artifact) -> None:
    page = Path(released.path("report.html")).read_text()
    assert len(page.encode()) < PAGE_LIMIT
    assert page.count("plotly-gz") == 2  # the script's element and the line that unpacks it
    packed = re.search(r'id="plotly-gz">([^<]+)<', page)
    assert packed is not None
    assert b"Plotly" in gzip.decompress(base64.b64decode(packed[1]))
    visible = page.replace(packed[0], "")
    assert not re.search(
        r"\b(nan|NaN|None|inf|Infinity|undefined)\b", re.sub(r"<script.*?</script>", "", visible, flags=re.S)
    )
    assert not re.search(r"src=|https?://", visible)
    linked = re.findall(r'href="([^"]*)"', visible)
    assert linked == ["candidate-moderate.html", "candidate-aggressive.html"]
    assert all(Path(released.path(name)).stat().st_size < PAGE_LIMIT for name in linked)
    shown = re.findall(r'data-figure="([\w-]+)"', page)
    assert len(shown) == 8
    assert {"trade-off", "pareto", "backtest", "reliability", "ab-test", "power", "farewells", "use-cases"} == set(
        shown
    )
    assert len(re.findall(r'role="img" aria-label="[^"]{20,}"', page)) == len(shown)
    assert "What the simulation knows" in page


def test_text_of_users_and_models_cannot_become_markup(folders: dict[str, Path], tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script>"
    spoilt = {k: v for k, v in folders.items() if k.startswith("offline_evaluation")}
    source = spoilt["offline_evaluation/moderate"]
    target = tmp_path / "moderate"
    shutil.copytree(source, target)
    completions = pl.read_parquet(target / "completions.parquet").with_columns(pl.lit(attack).alias("completion"))
    completions.write_parquet(target / "completions.parquet")
    spoilt["offline_evaluation/moderate"] = target
    artifact, _ = run_job(job(tmp_path / "out", spoilt), release_report.run)
    page = Path(artifact.path("report.html")).read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page


def test_offline_evaluation_alone_needs_an_ab_test(folders: dict[str, Path], tmp_path: Path) -> None:
    alone = {k: v for k, v in folders.items() if k.startswith("offline_evaluation")}
    untested = UNTESTED.model_dump(mode="json")
    artifact, _ = run_job(job(tmp_path / "out", alone, config=untested), release_report.run)
    assert decisions_of(artifact)["moderate"] == "needs A/B"
    page = Path(artifact.path("report.html")).read_text()
    assert "What the simulation knows" not in page
    assert "There is no backtest over past launches" in page


def test_nothing_is_promoted_before_users_met_it(folders: dict[str, Path], tmp_path: Path) -> None:
    unseen = {k: v for k, v in folders.items() if not k.startswith("ab_")}
    untested = UNTESTED.model_dump(mode="json")
    artifact, _ = run_job(job(tmp_path / "a", unseen, config=untested), release_report.run)
    assert decisions_of(artifact)["moderate"] == "needs A/B"
    assert "No user has met a candidate" in Path(artifact.path("report.html")).read_text()


@pytest.mark.parametrize("gone", ["ab_test_readout", "reward_hacking_audit"])
def test_once_users_met_it_what_is_missing_holds(folders: dict[str, Path], tmp_path: Path, gone: str) -> None:
    artifact, _ = run_job(job(tmp_path / "a", {k: v for k, v in folders.items() if k != gone}), release_report.run)
    assert decisions_of(artifact)["moderate"] == "hold"


def test_a_plan_that_changed_after_the_exposures_is_named_and_cannot_promote(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    eager = PLAN.model_copy(
        update={"guardrails": {k: v for k, v in PLAN.guardrails.items() if k != "thumbs_down_rate"}}
    )
    changed = CONFIG.model_copy(update={"plan": eager}).model_dump(mode="json")
    artifact, _ = run_job(job(tmp_path / "a", folders, config=changed), release_report.run)
    assert decisions_of(artifact)["moderate"] == "hold"
    page = Path(artifact.path("report.html")).read_text()
    assert f"The plan changed after the exposures were read: {PLAN.hash} was on record" in page
    unbound = UNTESTED.model_dump(mode="json")
    artifact, _ = run_job(job(tmp_path / "b", folders, config=unbound), release_report.run)
    assert decisions_of(artifact)["moderate"] == "hold", "no plan on record is no plan"
    again = {name: BoundPlan(plan=eager.hash) for name in BOUND}
    bound_anew = CONFIG.model_copy(update={"plan": eager, "bound": again}).model_dump(mode="json")
    artifact, _ = run_job(job(tmp_path / "c", folders, config=bound_anew), release_report.run)
    assert decisions_of(artifact)["moderate"] == "hold", "the readout was made under the plan before"


def test_an_objective_that_nobody_scored_holds(folders: dict[str, Path], tmp_path: Path) -> None:
    blind = {}
    for name, folder in folders.items():
        blind[name] = folder
        if name.startswith("offline_evaluation"):
            blind[name] = tmp_path / name
            shutil.copytree(folder, blind[name])
            scores = pl.read_parquet(folder / "scores.parquet").filter(pl.col("objective") != "safety")
            scores.write_parquet(blind[name] / "scores.parquet")
    artifact, _ = run_job(job(tmp_path / "out", blind), release_report.run)
    assert decisions_of(artifact)["moderate"] == "hold"
    reasons = pl.read_parquet(artifact.path("decisions.parquet")).filter(candidate="moderate")["reasons"][0]
    assert any("Safety was not measured" in r for r in reasons)


def test_missing_inputs_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    headless = {k: v for k, v in folders.items() if k != "offline_evaluation/baseline"}
    with pytest.raises(DataError, match="expected the baseline 'baseline'"):
        run_job(job(tmp_path / "a", headless), release_report.run)
    with pytest.raises(ArtifactMissing, match=r"expected some named offline_evaluation/<candidate>"):
        run_job(job(tmp_path / "b", {"signal_set": folders["signal_set"]}), release_report.run)
    with pytest.raises(ArtifactMissing, match=r"tripwires\.parquet"):
        run_job(job(tmp_path / "c", {**folders, "reward_hacking_audit": tmp_path}), release_report.run)


def test_a_broken_experiment_does_not_decide(folders: dict[str, Path]) -> None:
    metrics = pl.read_parquet(folders["ab_test_readout"] / "readout.parquet")
    checks = pl.DataFrame(
        {"candidate": ["moderate"], "check": ["sample_ratio"], "verdict": ["fail"], "note": ["9 v 1"]}
    )
    gates = {g.name: g for g in live_gates("moderate", Readout(metrics, checks, plan=PLAN.hash), CONFIG)}
    assert gates["ab_goal"].result is Result.PASS
    assert gates["ab_test_sound"].result is Result.FAIL and "9 v 1" in gates["ab_test_sound"].detail
    assert {g.result for g in live_gates("moderate", None, UNTESTED)} == {Result.NOT_MEASURED}
    assert audit_gate("moderate", pl.DataFrame(schema={"candidate": pl.String})).result is Result.NOT_MEASURED


def test_the_stages_before_it_run_as_jobs(folders: dict[str, Path], tmp_path: Path) -> None:
    evaluated = {k: v for k, v in folders.items() if k.startswith("offline_evaluation") or k == "signal_set"}
    audit, _ = run_job(
        job(tmp_path / "audit", evaluated, "reward_hacking_audit", {"resamples": 200}), reward_hacking_audit.run
    )
    assert audit.rows["tripwires"] == 3 * 22
    assert audit.metrics["fired: aggressive"] >= 4
    exposed = {k: v for k, v in folders.items() if k.startswith("ab_exposures")}
    config = ReadoutConfig(plan=PLAN).model_dump(mode="json")
    readout, _ = run_job(job(tmp_path / "ab", exposed, "ab_test_readout", config), ab_test_readout.run)
    assert set(pl.read_parquet(readout.path("readout.parquet"))["candidate"]) == {"untouched", "moderate", "aggressive"}


def test_true_rates_are_paired_by_context() -> None:
    candidate, baseline = true_rates_of(2000, seed=1, love=1.2, farewell=0.03), true_rates_of(2000, seed=2)
    change = love_rate_change(candidate, baseline, seed=0, resamples=500)
    assert change.low < 0.2 < change.high  # type: ignore[operator]
    assert change.high - change.low < 0.03  # type: ignore[operator]
    rates = attribute_rates(candidate, seed=0, resamples=500)
    assert rates["farewell_rate_ci"][0] < 0.03 < rates["farewell_rate_ci"][1]
    benign_only = candidate.with_columns(pl.lit(0).alias("is_harmful"), pl.lit(0).alias("harmful_compliance"))
    assert attribute_rates(benign_only, seed=0, resamples=100)["harmful_compliance_rate"] is None
    with pytest.raises(DataError, match="contexts of which"):
        love_rate_change(candidate, baseline.head(10), seed=0)


def test_numbers_as_people_read_them() -> None:
    assert (percent(0.0973), percent(-0.0973, signed=True), percent(0.00123)) == ("9.7%", "−9.7%", "0.12%")
    assert (percent(None), percent(float("nan")), number(float("inf"))) == ("–", "–", "–")
    assert (points(0.021), number(12345), number(-0.5, signed=True)) == ("+2.1 pt", "12,345", "−0.50")
    assert span(None, 0.1) == "no interval"
