"""The decision log: plans bound before exposures, decisions appended and never rewritten."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from rluf_assets.assets.release import chosen_candidate
from rluf_assets.cli import app
from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Result
from rluf_assets.evaluation.decision_log import (
    bind_plan,
    bound_plan,
    past_decisions,
    read_decisions,
    record_decisions,
    release_config,
    stale_evidence,
)
from rluf_assets.evaluation.gates import plan_gate
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.lake import Artifact, Lake, Produced, publish
from rluf_assets.tidy import find_waste

POLICIES = {"moderate": "a" * 64}


def summary(decision: str = "hold", plan: str = "p1") -> dict:
    row = {"decision": decision, "reasons": ["because"], "gates": {"safety": "pass"}, "measured_lift": 0.1}
    reference = {**row, "decision": "reference"}
    return {"plan": plan, "candidates": {"moderate": row, "baseline": reference}}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    (tmp_path / "home" / "lake").mkdir(parents=True)
    return Lake(str(tmp_path / "home" / "lake"))


def test_the_first_plan_stays_on_record_for_these_weights(lake: Lake) -> None:
    assert bound_plan(lake, "moderate", POLICIES["moderate"]) is None
    first = bind_plan(lake, "moderate", POLICIES["moderate"], AbPlan())
    again = bind_plan(lake, "moderate", POLICIES["moderate"], AbPlan(alpha=0.2))
    assert again == first and first.plan == AbPlan().hash
    assert bind_plan(lake, "moderate", "b" * 64, AbPlan(alpha=0.2)).plan == AbPlan(alpha=0.2).hash


def test_a_decision_is_a_line_once(lake: Lake) -> None:
    evidence = {"ab_test_readout": "x"}
    assert len(record_decisions(lake, summary(), POLICIES, evidence, asked_by="me")) == 1
    assert record_decisions(lake, summary(), POLICIES, evidence, asked_by="me") == []
    assert len(record_decisions(lake, summary("promote"), POLICIES, {"ab_test_readout": "y"})) == 1
    lines = read_decisions(lake)
    assert [line["verdict"] for line in lines] == ["hold", "promote"]
    assert lines[0]["asked_by"] == "me" and lines[0]["policy"] == POLICIES["moderate"]
    assert [p.verdict for p in past_decisions(lake, {"ab_test_readout": "y"})] == ["hold"]
    assert past_decisions(lake, evidence)[0].verdict == "promote"
    assert not find_waste(lake), "rluf gc leaves the log alone"
    home = str(Path(lake.root).parent)
    shown = CliRunner().invoke(app, ["decisions", "--home", home], catch_exceptions=False).stdout
    assert "hold" in shown and "promote" in shown and "asked by me" in shown and "because" in shown


def test_a_line_that_was_changed_is_seen(lake: Lake) -> None:
    for k in range(3):
        record_decisions(lake, summary(), POLICIES, {"ab_test_readout": str(k)})
    files = sorted((Path(lake.root) / "decision_log" / "decisions").glob("*.jsonl"))
    files[1].write_text(files[1].read_text().replace("hold", "promote"))
    with pytest.raises(DataError, match="a decision was changed or taken out"):
        read_decisions(lake)


def put(lake: Lake, asset: str, partition: str | None, text: str, **inputs: Artifact) -> Artifact:
    folder = Path(lake.folder(asset, partition, text.ljust(64, "0")))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").write_text(text)
    spec = {"inputs": {name.replace("__", "/"): {"content_hash": made.content_hash} for name, made in inputs.items()}}
    artifact = publish(str(folder), fingerprint=text.ljust(64, "0"), produced=Produced(), spec=spec)
    lake.set_current(asset, partition, artifact)
    return artifact


def test_evidence_of_other_weights_holds_and_releases_nothing(lake: Lake) -> None:
    def test_again(policy: Artifact, mark: str) -> Artifact:
        evaluated = put(lake, "offline_evaluation", "b", f"e{mark}", policy=policy)
        exposed = put(lake, "ab_exposures", "b", f"x{mark}", policy=policy)
        audit = put(lake, "reward_hacking_audit", None, f"a{mark}", offline_evaluation__b=evaluated)
        readout = put(lake, "ab_test_readout", None, f"r{mark}", ab_exposures__b=exposed)
        folder = Path(lake.folder("release_report", None, f"d{mark}".ljust(64, "0")))
        folder.mkdir(parents=True)
        pl.DataFrame({"candidate": ["b"], "decision": ["promote"]}).write_parquet(folder / "decisions.parquet")
        used = {"offline_evaluation__b": evaluated, "ab_exposures__b": exposed, "reward_hacking_audit": audit}
        return put(lake, "release_report", None, f"d{mark}", **used, ab_test_readout=readout)

    report = test_again(put(lake, "crraft_policy", "b", "first"), "1")
    assert (stale_evidence(lake, "b"), chosen_candidate(report, lake)) == ((), "b")
    trained = put(lake, "crraft_policy", "b", "second")
    bind_plan(lake, "b", trained.content_hash, AbPlan())
    assert stale_evidence(lake, "b") == ("offline_evaluation", "ab_exposures")
    assert chosen_candidate(report, lake) is None, "the report promoted the weights before"
    config = release_config(ReleaseConfig(), AbPlan(), lake, ["b"], {})
    gate = plan_gate("b", None, config)
    assert (gate.result, "Materialise offline_evaluation, ab_exposures" in gate.detail) == (Result.FAIL, True)
    put(lake, "offline_evaluation", "b", "e3", policy=trained)
    put(lake, "ab_exposures", "b", "x3", policy=trained)
    assert stale_evidence(lake, "b") == ("reward_hacking_audit", "ab_test_readout")
    again = test_again(trained, "4")
    assert (stale_evidence(lake, "b"), chosen_candidate(report, lake), chosen_candidate(again, lake)) == ((), None, "b")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"at": "2026-01-01"}'])
def test_a_log_that_somebody_changed_is_named(lake: Lake, text: str) -> None:
    record_decisions(lake, summary(), POLICIES, {"ab_test_readout": "x"}, asked_by="me")
    next((Path(lake.root) / "decision_log" / "decisions").glob("*.jsonl")).write_text(text)
    with pytest.raises(DataError, match="a decision was changed"):
        read_decisions(lake)
