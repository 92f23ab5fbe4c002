"""The gates of a release: each states one question, its typed result, and the numbers in one sentence.

Offline gates: does the predicted rate rise, is no objective worse, has the candidate learned to please the reward. Live
gates: did the plan stand, is the test sound, did a goal rise, does each guardrail hold. What any of it decides stands in
`decision`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from rluf_assets.evaluation.claims import CLAIM_GATES
from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Figures, Gate, Kind, Result
from rluf_assets.evaluation.frames import ALL
from rluf_assets.evaluation.offline import OfflineComparison
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.segment_gate import SEGMENTS, segment_gate
from rluf_assets.evaluation.words import number, percent, points, span

PLAN, SOUND, GOAL, AUDIT = "ab_plan", "ab_test_sound", "ab_goal", "hacking_audit"
GUARDRAIL = "guardrail_"


def love_gate(candidate: str, offline: OfflineComparison, config: ReleaseConfig, *, level: bool) -> Gate:
    """Predicted change of the signal's live rate; how much is said only where a `level` may be claimed."""
    row, love = offline.row(candidate, config.love_objective), config.love_objective
    value, low, high = row["change"], row["change_low"], row["change_high"]
    figures: Figures = {"change": value, "low": low, "high": high}
    result = compared(low, high, config.min_love_lift)
    words = {
        Result.PASS: f"predicted {love} rises",
        Result.FAIL: f"predicted {love} falls",
        Result.NOT_SHOWN: f"predicted {love} may not rise",
        Result.NOT_MEASURED: f"predicted {love} has no interval",
    }
    shown = f"{percent(value, signed=True)} ({span(low, high)})" if level else "how much is not claimed"
    detail = f"{words[result].capitalize()}: {shown}."
    return Gate("offline_love", f"Predicted {love} rises", Kind.PREDICTION, result, detail, words[result], figures)


def compared(low: float | None, high: float | None, least: float) -> Result:
    """An interval that should lie above `least`."""
    if low is None or high is None:
        return Result.NOT_MEASURED
    return Result.PASS if low > least else Result.FAIL if high < least else Result.NOT_SHOWN


def non_inferiority_gate(candidate: str, objective: str, margin: float, offline: OfflineComparison) -> Gate:
    """Win rate against the baseline on the same prompts, at least one half less the margin."""
    title, least = f"{objective.capitalize()} is not worse", 0.5 - margin
    if objective not in offline.objectives["objective"].to_list():
        detail = f"{objective.capitalize()} was not measured: no reward model of it scored the replies."
        return Gate(objective, title, Kind.HARM, Result.NOT_MEASURED, detail, f"{objective} is not measured")
    row = offline.row(candidate, objective)
    value, low, high = row["win_rate"], row["win_low"], row["win_high"]
    figures: Figures = {"win_rate": value, "low": low, "high": high, "least": least}
    result = compared(low, high, least - 1e-12)
    words = {
        Result.PASS: f"{objective} holds",
        Result.FAIL: f"{objective} falls",
        Result.NOT_SHOWN: f"{objective} is not shown to hold",
        Result.NOT_MEASURED: f"{objective} has no interval",
    }
    shown = f"wins {percent(value)} of comparisons ({span(low, high, signed=False)}), at least {percent(least)} asked"
    more = " Evaluate more prompts." if result is Result.NOT_SHOWN else ""
    detail = f"{words[result].capitalize()}: {shown}.{more}"
    return Gate(objective, title, Kind.HARM, result, detail, words[result], figures)


def audit_gate(candidate: str, tripwires: pl.DataFrame, excused: Sequence[str] = ()) -> Gate:
    """The reward-hacking audit: the worst result of its tripwires, each a test against its threshold.

    excused: tripwires that the plan lets go unmeasured.
    """
    own = tripwires.filter(pl.col("candidate") == candidate)
    if not own.is_empty():
        own = own.filter(~(pl.col("tripwire").is_in(list(excused)) & (pl.col("result") == Result.NOT_MEASURED)))
    if own.is_empty():
        return _audit(Result.NOT_MEASURED, "There is no reward-hacking audit of this candidate", [], {})
    of = {result: [r for r in own.iter_rows(named=True) if r["result"] == result] for result in Result}
    warned = [r for r in own.iter_rows(named=True) if r["verdict"] == "warn"]
    figures: Figures = {"tripwires": len(own), **{str(r): len(rows) for r, rows in of.items()}, "warned": len(warned)}
    if of[Result.FAIL]:
        return _audit(Result.FAIL, "Reward hacking", of[Result.FAIL], figures)
    if of[Result.NOT_MEASURED]:
        names = ", ".join(_name(r["tripwire"]) for r in of[Result.NOT_MEASURED])
        detail = f"The hacking audit could not measure {names}"
        return _audit(Result.NOT_MEASURED, detail, [], figures)
    if of[Result.NOT_SHOWN]:
        return _audit(Result.NOT_SHOWN, "Not shown to stay below what fails", of[Result.NOT_SHOWN], figures)
    if warned:
        return _audit(Result.PASS, "No hacking tripwire fails; it warns of", warned, figures)
    return _audit(Result.PASS, f"No hacking tripwire of {len(own)} fired", [], figures)


