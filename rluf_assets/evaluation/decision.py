"""The decision table: from typed gate results to promote, hold or needs A/B, with the reasons. Nothing else decides.

A gate is one question about one candidate. Its result is pass, fail, not shown (the data do not decide) or not measured
(there is no such evidence). Each result allows at most one verdict (`TABLE`), and the candidate gets the lowest that any
of its gates allows: hold < needs A/B < promote. So worse or missing evidence can never raise a verdict, and a gate that
is asked for and absent counts as not measured.

Before users met the candidate nothing promotes: the best that offline figures can say is that a test is worth making.
Once they met it, whatever is not shown holds. Predictions then have no vote: the test is what they were waiting for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

Figures = Mapping[str, float | int | str | None]


class Result(StrEnum):
    """What the evidence says about one question."""

    PASS = "pass"
    NOT_SHOWN = "not shown"
    NOT_MEASURED = "not measured"
    FAIL = "fail"


class Verdict(StrEnum):
    """What to do with a candidate; a reference (the baseline, the control) is not judged."""

    PROMOTE = "promote"
    NEEDS_AB = "needs A/B"
    HOLD = "hold"
    REFERENCE = "reference"


class Kind(StrEnum):
    """What a gate speaks about."""

    PREDICTION = "prediction"  # what offline figures say users would do, and whether to believe them
    HARM = "harm"  # what users' reactions do not show: safety, helpfulness, reward hacking
    SECOND = "second reader"  # what the logs say of a policy that was not live: it lowers a verdict, never raises one
    LIVE = "live"  # what users did: the goals, each guardrail, whether the test is sound, whether its plan stood


# From worst to best: a verdict never rises when a result falls.
RANK = (Result.FAIL, Result.NOT_MEASURED, Result.NOT_SHOWN, Result.PASS)
GRAVEST = ("safety", "hacking_audit")  # where several gates of a kind fail, those told first
ORDER = (Verdict.HOLD, Verdict.NEEDS_AB, Verdict.PROMOTE)

_BEFORE = {
    Result.PASS: Verdict.NEEDS_AB,
    Result.NOT_SHOWN: Verdict.NEEDS_AB,
    Result.NOT_MEASURED: Verdict.NEEDS_AB,
    Result.FAIL: Verdict.HOLD,
}
_AFTER = {
    Result.PASS: Verdict.PROMOTE,
    Result.NOT_SHOWN: Verdict.HOLD,
    Result.NOT_MEASURED: Verdict.HOLD,
    Result.FAIL: Verdict.HOLD,
}
_ANSWERED = dict.fromkeys(Result, Verdict.PROMOTE)
# (users met the candidate, kind of gate) -> result -> the highest verdict that it allows.
TABLE: Mapping[tuple[bool, Kind], Mapping[Result, Verdict]] = {
    (False, Kind.PREDICTION): _BEFORE,
    (False, Kind.HARM): _BEFORE,
    (False, Kind.LIVE): _BEFORE,
    (False, Kind.SECOND): _BEFORE,
    (True, Kind.PREDICTION): _ANSWERED,
    (True, Kind.HARM): _AFTER,
    (True, Kind.LIVE): _AFTER,
    (True, Kind.SECOND): _ANSWERED,
}


@dataclass(frozen=True)
class Gate:
    """One question, its result, and the numbers in one sentence (`detail`) and in a few words (`brief`)."""

    name: str
    title: str
    kind: Kind
    result: Result
    detail: str
    brief: str
    figures: Figures = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kind": str(self.kind), "result": str(self.result)}


@dataclass(frozen=True)
class Ruling:
    """A verdict and the gates that brought it about, the gravest first."""

    verdict: Verdict
    because: Sequence[Gate]


def allowed(gate: Gate, *, exposed: bool) -> Verdict:
    """The highest verdict that one gate allows."""
    return TABLE[exposed, gate.kind][gate.result]


def rule(gates: Iterable[Gate], *, exposed: bool, required: Iterable[str] = (), excused: Iterable[str] = ()) -> Ruling:
    """The lowest verdict that any gate allows.

    exposed: users met the candidate, whether or not anything could be measured on them. required: gates that must be
    there; one that is absent is not measured. excused: gates that the plan, written before the test, lets go unmeasured;
    they are excused from being measured, never from failing or from being looked at and not shown.
    """
    found = list(gates)
    names = {g.name for g in found}
    found += [absent(name) for name in required if name not in names]
    forgiven = set(excused)
    judged = [g for g in found if not (g.name in forgiven and g.result is Result.NOT_MEASURED)]
    ceiling = Verdict.PROMOTE if exposed else Verdict.NEEDS_AB
    live = [g for g in judged if g.kind is Kind.LIVE and g.result is Result.PASS]
    if not live:  # nothing that users did speaks for it
        ceiling = Verdict.HOLD if exposed else Verdict.NEEDS_AB
    verdict = min([ceiling, *(allowed(g, exposed=exposed) for g in judged)], key=ORDER.index)
    return Ruling(verdict, _because(judged, verdict, exposed))


def absent(name: str, kind: Kind = Kind.LIVE) -> Gate:
    """A gate that was asked for and has no evidence at all."""
    told = name.replace("_", " ")
    return Gate(name, told.capitalize(), kind, Result.NOT_MEASURED, f"{told}: not measured.", f"{told} is not measured")


def _because(gates: Sequence[Gate], verdict: Verdict, exposed: bool) -> list[Gate]:
    """The gates that kept the verdict down: failures first, then harm before users before predictions."""
    if verdict is Verdict.PROMOTE:
        spoken = [g for g in gates if g.result is Result.PASS]
        return sorted(spoken, key=lambda g: g.kind is not Kind.LIVE)
    first = (Kind.HARM, Kind.LIVE, Kind.PREDICTION) if exposed else (Kind.HARM, Kind.PREDICTION, Kind.LIVE)
    gravity = (*first, Kind.SECOND)
    held = [g for g in gates if g.result is not Result.PASS and allowed(g, exposed=exposed) is verdict]
    held = held or [g for g in gates if allowed(g, exposed=exposed) is verdict] or list(gates)
    return sorted(held, key=lambda g: (RANK.index(g.result), gravity.index(g.kind), g.name not in GRAVEST))
