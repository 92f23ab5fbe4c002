"""The release decision: gathers a candidate's gates, and has them judged by the decision table.

Of several candidates that are promoted the best *measured* one comes first: by the lift that users showed, drawn towards
none by what noise alone would have shown. What was predicted orders only those that no user has met.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rluf_assets.evaluation.claims import Claim, claim_of, range_gate, slope_gate, transport_gate
from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Gate, Verdict, rule
from rluf_assets.evaluation.gates import (
    GOAL,
    audit_gate,
    excused,
    live_gates,
    love_gate,
    non_inferiority_gate,
    required,
)
from rluf_assets.evaluation.offline import OfflineComparison
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.second_reader import off_policy_gate, read_off_policy
from rluf_assets.evaluation.transport import TRANSPORT
from rluf_assets.evaluation.trust import TRUST_SCHEMA
from rluf_assets.evaluation.trust_gate import trust_gate
from rluf_assets.evaluation.words import percent, span

PROMOTE, HOLD, NEEDS_AB, REFERENCE = Verdict.PROMOTE, Verdict.HOLD, Verdict.NEEDS_AB, Verdict.REFERENCE
SHOWN_FIRST = (PROMOTE, NEEDS_AB, HOLD, REFERENCE)


@dataclass(frozen=True)
class Decision:
    """One candidate's verdict, the sentences that say why, and its gates; measured_lift: of the goal, shrunk."""

    candidate: str
    decision: Verdict
    reasons: list[str]
    gates: list[Gate] = field(default_factory=list)
    love_change: float | None = None
    love_change_low: float | None = None
    love_change_high: float | None = None
    measured_lift: float | None = None
    because: str = ""
    claim: Claim = Claim.NOTHING  # what its offline figures may be quoted for, and why not for more
    claim_lacks: str = ""

    def gate(self, name: str) -> Gate | None:
        return next((g for g in self.gates if g.name == name), None)


@dataclass(frozen=True)
class Evidence:
    """All that a decision rests on. What is missing or empty, but for the comparison, is not measured.

    exposed: candidates that users met, where that is known beyond the readout (their exposures are there).
    """

    offline: OfflineComparison
    tripwires: pl.DataFrame
    backtest: dict[str, Any] | None
    readout: Readout | None
    trust: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TRUST_SCHEMA))
    exposed: frozenset[str] = frozenset()
    transport: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TRANSPORT))
    off_policy: pl.DataFrame = field(default_factory=lambda: read_off_policy(None))

    def met_users(self, candidate: str, config: ReleaseConfig) -> bool:
        """Whether users met it: its exposures are there, were read once, or stand in the readout."""
        tables = () if self.readout is None else (self.readout.metrics, self.readout.checks)
        seen = any((t["candidate"] == candidate).any() for t in tables if "candidate" in t.columns)
        return seen or candidate in self.exposed or candidate in config.bound


class Decisions(tuple[Decision, ...]):
    """A decision per candidate: promoted ones first, the best measured of them first, then those that need an A/B test."""

    baseline: str

    @classmethod
    def of(cls, decisions: Sequence[Decision], baseline: str) -> Decisions:
        found = cls(decisions)
        found.baseline = baseline
        return found

    @property
    def conclusion(self) -> str:
        """What people read first: one sentence on what to release and why not the others."""
        return conclusion(self, self.baseline)

    @property
    def table(self) -> pl.DataFrame:
        """One row per candidate: decision, reasons, gates, measured and predicted change."""
        return decisions_frame(self)

    @property
    def gates(self) -> pl.DataFrame:
        """One row per candidate and gate: its result, and why."""
        return gates_frame(self.table)

    def _repr_html_(self) -> str:
        shown = self.table.select("candidate", "decision", pl.col("reasons").list.join(" "))
        return f"<p><b>{html.escape(self.conclusion)}</b></p>{shown._repr_html_()}"


def decide(evidence: Evidence, config: ReleaseConfig) -> Decisions:
    """A decision per candidate, by one table of rules: promote, hold or needs A/B, and why.

    home.release.decide() calls it on a home's evidence in force.
    """
    candidates = evidence.offline.pareto["candidate"].to_list()
    decisions = [decide_candidate(name, evidence, config) for name in candidates]

    def order(d: Decision) -> tuple[int, float, float, str]:
        goal = d.gate(GOAL)
        gain = goal.figures.get("gain") if goal else None
        measured = gain if isinstance(gain, float) else 0.0
        return (SHOWN_FIRST.index(d.decision), -measured, -(d.love_change or 0.0), d.candidate)

    return Decisions.of(sorted(decisions, key=order), config.baseline)


