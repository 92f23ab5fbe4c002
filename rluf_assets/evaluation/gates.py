"""The gates of a release: each states what it looks at, its verdict, and the numbers in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.offline import OfflineComparison
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.words import number, percent, span

Figures = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Gate:
    """One gate: status "pass", "fail", "open" (the data do not decide) or "absent" (there is no such evidence).

    `detail` is a sentence with the numbers, `brief` the same in a few words for the conclusion.
    """

    name: str
    title: str
    status: str
    detail: str
    brief: str
    figures: Mapping[str, float | int | str | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def love_gate(candidate: str, offline: OfflineComparison, config: ReleaseConfig) -> Gate:
    """Predicted change of the signal's live rate."""
    row, love = offline.row(candidate, config.love_objective), config.love_objective
    value, low, high = row["change"], row["change_low"], row["change_high"]
    figures: Figures = {"change": value, "low": low, "high": high}
    shown = f"{percent(value, signed=True)} ({span(low, high)})"
    title = f"Predicted {love} rises"
    if low is not None and low > config.min_love_lift:
        return Gate(
            "offline_love", title, "pass", f"Predicted {love} rises: {shown}.", f"predicted {love} rises", figures
        )
    if high is not None and high < config.min_love_lift:
        return Gate(
            "offline_love", title, "fail", f"Predicted {love} falls: {shown}.", f"predicted {love} falls", figures
        )
    detail = f"Predicted {love} may not rise: {shown}."
    return Gate("offline_love", title, "open", detail, f"predicted {love} may not rise", figures)


def non_inferiority_gate(candidate: str, objective: str, margin: float, offline: OfflineComparison) -> Gate:
    """Win rate against the baseline on the same prompts, at least one half less the margin."""
    row, least = offline.row(candidate, objective), 0.5 - margin
    value, low, high = row["win_rate"], row["win_low"], row["win_high"]
    figures: Figures = {"win_rate": value, "low": low, "high": high, "least": least}
    name, title = objective.capitalize(), f"{objective.capitalize()} is not worse"
    shown = f"wins {percent(value)} of comparisons ({span(low, high, signed=False)}), at least {percent(least)} asked"
    if low is not None and low >= least:
        return Gate(objective, title, "pass", f"{name} holds: {shown}.", f"{objective} holds", figures)
    if high is not None and high < least:
        return Gate(objective, title, "fail", f"{name} falls: {shown}.", f"{objective} falls", figures)
    detail = f"{name} is not shown to hold: {shown}. Evaluate more prompts."
    return Gate(objective, title, "open", detail, f"{objective} is not shown to hold", figures)


def audit_gate(candidate: str, tripwires: pl.DataFrame) -> Gate:
    """The reward-hacking audit: a failed tripwire fails the gate, a warning leaves it open."""
    name, title = "hacking_audit", "No sign of reward hacking"
    own = tripwires.filter(pl.col("candidate") == candidate)
    if own.is_empty():
        detail = "There is no reward-hacking audit of this candidate."
        return Gate(name, title, "open", detail, "there is no reward-hacking audit")
    failed, warned = ([r for r in own.iter_rows(named=True) if r["verdict"] == v] for v in ("fail", "warn"))
    figures: Figures = {"tripwires": len(own), "failed": len(failed), "warned": len(warned)}
    if failed:
        told = _told(failed)
        return Gate(name, title, "fail", f"Reward hacking: {told}.", f"reward hacking: {_brief(failed)}", figures)
    if warned:
        told = _told(warned)
        return Gate(
            name, title, "open", f"The hacking audit warns: {told}.", f"the audit warns: {_brief(warned)}", figures
        )
    return Gate(name, title, "pass", f"No hacking tripwire of {len(own)} fired.", "no hacking tripwire fired", figures)


def ab_gate(candidate: str, readout: Readout | None) -> Gate:
    """What users did: the goal metric must rise, no guardrail may be harmed, and the test itself must be sound."""
    name, title = "ab_test", "Users agree (A/B test)"
    rows = readout.metrics.filter(pl.col("candidate") == candidate) if readout is not None else pl.DataFrame()
    if readout is None or rows.is_empty():
        return Gate(name, title, "absent", "There is no A/B test of this candidate.", "there is no A/B test yet")
    broken = readout.checks.filter((pl.col("candidate") == candidate) & (pl.col("verdict") == "fail"))
    if len(broken):
        detail = f"The A/B test is not sound: {broken['note'][0]}. Repeat it."
        return Gate(name, title, "open", detail, "the A/B test is not sound")
    overall = rows.filter(pl.col("segment") == "all")
    harmed = [r for r in overall.iter_rows(named=True) if r["verdict"] == "harm"]
    if harmed:
        told = "; ".join(f"{_name(r['metric'])} {percent(r['lift'], signed=True)}" for r in harmed)
        figures: Figures = {r["metric"]: r["lift"] for r in harmed}
        return Gate(
            name, title, "fail", f"A/B guardrails are harmed: {told}.", f"an A/B guardrail is harmed: {told}", figures
        )
    goals = overall.filter(pl.col("role") == "goal")
    if goals.is_empty():
        detail = "The A/B test did not measure the goal metric."
        return Gate(name, title, "open", detail, "the A/B test lacks the goal metric")
    return _goal_gate(name, title, goals.row(0, named=True))


def _goal_gate(name: str, title: str, goal: Mapping[str, Any]) -> Gate:
    figures: Figures = {"lift": goal["lift"], "low": goal["ci_low"], "high": goal["ci_high"], "mde": goal["mde"]}
    lift = f"{_name(goal['metric'])} {percent(goal['lift'], signed=True)}"
    shown = f"{lift} ({span(goal['ci_low'], goal['ci_high'])})"
    if goal["verdict"] == "better":
        return Gate(name, title, "pass", f"Users agree: {shown}.", f"users agree: {lift}", figures)
    if goal["verdict"] == "worse":
        return Gate(name, title, "fail", f"Users disagree: {shown}.", f"users disagree: {lift}", figures)
    mde = f"; so large a test finds {percent(goal['mde'])} or more" if goal["mde"] is not None else ""
    return Gate(
        name, title, "open", f"The A/B test does not decide: {shown}{mde}.", "its A/B test does not decide yet", figures
    )


def _told(rows: list[dict[str, Any]]) -> str:
    """The fired tripwires in words, the strongest first."""
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
