"""What may be said of a candidate from offline figures: how much users would react, in which order, or nothing.

Three gates, beside the one of trust. Slope: how much of a predicted change came true in past launches. Range: whether its own
prediction lies among theirs, or is an extrapolation. Transport: whether P[signal] is right about its own live replies. A level
is claimed only where all pass; an order needs trust, a prediction within the range and no failure; else nothing is claimed.
None of it fails a candidate for what the evaluator does not know, but a slope surely not above zero does: a predicted rise
then speaks against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Figures, Gate, Kind, Result
from rluf_assets.evaluation.stats import finite
from rluf_assets.evaluation.words import number, percent, span

SLOPE, RANGE, TRANSPORT = "backtest_slope", "backtest_range", "transport"
CLAIM_GATES = ("trust", SLOPE, RANGE, TRANSPORT)


class Claim(StrEnum):
    """What offline figures may be quoted for."""

    LEVEL = "level"
    ORDER = "order"
    NOTHING = "nothing"


def claim_of(gates: Sequence[Gate]) -> tuple[Claim, str]:
    """The claim that a candidate's gates allow, and what stands in the way of more, in a few words."""
    found = {g.name: g for g in gates}
    results = {name: found[name].result if name in found else Result.NOT_MEASURED for name in CLAIM_GATES}
    lacking = [name for name in CLAIM_GATES if results[name] is not Result.PASS]
    if not lacking:
        return Claim.LEVEL, ""
    ordered = results["trust"] is Result.PASS and results[RANGE] is Result.PASS
    if ordered and Result.FAIL not in results.values():
        return Claim.ORDER, _brief(found, lacking[0])
    failed = [name for name in lacking if results[name] is Result.FAIL]
    asked = [name for name in lacking if name in ("trust", RANGE)]
    return Claim.NOTHING, _brief(found, (failed or asked or lacking)[0])


def _brief(found: Mapping[str, Gate], name: str) -> str:
    return found[name].brief if name in found else f"{name.replace('_', ' ')} is not measured"


def slope_gate(backtest: Mapping[str, Any] | None, config: ReleaseConfig) -> Gate:
    """How much of a predicted change came true in past launches, within a band around all of it."""
    title = "Predicted changes come true in size"
    value, low, high = (_at(backtest, "calibration_slope"), *_pair(backtest, "calibration_slope_ci"))
    figures: Figures = {"slope": value, "low": low, "high": high, "naive": _at(backtest, "naive_slope")}

    def gate(result: Result, detail: str, brief: str) -> Gate:
        return Gate(SLOPE, title, Kind.PREDICTION, result, detail, brief, figures)

    if backtest is None or value is None:
        count = 0 if backtest is None else backtest.get("policies") or 0
        detail = (
            f"How much of a predicted change comes true was not measured: {count} past launches say nothing about it."
        )
        return gate(Result.NOT_MEASURED, detail, "how much of a predicted change comes true is not measured")
    least, most = config.slope_band
    shown = f"{number(value)} times what was predicted came true on past launches ({_interval(low, high)})"
    if low is None or high is None:
        return gate(
            Result.NOT_SHOWN, f"{shown}: too few or too noisy to bound it.", "the backtest's slope has no interval"
        )
    if high <= 0:
        return gate(
            Result.FAIL, f"{shown}: users went against the predictions.", "past launches went against predictions"
        )
    if low >= least and high <= most:
        return gate(Result.PASS, f"{shown}, {number(least)} to {number(most)} asked.", "predicted changes came true")
    detail = f"{shown}, {number(least)} to {number(most)} asked: no size is claimed."
    return gate(Result.NOT_SHOWN, detail, "how much of a predicted change comes true is not shown")