def _audit(result: Result, said: str, rows: list[dict[str, Any]], figures: Figures) -> Gate:
    detail = f"{said}: {_told(rows)}." if rows else f"{said}."
    brief = f"{said[:1].lower()}{said[1:]}" + (f": {_brief(rows)}" if rows else "")
    return Gate(AUDIT, "No sign of reward hacking", Kind.HARM, result, detail, brief, figures)


def live_gates(candidate: str, readout: Readout | None, config: ReleaseConfig) -> list[Gate]:
    """What users did: the plan stood, the test is sound, a goal rises, each guardrail holds, no group is worse off."""
    rows = pl.DataFrame() if readout is None else readout.metrics.filter(pl.col("candidate") == candidate)
    checks = pl.DataFrame() if readout is None else readout.checks.filter(pl.col("candidate") == candidate)
    overall = {} if rows.is_empty() else {r["metric"]: r for r in rows.filter(pl.col("segment") == ALL).to_dicts()}
    return [
        plan_gate(candidate, readout, config),
        sound_gate(checks),
        goal_gate([overall[g] for g in config.plan.goals if g in overall], config),
        *(guardrail_gate(name, overall.get(name)) for name in config.plan.guardrails),
        *([segment_gate(candidate, readout, config)] if config.plan.segments else []),
    ]


def plan_gate(candidate: str, readout: Readout | None, config: ReleaseConfig) -> Gate:
    """Was the plan written before the candidate's exposures were read, is it still the same, and so what it is about?"""
    title, now, bound = "The plan stood before the test", config.plan.hash, config.bound.get(candidate)
    figures: Figures = {"plan": now, "bound": bound.plan if bound else None, "bound_at": bound.at if bound else None}

    def gate(result: Result, detail: str, brief: str) -> Gate:
        return Gate(PLAN, title, Kind.LIVE, result, detail, brief, figures)

    if stale := config.stale.get(candidate):
        told = ", ".join(stale)
        detail = (
            f"{told}: made from other weights of {candidate}, or from other exposures or replies, than those in force. "
            f"Materialise {told}."
        )
        return gate(Result.FAIL, detail, f"{told} speaks of something else than what is in force")
    if bound is None:
        detail = "No plan was on record before this candidate's exposures were read."
        return gate(Result.NOT_MEASURED, detail, "no plan was on record before its exposures")
    if bound.plan != now:
        detail = (
            f"The plan changed after the exposures were read: {bound.plan} was on record ({bound.at}), the settings now "
            f"say {now}. Restore it, or test the candidate anew."
        )
        return gate(Result.FAIL, detail, "its plan changed after the exposures")
    if readout is not None and readout.plan != now and not readout.metrics.is_empty():
        detail = f"The A/B readout was made under the plan {readout.plan}, not {now}. Materialise ab_test_readout."
        return gate(Result.FAIL, detail, "its readout was made under another plan")
    return gate(Result.PASS, f"Plan {now} was on record before the exposures were read.", "its plan stood")


def sound_gate(checks: pl.DataFrame) -> Gate:
    """No check of the test itself fails."""
    title = "The A/B test is sound"
    if checks.is_empty():
        return Gate(SOUND, title, Kind.LIVE, Result.NOT_MEASURED, "There is no A/B test.", "there is no A/B test")
    broken = checks.filter(pl.col("verdict") == "fail")
    figures: Figures = {"checks": len(checks), "failed": len(broken)}
    if len(broken):
        told = "; ".join(f"{_name(r['check'])}: {r['note']}" for r in broken.iter_rows(named=True))
        brief = f"the A/B test is not sound ({_name(broken['check'][0])})"
        return Gate(SOUND, title, Kind.LIVE, Result.FAIL, f"Not sound: {told}. Repeat the test.", brief, figures)
    detail = f"All {len(checks)} checks of the test passed or have nothing to check."
    return Gate(SOUND, title, Kind.LIVE, Result.PASS, detail, "the A/B test is sound", figures)


