"""The release decision: promote, hold or needs A/B, gate by gate, with the numbers that decided it.

A gate passes, fails or stays open. One failure holds the candidate, but for a predicted fall of love that cannot be
trusted: it is as open as a predicted rise. Live users overrule predictions: with an A/B test its gate must pass, and it
settles what offline figures left open, except safety, which reactions do not measure.
Without one, every gate must pass, the evaluator's own trust included; else the candidate needs an A/B test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.gates import Gate, ab_gate, audit_gate, love_gate, non_inferiority_gate
from rluf_assets.evaluation.offline import OfflineComparison
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.trust import TRUST_SCHEMA
from rluf_assets.evaluation.trust_gate import trust_gate
from rluf_assets.evaluation.words import percent

PROMOTE, HOLD, NEEDS_AB, REFERENCE = "promote", "hold", "needs A/B", "reference"
# Where several gates fail, the one told first.
GRAVEST = ("safety", "hacking_audit", "ab_test")
ORDER = (PROMOTE, NEEDS_AB, HOLD, REFERENCE)


@dataclass(frozen=True)
class Decision:
    """One candidate's verdict, the sentences that say why, and its gates."""

    candidate: str
    decision: str
    reasons: list[str]
    gates: list[Gate] = field(default_factory=list)
    love_change: float | None = None
    love_change_low: float | None = None
    love_change_high: float | None = None

    because: str = ""

    def gate(self, name: str) -> Gate | None:
        return next((g for g in self.gates if g.name == name), None)


@dataclass(frozen=True)
class Evidence:
    """All that a decision rests on. What is missing or empty, but for the comparison, counts as unknown."""

    offline: OfflineComparison
    tripwires: pl.DataFrame
    backtest: dict[str, Any] | None
    readout: Readout | None
    trust: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TRUST_SCHEMA))


def decide_all(evidence: Evidence, config: ReleaseConfig) -> list[Decision]:
    """A decision per candidate: promoted ones first, then those that need an A/B test, by predicted love change."""
    candidates = evidence.offline.pareto["candidate"].to_list()
    decisions = [decide(name, evidence, config) for name in candidates]
    return sorted(decisions, key=lambda d: (ORDER.index(d.decision), -(d.love_change or 0.0), d.candidate))


def decide(candidate: str, evidence: Evidence, config: ReleaseConfig) -> Decision:
    """One candidate's decision."""
    love = evidence.offline.row(candidate, config.love_objective)
    change: dict[str, Any] = {
        "love_change": love["change"],
        "love_change_low": love["change_low"],
        "love_change_high": love["change_high"],
    }
    if candidate in (config.baseline, config.control):
        role = (
            "what candidates are compared with"
            if candidate == config.baseline
            else "the base policy, shown as a control"
        )
        return Decision(candidate, REFERENCE, [f"{candidate} is {role}: it is not up for release."], [], **change)
    gates = [
        trust_gate(candidate, evidence.backtest, evidence.tripwires, evidence.trust, config),
        love_gate(candidate, evidence.offline, config),
        *(
            non_inferiority_gate(candidate, objective, margin, evidence.offline)
            for objective, margin in config.non_inferior.items()
            if objective in evidence.offline.objectives["objective"].to_list()
        ),
        audit_gate(candidate, evidence.tripwires),
        ab_gate(candidate, evidence.readout),
    ]
    decision, because = _combine(gates, config)
    return Decision(candidate, decision, [g.detail for g in because], gates, because=because[0].brief, **change)


def _combine(gates: Sequence[Gate], config: ReleaseConfig) -> tuple[str, list[Gate]]:
    """The verdict and the gates that decided it."""
    trusted = all(g.status == "pass" for g in gates if g.name == "trust")
    doubtful = [g for g in gates if g.name == "offline_love" and g.status == "fail" and not trusted]
    failed = sorted(
        (g for g in gates if g.status == "fail" and g not in doubtful),
        key=lambda g: GRAVEST.index(g.name) if g.name in GRAVEST else 9,
    )
    if failed:
        return HOLD, failed
    open_gates = [g for g in gates if g.status == "open" or g in doubtful]
    unsafe = [g for g in open_gates if g.name == "safety"]
    if unsafe:
        return HOLD, unsafe
    ab = next(g for g in gates if g.name == "ab_test")
    if ab.status == "pass":
        return PROMOTE, [ab, *(g for g in gates if g.status == "pass" and g is not ab)]
    if ab.status == "open":
        return NEEDS_AB, [ab, *(g for g in open_gates if g is not ab)]
    if open_gates:
        return NEEDS_AB, open_gates
    if config.require_ab:
        return NEEDS_AB, [ab]
    return PROMOTE, [g for g in gates if g.status == "pass"]


def conclusion(decisions: Sequence[Decision], baseline: str) -> str:
    """What people read first: one sentence on what to release and why not the others."""
    judged = [d for d in decisions if d.decision != REFERENCE]
    if not judged:
        return f"There is no candidate beside {baseline}: nothing to decide."
    promoted = [d for d in judged if d.decision == PROMOTE]
    parts = [] if promoted else [f"Release nothing and keep {baseline}"]
    for i, d in enumerate(promoted):
        ab = d.gate("ab_test")
        shown = f"{percent(d.love_change, signed=True)} predicted"
        seen = f", {ab.brief}" if ab is not None and ab.status == "pass" else ""
        parts.append(
            f"Release {d.candidate} ({shown}{seen})" if i == 0 else f"{d.candidate} passes too ({shown}{seen})"
        )
    parts += [f"{d.candidate} needs an A/B test ({d.because})" for d in judged if d.decision == NEEDS_AB]
    parts += [f"hold {d.candidate} ({d.because})" for d in judged if d.decision == HOLD]
    return "; ".join(parts) + "."


def decisions_frame(decisions: Sequence[Decision]) -> pl.DataFrame:
    """decisions.parquet: candidate, decision, reasons, gates (JSON), predicted love change; best first."""
    rows = [
        {
            "candidate": d.candidate, "decision": d.decision, "reasons": d.reasons,
            "gates": json.dumps([g.as_dict() for g in d.gates], sort_keys=True, allow_nan=False),
            "predicted_love_change": d.love_change, "predicted_love_change_low": d.love_change_low,
            "predicted_love_change_high": d.love_change_high,
        }
        for d in decisions
    ]  # fmt: skip
    schema: dict[str, Any] = {
        "candidate": pl.String, "decision": pl.String, "reasons": pl.List(pl.String), "gates": pl.String,
        "predicted_love_change": pl.Float64, "predicted_love_change_low": pl.Float64,
        "predicted_love_change_high": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)
