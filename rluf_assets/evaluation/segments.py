"""For whom is it worse? Every judged metric of an A/B test by group of users: use case, new and established users, locale.

Three questions about each group and metric, in this order:

1. Is it worse at all? Holm's steps over all groups and metrics, each at the boundary of the plan's look. So a test in which
   nobody is worse off is called at most as often as the plan's alpha says, however many groups there are.
2. If so, is it beyond the margin? Only if the interval after partial pooling is: groups of a kind are drawn towards what they
   show together, by how much they differ beyond noise (empirical Bayes; Paule & Mandel 1982), for the worst of many looks
   worse than it is. Then the group fails.
3. Or within the margin? Only if the group's own interval is, before pooling. What is neither is not shown, and holds.

A group that is not shown to be worse passes: it does not have to prove that it is fine. Groups are small, and to ask each for
that proof would hold every candidate; that users are fine is what guardrails prove, over all of them. Margins are the
guardrails' own; of a goal, what the plan wants it to rise by. Use cases share users, and count as independent groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.evaluation.clustering import reply_log
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.decision import Result
from rluf_assets.evaluation.exposures import UNKNOWN, Arm
from rluf_assets.evaluation.judging import bound
from rluf_assets.evaluation.metric import decisive

USE_CASE, NEW_USER = "use_case", "new_user"
KNOWN = (USE_CASE, NEW_USER, "locale", "platform")
HISTORY = "pre_replies"
SEGMENT_SCHEMA: dict[str, Any] = {
    "candidate": pl.String, "trait": pl.String, "group": pl.String, "metric": pl.String, "role": pl.String,
    "better": pl.String, "judged": pl.Boolean, "n_control": pl.Int64, "n_treatment": pl.Int64, "lift": pl.Float64,
    "pooled_lift": pl.Float64, "pooled_low": pl.Float64, "pooled_high": pl.Float64, "share_difference": pl.Float64,
    "z": pl.Float64, "worse": pl.Boolean, "margin": pl.Float64, "absolute_margin": pl.Float64, "result": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class Worsening:
    """How much worse a group is on one scale (of the control, or of users at risk), and how much is tolerated."""

    value: float
    error: float
    margin: float


def groups_of_users(
    name: str, exposures: Mapping[str, pl.DataFrame], arm: Arm, base: Arm, config: ReadoutConfig
) -> Iterator[tuple[str, str, Arm, Arm]]:
    """Trait, group and both arms' users in it, for every trait of users that both arms' exposures hold."""
    for trait in dict.fromkeys((*config.plan.segments, *KNOWN)):
        values = [_values(exposures[n], trait) for n in (name, config.baseline) if trait != USE_CASE]
        held = [v for v in values if v is not None]
        if len(held) < 2:
            continue
        found = sorted({g for values in held for g in values["group"].drop_nulls()})  # one arm may lack a group
        for group in found if set(found) - {UNKNOWN} else ():
            ours, theirs = (_within(name, a, v, group) for a, v in zip((arm, base), held, strict=True))
            yield trait, group, ours, theirs


def _values(frame: pl.DataFrame, trait: str) -> pl.DataFrame | None:
    """user_id and group, UNKNOWN for users without a value; null with several; None where the exposures do not say."""
    if trait in frame.columns:
        value = pl.col(trait)
    elif trait == NEW_USER and HISTORY in frame.columns:
        value = pl.col(HISTORY) == 0
    else:
        return None
    text = value.cast(pl.String)
    if trait == NEW_USER:
        text = text.replace({"true": "new", "1": "new", "false": "established", "0": "established"})
    of = frame.select("user_id", group=text).group_by("user_id")
    one = pl.col("group").drop_nulls()
    told = pl.when(one.n_unique() == 0).then(pl.lit(UNKNOWN)).when(one.n_unique() == 1).then(one.first())
    return of.agg(group=told)


def _within(name: str, arm: Arm, values: pl.DataFrame, group: str) -> Arm:
    members = values.filter(pl.col("group") == group).select("user_id")
    users = arm.users.join(members, on="user_id", how="semi", maintain_order="left")
    log = None if arm.log is None else arm.log.frame.join(members, on="user_id", how="semi", maintain_order="left")
    return Arm(users, None if log is None else reply_log(name, log, users))


def cells(trait: str, group: str, rows: Iterable[Mapping[str, Any]], config: ReadoutConfig) -> Iterator[dict[str, Any]]:
    """One cell per judged metric of a group, from its readout rows."""
    for row in rows:
        if row["role"] == "diagnostic":
            continue
        margin = config.plan.minimum_detectable_effect if row["role"] == "goal" else row["margin"]
        shown = ("candidate", "metric", "role", "better", "n_control", "n_treatment", "lift", "share_difference")
        yield {
            "trait": trait, "group": group, "judged": trait in config.plan.segments, "margin": margin,
            "absolute_margin": row["absolute_margin"], **{k: row[k] for k in shown}, **_evidence(row, margin, config),
        }  # fmt: skip


def too_small(candidate: str, trait: str, group: str, ours: Arm, theirs: Arm, config: ReadoutConfig) -> dict[str, Any]:
    """A group that has too few users to be read, told as such."""
    return {
        "candidate": candidate, "trait": trait, "group": group, "judged": trait in config.plan.segments,
        "n_control": len(theirs.users), "n_treatment": len(ours.users), "result": str(Result.NOT_MEASURED),
    }  # fmt: skip


def _evidence(row: Mapping[str, Any], margin: float | None, config: ReadoutConfig) -> dict[str, Any]:
    """How much worse on each scale that is defined, and the score of being worse at all; none with too few events."""
    sign = -1.0 if row["better"] == "higher" else 1.0
    scales: dict[str, Worsening] = {}
    fewest, most = sorted((row["events_control"], row["events_treatment"]))
    if margin is not None and row["lift"] is not None and row["lift_error"] and fewest >= config.min_events:
        scales["relative"] = Worsening(sign * row["lift"], row["lift_error"], margin)
    if row["absolute_margin"] is not None and row["share_low"] is not None:
        critical = decisive(row["n_control"] + row["n_treatment"], config.plan)
        known = [(row["share_difference"], row["share_low"], row["share_high"])]
        if row["events_per_user"] is not None:
            known.append((row["events_per_user"], row["events_per_user_low"], row["events_per_user_high"]))
        both = [Worsening(sign * v, (high - low) / (2 * critical), row["absolute_margin"]) for v, low, high in known]
        scales["absolute"] = max(both, key=lambda worse: worse.value + critical * worse.error)
    z = None
    if most >= config.min_events and (margin is not None or "absolute" not in scales):
        z = sign * row["z"]
    elif "absolute" in scales and scales["absolute"].error > 0:
        z = scales["absolute"].value / scales["absolute"].error
    return {"scales": scales, "z": z}


def judge_segments(found: Sequence[dict[str, Any]], config: ReadoutConfig, users: int) -> pl.DataFrame:
    """One row per group and judged metric of a candidate, SEGMENT_SCHEMA; users: of the whole test, which give the look."""
    whole = {"n_control": users, "n_treatment": 0}
    once = bound(whole, config.plan, 1)
    measured = [c for c in found if c.get("z") is not None]
    _pool(measured)
    for judged in (True, False):
        family = sorted((c for c in measured if c["judged"] is judged), key=lambda c: -c["z"])
        stopped = False
        for step, cell in enumerate(family):
            stopped = stopped or cell["z"] < bound(whole, config.plan, len(family) - step)
            cell["worse"] = not stopped
            cell["result"] = str(Result.PASS if stopped else _size(cell, once))
    rows = []
    for cell in found:
        pooled = cell.get("pooled", {}).get("relative")
        sign = -1.0 if cell.get("better") == "higher" else 1.0
        ends = [] if pooled is None else sorted(sign * (pooled.value + k * once * pooled.error) for k in (-1, 1))
        figures = (
            {}
            if pooled is None
            else {"pooled_lift": sign * pooled.value, "pooled_low": ends[0], "pooled_high": ends[1]}
        )
        rows.append({"result": str(Result.NOT_MEASURED), "worse": False, **cell, **figures})
    return pl.DataFrame([{c: r.get(c) for c in SEGMENT_SCHEMA} for r in rows], schema=SEGMENT_SCHEMA)


def _size(cell: Mapping[str, Any], critical: float) -> Result:
    """Of a group that is worse: fail beyond every margin after pooling, pass within one before it, else not shown."""
    own, pooled = cell["scales"].values(), cell["pooled"].values()
    if any(w.value + critical * w.error <= w.margin for w in own):
        return Result.PASS
    if pooled and all(w.value - critical * w.error > w.margin for w in pooled):
        return Result.FAIL
    return Result.NOT_SHOWN


def _pool(measured: Sequence[dict[str, Any]]) -> None:
    """Adds `pooled`: each group drawn towards what all groups of its trait show together, on each scale."""
    for cell in measured:
        cell["pooled"] = {}
    for trait, metric in dict.fromkeys((c["trait"], c["metric"]) for c in measured):
        for scale in ("relative", "absolute"):
            same = [c for c in measured if (c["trait"], c["metric"]) == (trait, metric) and scale in c["scales"]]
            same = [c for c in same if c["scales"][scale].error > 0]
            known = [c["scales"][scale] for c in same]
            for cell, worse in zip(same, partially_pooled(known), strict=True):
                cell["pooled"][scale] = worse


def partially_pooled(known: Sequence[Worsening]) -> list[Worsening]:
    """Each drawn towards the mean of all, by their spread beyond noise; the interval keeps the mean's own error."""
    if len(known) < 2:
        return list(known)
    from statsmodels.stats.meta_analysis import combine_effects

    effects, noise = np.array([w.value for w in known]), np.array([w.error**2 for w in known])
    # By Paule and Mandel: a large group that is precise does not drown the spread that a small one shows.
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = max(0.0, float(combine_effects(effects, noise, method_re="pm").tau2))
    weight = 1 / (noise + spread)
    mean, error = float(np.average(effects, weights=weight)), float(1 / weight.sum())
    own = spread / (noise + spread)
    values, errors = own * effects + (1 - own) * mean, np.sqrt(own * noise + (1 - own) ** 2 * error)
    return [Worsening(float(v), float(e), w.margin) for v, e, w in zip(values, errors, known, strict=True)]