def decide_candidate(candidate: str, evidence: Evidence, config: ReleaseConfig) -> Decision:
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
    gates = gates_of(candidate, evidence, config)
    ruling = rule(
        gates,
        exposed=evidence.met_users(candidate, config),
        required=required(config),
        excused=excused(config),
    )
    goal = next(g for g in gates if g.name == GOAL)
    shrunk = goal.figures.get("shrunk")
    claim, lacks = claim_of(gates)
    return Decision(
        candidate, ruling.verdict, [g.detail for g in ruling.because], gates, because=ruling.because[0].brief,
        measured_lift=shrunk if isinstance(shrunk, float) else None, claim=claim, claim_lacks=lacks, **change,
    )  # fmt: skip


def gates_of(candidate: str, evidence: Evidence, config: ReleaseConfig) -> list[Gate]:
    """Every gate of a candidate, offline ones first."""
    love = evidence.offline.row(candidate, config.love_objective)
    believed = [
        trust_gate(candidate, evidence.backtest, evidence.tripwires, evidence.trust, config),
        slope_gate(evidence.backtest, config),
        range_gate(candidate, love, evidence.backtest, config),
        transport_gate(candidate, evidence.transport, config),
    ]
    return [
        *believed,
        love_gate(candidate, evidence.offline, config, level=claim_of(believed)[0] is Claim.LEVEL),
        off_policy_gate(candidate, evidence.off_policy, config),
        *(
            non_inferiority_gate(candidate, objective, margin, evidence.offline)
            for objective, margin in config.non_inferior.items()
        ),
        audit_gate(candidate, evidence.tripwires, config.plan.excused),
        *live_gates(candidate, evidence.readout, config),
    ]


def conclusion(decisions: Sequence[Decision], baseline: str) -> str:
    """What people read first: one sentence on what to release and why not the others."""
    judged = [d for d in decisions if d.decision != REFERENCE]
    if not judged:
        return f"There is no candidate beside {baseline}: nothing to decide."
    promoted = [d for d in judged if d.decision == PROMOTE]
    parts = [] if promoted else [f"Release nothing and keep {baseline}"]
    for i, d in enumerate(promoted):
        goal = d.gate(GOAL)
        shown = goal.brief if goal else d.because
        if d.claim is Claim.LEVEL:
            shown = f"{shown}; {percent(d.love_change, signed=True)} was predicted"
        parts.append(f"Release {d.candidate} ({shown})" if i == 0 else f"{d.candidate} passes too ({shown})")
    parts += [f"{d.candidate} needs an A/B test ({d.because})" for d in judged if d.decision == NEEDS_AB]
    parts += [f"hold {d.candidate} ({d.because})" for d in judged if d.decision == HOLD]
    return "; ".join(parts) + "."


def claimed(decision: Decision, judged: Sequence[Decision], love: str) -> tuple[str, str]:
    """What a candidate's card says of its offline figures: the level, its place among those with a place, or nothing."""
    if decision.claim is Claim.LEVEL:
        interval = span(decision.love_change_low, decision.love_change_high)
        return percent(decision.love_change, signed=True), f"predicted {love} ({interval})"
    if decision.claim is Claim.ORDER:
        others = [d.love_change or 0.0 for d in judged if d.claim is not Claim.NOTHING]
        place = 1 + sum(change > (decision.love_change or 0.0) for change in others)
        return (
            f"{place} of {len(others)}",
            f"in order of predicted {love}; how much is not claimed: {decision.claim_lacks}",
        )
    return "no claim", f"on {love} from offline figures: {decision.claim_lacks}"


def gates_frame(decisions: pl.DataFrame) -> pl.DataFrame:
    """One row per candidate and gate of decisions.parquet: candidate, gate, result, why."""
    rows = [
        {"candidate": row["candidate"], "gate": gate["title"], "result": gate["result"], "why": gate["detail"]}
        for row in decisions.iter_rows(named=True)
        for gate in json.loads(row["gates"])
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(("candidate", "gate", "result", "why"), pl.String))


def decisions_frame(decisions: Sequence[Decision]) -> pl.DataFrame:
    """decisions.parquet: candidate, decision, reasons, gates (JSON), measured and predicted change; best first."""
    rows = [
        {
            "candidate": d.candidate, "decision": str(d.decision), "reasons": d.reasons,
            "gates": json.dumps([g.as_dict() for g in d.gates], sort_keys=True, allow_nan=False),
            "measured_lift": d.measured_lift,
            "predicted_love_change": d.love_change, "predicted_love_change_low": d.love_change_low,
            "predicted_love_change_high": d.love_change_high,
        }
        for d in decisions
    ]  # fmt: skip
    schema: dict[str, Any] = {
        "candidate": pl.String, "decision": pl.String, "reasons": pl.List(pl.String), "gates": pl.String,
        "measured_lift": pl.Float64, "predicted_love_change": pl.Float64, "predicted_love_change_low": pl.Float64,
        "predicted_love_change_high": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)
