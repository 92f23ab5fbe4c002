"""What a readout's rows say under the plan: goals, corrected for their number; guardrails as they stand; the rest.

Goals of all candidates are one family against one baseline, and are tested by Holm's steps, each at the boundary of the
look (Maurer & Bretz 2013): the best is held against alpha / m, the next against alpha / (m - 1), and so on. A guardrail is
never corrected: to ask for more proof of harm because many guardrails are looked at would be to let harm through.
The best measured lift is chosen among several, so it is too high on average; `shrunk_lift` takes that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.decision import Result
from rluf_assets.evaluation.frames import ALL
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.evaluation.stats import benjamini_hochberg, sequential_factor

WORDS = {Result.PASS: "ok", Result.FAIL: "harm", Result.NOT_SHOWN: "unclear"}


def judge(rows: pl.DataFrame, config: ReadoutConfig) -> pl.DataFrame:
    """The rows with `p_adjusted`, `verdict`, and of goals `result` and `shrunk_lift`."""
    if rows.is_empty():
        return rows
    frame = _corrected(rows).with_row_index("row")
    found = {r["row"]: dict(r) for r in frame.iter_rows(named=True)}
    for row in found.values():
        row["verdict"] = _verdict(row, config.confidence)
    goals = [r for r in found.values() if r["role"] == "goal" and r["segment"] == ALL]
    for row, found_result in zip(goals, goal_results(goals, config.plan), strict=True):
        few = min(row["events_control"], row["events_treatment"]) < config.min_events
        result = Result.NOT_SHOWN if few and found_result is Result.PASS else found_result
        row["result"] = str(result)
        row["verdict"] = {Result.PASS: "better", Result.FAIL: "worse"}.get(result, "unclear")
    for name in config.plan.goals:
        same = [r for r in goals if r["metric"] == name]
        for row, lift in zip(same, shrunk([r["lift"] for r in same], [r["z"] for r in same]), strict=True):
            row["shrunk_lift"] = lift
    return pl.DataFrame(list(found.values()), schema_overrides=_types(rows), infer_schema_length=None).drop("row")


def goal_results(goals: Sequence[dict[str, Any]], plan: AbPlan) -> list[Result]:
    """Of each goal of each candidate: pass (better at its step of Holm), fail (worse, uncorrected), not shown."""
    towards = [r["z"] if r["better"] == "higher" else -r["z"] for r in goals]
    arms = len({r["candidate"] for r in goals})
    tests = max(arms, plan.candidates) * len(plan.goals)
    results = [Result.NOT_SHOWN] * len(goals)
    for k, z in enumerate(towards):
        if z <= -bound(goals[k], plan, 1):
            results[k] = Result.FAIL
    for step, k in enumerate(sorted(range(len(goals)), key=lambda i: -towards[i])):
        if not towards[k] >= bound(goals[k], plan, max(tests - step, 1)):
            break
        results[k] = Result.PASS
    return results


def bound(row: dict[str, Any], plan: AbPlan, tests: int) -> float:
    """Critical value of a goal among so many: the look's boundary, the always-valid one between looks."""
    users, alpha = row["n_control"] + row["n_treatment"], plan.alpha / tests
    on_time = plan.critical_value(users, alpha=alpha)
    return sequential_factor(users, planned=plan.planned_users, confidence=1 - alpha) if on_time is None else on_time


def shrunk(lifts: Sequence[float | None], z: Sequence[float]) -> list[float | None]:
    """Lifts drawn towards none by what noise alone would have shown: positive-part empirical Bayes over the candidates."""
    known = [(lift, lift / score) for lift, score in zip(lifts, z, strict=True) if lift is not None and score != 0]
    if not known:
        return [None] * len(lifts)
    spread = max(0.0, float(np.mean([lift**2 - error**2 for lift, error in known])))
    found: list[float | None] = []
    for lift, score in zip(lifts, z, strict=True):
        if lift is None or score == 0:
            found.append(None if lift is None else 0.0)
        else:
            found.append(lift * spread / (spread + (lift / score) ** 2))
    return found


def _corrected(rows: pl.DataFrame) -> pl.DataFrame:
    """Benjamini-Hochberg within a family: a candidate's metrics overall, and each metric over its segments."""
    family = pl.when(pl.col("segment") == ALL).then(pl.lit(ALL)).otherwise(pl.col("metric"))
    parts = [
        part.with_columns(pl.Series("p_adjusted", benjamini_hochberg(part["p_value"].to_list()), dtype=pl.Float64))
        for _, part in rows.group_by("candidate", family.alias("family"), maintain_order=True)
    ]
    return pl.concat(parts)


def _verdict(row: dict[str, Any], confidence: float) -> str:
    """better / worse / unclear after correction for the number of metrics; guardrails: ok / harm / unclear."""
    if row["role"] == "guardrail":
        return WORDS[Result(row["result"])]
    low, high = row["ci_low"], row["ci_high"]
    if low is None or high is None or row["p_adjusted"] >= 1 - confidence:
        return "unclear"
    if row["better"] == "lower":
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _types(rows: pl.DataFrame) -> dict[str, Any]:
    return {**dict(rows.schema), "p_adjusted": pl.Float64, "verdict": pl.String, "result": pl.String,
            "shrunk_lift": pl.Float64}  # fmt: skip
