"""The notebooks' API: what it reads is what the assets published, and playing scores as the evaluation did."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import rluf_assets as rluf
from rluf_assets.errors import ArtifactMissing, ConfigError, DataError
from rluf_assets.home import Home
from rluf_assets.lake import read_json

on_tiny_lake = pytest.mark.xdist_group("demo")


@pytest.fixture
def home(tiny_home: Path) -> Home:
    return rluf.open_home(tiny_home)


@on_tiny_lake
def test_frames_are_the_artifacts(home: Home) -> None:
    days = home.logs.accounting
    assert home.logs.replies.select(pl.len()).collect().item() == days["replies"].sum()
    assert home.logs.quarantine.select(pl.len()).collect().item() == sum(
        days[f"{table}_quarantined"].sum() for table in ("messages", "reactions")
    )
    summary = read_json(str(home.folder / "reports" / "summary.json"))
    assert home.signals.train.select(pl.len()).collect().item() == summary["signal_set"]["train"]
    assert home.signals.holdout.select(pl.len()).collect().item() == summary["signal_set"]["holdout"]
    assert home.signals.rates["base_rate"] == summary["natural_love_rate"]
    assert home.rewards["safety"].metrics["pair_accuracy"] == summary["reward_models"]["safety"]["pair_accuracy"]
    assert home.candidates.filter(pl.col("candidate") == "moderate")["love"].item() == 0.1
    assert home.evaluation.backtest.summary["policies"] == 10
    assert set(home.evaluation.candidates) == set(home.candidates["candidate"])
    decisions = dict(home.release.decisions.select("candidate", "decision").iter_rows())
    assert decisions["moderate"] == summary["candidates"]["moderate"]["decision"]


@on_tiny_lake
def test_playing_scores_as_the_offline_evaluation_did(home: Home) -> None:
    found = home.policies["moderate"].evaluation
    row = found.completions.sort("prompt_id", "completion_id").row(3, named=True)
    own = (pl.col("prompt_id") == row["prompt_id"]) & (pl.col("completion_id") == row["completion_id"])
    recorded = {r["objective"]: r for r in found.scores.filter(own).iter_rows(named=True)}
    played = home.score([row["completion"], "zzz " * 30], row["prompt"]).row(0, named=True)
    assert played["love"] == pytest.approx(recorded["love"]["live_probability"], rel=1e-4)
    for objective in ("helpfulness", "safety"):
        assert played[objective] == pytest.approx(recorded[objective]["logit"], abs=1e-4)
        assert 0 <= played[f"{objective}_rank"] <= 1
    assert played["failed"] == [judge for judge in found.judges if not row[f"judge_{judge}"]]
    spoilt = home.score(["zzz " * 30], row["prompt"]).row(0, named=True)
    assert "repetition" in spoilt["failed"]
    assert "four times in a row" in spoilt["reasons"]


@on_tiny_lake
def test_a_candidate_answers_the_same_for_the_same_seed(home: Home) -> None:
    asked = home.signals.prompts()["prompt"][0].to_list()
    first = home.policies["aggressive"].reply(asked, n=2, seed=1)
    assert first["reply"].to_list() == home.policies["aggressive"].reply(asked, n=2, seed=1)["reply"].to_list()
    assert len(first) == 2
    with pytest.raises(ArtifactMissing, match=r"crraft_policy\[nobody\]"):
        _ = home.policies["nobody"]
    with pytest.raises(DataError, match="end with a user's"):
        home.policies["aggressive"].reply("  ")
    with pytest.raises(DataError, match="at least one text"):
        home.score([], "hello")


@on_tiny_lake
def test_a_home_shows_what_it_holds(home: Home) -> None:
    assert repr(home).startswith(f"Home({str(home.folder)!r}: {len(home.logs.days)} days of logs, ")
    card, state = home._repr_html_(), home.state()
    assert home.release.conclusion in html.unescape(card)
    assert "not made yet" not in card.split("signal audit")[1].split("</tr>")[0]
    assert dict(state.select("asset", "parts").iter_rows())["crraft_policy"] == len(home.policies) == 4
    assert set(home.lake.assets()) <= set(state["asset"])
    assert list(home.rewards) == ["love", "helpfulness", "safety"]
    assert "kindness" not in home.rewards and "nobody" not in home.policies


@on_tiny_lake
def test_other_rules_decide_on_the_same_evidence(home: Home) -> None:
    ours = home.release.decide()
    assert ours.conclusion == home.release.conclusion, "unchanged rules decide as the report did"
    assert ours.gates.equals(home.release.gates)
    other = home.release.decide(release_report={"non_inferior": {"helpfulness": 0.02}})
    assert {d.candidate: d.decision for d in other if d.decision == "promote"} == {}
    assert "plan" in other.conclusion, "margins are part of the plan that users' exposures were bound to"
    with pytest.raises(ConfigError, match=r"alhpa.*did you mean 'alpha'"):
        home.release.decide(ab_plan={"alhpa": 0.1})


def test_no_lake_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLUF_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactMissing, match=r"rluf-demo: holds no lake.*rluf demo --home"):
        rluf.open_home()
    (tmp_path / "rluf-demo" / "lake").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert rluf.open_home().folder == (tmp_path / "rluf-demo").resolve()
    with pytest.raises(ArtifactMissing, match="release_report"):
        _ = rluf.open_home().release.decisions
    with pytest.raises(ArtifactMissing, match="validated_replies"):
        _ = rluf.open_home().logs.replies
    with pytest.raises(ArtifactMissing, match="no reward model"):
        _ = rluf.open_home().rewards["kindness"]


def test_the_api_loads_without_torch_or_dagster() -> None:
    code = (
        "import sys, rluf_assets as rluf; at_once = len([m for m in sys.modules if m.startswith('rluf_assets.')]); "
        "[getattr(rluf, name) for name in dir(rluf) if name not in ('train_reward', 'optimise_policy', 'train_base_policy')]; "
        "print(at_once, [m for m in ('torch', 'transformers', 'dagster', 'plotly', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_every_name_is_declared_for_editors_and_unknown_ones_are_refused() -> None:
    typed = set(re.findall(r"^    from .* as (\w+)$", Path(rluf.__file__).read_text(), re.MULTILINE))
    assert typed == set(rluf.__all__) <= set(dir(rluf))
    with pytest.raises(AttributeError, match="open_lake"):
        _ = rluf.open_lake  # type: ignore[attr-defined]
