"""The decision log: plans bound before exposures, decisions appended and never rewritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rluf_assets.cli import app
from rluf_assets.errors import DataError
from rluf_assets.evaluation.decision_log import (
    bind_plan,
    bound_plan,
    past_decisions,
    read_decisions,
    record_decisions,
)
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.lake import Lake
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