def range_gate(
    candidate: str, love: Mapping[str, Any], backtest: Mapping[str, Any] | None, config: ReleaseConfig
) -> Gate:
    """Whether the candidate's predicted change lies among those of past launches. love: its row of the comparison."""
    title = "Its prediction lies among past ones"
    value, low, high = (finite(love.get(name)) for name in ("change", "change_low", "change_high"))
    least, most = _pair(backtest, "predicted_range")
    figures: Figures = {"change": value, "least": least, "most": most}
    if backtest is None or value is None or low is None or high is None or least is None or most is None:
        detail = "Whether its prediction lies among those of past launches was not measured."
        brief = "the range of past launches is not measured"
        return Gate(RANGE, title, Kind.PREDICTION, Result.NOT_MEASURED, detail, brief, figures)
    covered = f"the {span(least, most)} that {number(int(backtest['policies']))} past launches covered"
    shown = f"{percent(value, signed=True)} ({span(low, high)})"
    if least <= low and high <= most:
        detail = f"Its prediction lies within {covered}."
        return Gate(RANGE, title, Kind.PREDICTION, Result.PASS, detail, "its prediction lies among past ones", figures)
    if least <= value <= most:
        detail = (
            f"{candidate} may be an extrapolation: the interval of its prediction, {shown}, reaches beyond {covered}."
        )
        brief = "it may be an extrapolation beyond past launches"
    else:
        detail = (
            f"{candidate} is an extrapolation: its prediction, {shown}, lies outside {covered}; nobody has seen what "
            "comes of such predictions."
        )
        brief = "it is an extrapolation beyond past launches"
    return Gate(RANGE, title, Kind.PREDICTION, Result.NOT_SHOWN, detail, brief, figures)


def transport_gate(candidate: str, transport: pl.DataFrame, config: ReleaseConfig) -> Gate:
    """Whether the mean of what users did on its live replies equals what P[signal] says of them, within a margin."""
    title, love = "P[signal] is right about its live replies", f"P[{config.love_objective}]"
    row = next(transport.filter(pl.col("candidate") == candidate).iter_rows(named=True), None)
    value, low, high = (None if row is None else finite(row[name]) for name in ("residual", "ci_low", "ci_high"))
    figures: Figures = {"residual": value, "low": low, "high": high}
    if row is None or value is None or low is None or high is None:
        why = "it was not live, or which replies users met is not known" if row is None else row["why"] or "no interval"
        detail = f"Whether {love} is right about its replies was not measured: {why}."
        brief = f"{love} was not tested on its own live replies"
        return Gate(TRANSPORT, title, Kind.PREDICTION, Result.NOT_MEASURED, detail, brief, figures)
    left = f", {number(row['left_out'])} users left out whom {love} knows" if row["left_out"] else ""
    margin = config.max_transport_error
    shown = (
        f"on {number(row['replies'])} of them the rate that users showed is {percent(value, signed=True)} ({span(low, high)}) "
        f"from what {love} says{left}; {percent(margin)} either way is tolerated"
    )
    if -margin <= low and high <= margin:
        result, said = Result.PASS, f"{love} is right about its live replies"
    elif low > margin or high < -margin:
        result, said = Result.FAIL, f"{love} is wrong about its live replies"
    else:
        result, said = Result.NOT_SHOWN, f"{love} is not shown to be right about its live replies"
    return Gate(TRANSPORT, title, Kind.PREDICTION, result, f"{said}: {shown}.", said, figures)


def backtest_sentences(summary: Mapping[str, Any] | None) -> list[str]:
    """For the page: what came true, what was covered, what was left out, and what one would say who is blind to errors."""
    value, blind = _at(summary, "calibration_slope"), _at(summary, "naive_slope")
    if summary is None or value is None:
        return []
    told = (
        f"{number(value)} times the predicted change came true ({_interval(*_pair(summary, 'calibration_slope_ci'))})"
    )
    found = [f"{told}; blind to the errors of both one would say {number(blind)} "
             f"({_interval(*_pair(summary, 'naive_slope_ci'))})."]  # fmt: skip
    found.append(
        f"Their predictions ran from {span(*_pair(summary, 'predicted_range'))}: beyond that is extrapolation."
    )
    if summary.get("left_out"):
        found.append(f"{number(int(summary['left_out']))} replies were left out that P[signal] may have trained on.")
    return found


def _at(summary: Mapping[str, Any] | None, name: str) -> float | None:
    return None if summary is None else finite(summary.get(name))


def _pair(summary: Mapping[str, Any] | None, name: str) -> tuple[float | None, float | None]:
    low, high = (None, None) if summary is None else summary.get(name) or (None, None)
    return finite(low), finite(high)


def _interval(low: float | None, high: float | None) -> str:
    return span(low, high, as_percent=False)