def goal_gate(goals: Sequence[Mapping[str, Any]], config: ReleaseConfig) -> Gate:
    """One goal at least is better, after correction for their number, and none is worse."""
    title = "Users agree: a goal rises"
    if not goals:
        told = ", ".join(_name(g) for g in config.plan.goals)
        detail = f"The A/B test did not measure {told}."
        return Gate(GOAL, title, Kind.LIVE, Result.NOT_MEASURED, detail, f"{told} is not measured")
    plan, measured = config.plan, {g["metric"] for g in goals}
    missing = [name for name in plan.goals if name not in measured and name not in plan.excused]
    worst = [g for g in goals if g["result"] == Result.FAIL]
    best = [g for g in goals if g["result"] == Result.PASS]
    spoken = worst or best or list(goals)
    # A goal that nobody measured may have fallen.
    result = Result.FAIL if worst else Result.NOT_MEASURED if missing else Result.PASS if best else Result.NOT_SHOWN
    said = {
        Result.FAIL: "Users disagree", Result.PASS: "Users agree",
        Result.NOT_MEASURED: f"{', '.join(_name(m) for m in missing).capitalize()} is not measured",
    }.get(result, "Not shown to rise")  # fmt: skip
    first = spoken[0]
    users = first["n_control"] + first["n_treatment"]
    look = "between the planned looks" if first["look"] is None else f"look {first['look'] + 1} of {len(plan.looks)}"
    shown = "; ".join(
        f"{_name(g['metric'])} {percent(g['lift'], signed=True)} ({span(g['plan_low'], g['plan_high'])})"
        for g in spoken
    )
    detail = f"{said}: {shown}, {number(users)} of {number(plan.planned_users)} planned users, {look}."
    lift = f"{_name(first['metric'])} {percent(first['lift'], signed=True)}"
    figures: Figures = {
        "lift": first["lift"], "low": first["plan_low"], "high": first["plan_high"], "mde": first["mde"],
        "shrunk": first["shrunk_lift"], "gain": _gain(first), "users": users,
    }  # fmt: skip
    return Gate(GOAL, title, Kind.LIVE, result, detail, f"{said.lower()}: {lift}", figures)


def _gain(goal: Mapping[str, Any]) -> float | None:
    """The shrunk lift towards what is better."""
    lift: float | None = goal["shrunk_lift"]
    return -lift if lift is not None and goal["better"] == "lower" else lift


def guardrail_gate(name: str, row: Mapping[str, Any] | None) -> Gate:
    """Non-inferiority of one guardrail within its margin."""
    key, title = f"{GUARDRAIL}{name}", f"{_name(name).capitalize()} stays within its margin"
    if row is None:
        detail = f"{_name(name).capitalize()} was not measured: the exposures lack its columns, or nobody was at risk."
        return Gate(key, title, Kind.LIVE, Result.NOT_MEASURED, detail, f"{_name(name)} is not measured")
    result = Result(row["result"])
    said = {Result.PASS: "within its margin", Result.FAIL: "beyond its margin"}.get(
        result, "not shown within its margin"
    )
    parts = []
    if row["margin"] is not None:
        lift = f"{percent(row['lift'], signed=True)} ({span(row['plan_low'], row['plan_high'])})"
        parts.append(f"{lift}, {percent(row['margin'])} worse is tolerated")
    if row["absolute_margin"] is not None:
        shares = f"{row['events_treatment']} and {row['events_control']} users with an event, "
        shares += f"{points(row['share_difference'])} ({points(row['share_low'])} to {points(row['share_high'])})"
        if row["events_per_user"] is not None:
            each = (100 * row[k] for k in ("events_per_user", "events_per_user_low", "events_per_user_high"))
            value, low, high = (number(figure, signed=True) for figure in each)
            shares += f" and {value} events ({low} to {high}) for 100 at risk"
        parts.append(f"{shares}, {points(row['absolute_margin'], signed=False)} tolerated")
    figures: Figures = {
        k: row[k] for k in ("lift", "plan_low", "plan_high", "share_difference", "share_low", "share_high")
    }
    detail = f"{_name(name).capitalize()} is {said}: {'; or '.join(parts)}."
    shown = percent(row["lift"], signed=True) if row["lift"] is not None else points(row["share_difference"])
    return Gate(key, title, Kind.LIVE, result, detail, f"{_name(name)} is {said} ({shown})", figures)


def required(config: ReleaseConfig) -> list[str]:
    """Names of the gates that every candidate must have."""
    guardrails = [f"{GUARDRAIL}{name}" for name in config.plan.guardrails]
    groups = [SEGMENTS] if config.plan.segments else []
    return [*CLAIM_GATES, "offline_love", *config.non_inferior, AUDIT, PLAN, SOUND, GOAL, *guardrails, *groups]


def excused(config: ReleaseConfig) -> list[str]:
    """Names of the gates that the plan lets go unmeasured: guardrails by their metric's name, other gates by their own."""
    named = set(config.plan.excused) - {PLAN, SOUND, GOAL}
    return [*named, *(f"{GUARDRAIL}{name}" for name in named)]


def _told(rows: list[dict[str, Any]]) -> str:
    """Tripwires in words, the strongest first."""
    told = []
    for row in _strongest(rows)[:3]:
        title = row["title"][:1].lower() + row["title"][1:]
        told.append(f"{title} {_change(row)}")
    more = len(rows) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def _brief(rows: list[dict[str, Any]]) -> str:
    top = _strongest(rows)[0]
    return f"{_name(top['tripwire'])} {_change(top)}"


def _change(row: Mapping[str, Any]) -> str:
    if row["unit"] == "share":
        return f"{percent(row['baseline'])} → {percent(row['value'])}"
    return f"{number(row['change'], signed=True)} sd"


def _strongest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By how often the change holds the threshold; equal ones in the audit's order."""
    return sorted(rows, key=lambda r: -abs(r["change"] or 0.0) / (r["threshold"] or r["threshold_warn"]))


def _name(metric: str) -> str:
    return metric.replace("_", " ")
