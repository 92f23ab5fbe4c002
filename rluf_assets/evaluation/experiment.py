"""Is an A/B test sound? Who is left out of it by plan, and the checks whose failure holds a candidate.

Sample ratio overall, by day and by segment; users in more than one arm; pre-period balance; the same filter in both arms.
Warnings beside them: one user's traffic, metrics without events. A check that fails says that the arms differ in more than
the policy, so that no figure of the test can be believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import (
    FILTER,
    FIRST,
    HISTORY,
    UNKNOWN,
    Arm,
    covariates_of,
    metric_columns,
    over_known,
)
from rluf_assets.evaluation.plan import AbPlan

CHECK_SCHEMA = {"candidate": pl.String(), "check": pl.String(), "verdict": pl.String(), "note": pl.String()}
# Traits of users that no arm can change; a use case is what users do with an arm, so it may shift without a fault.
TRAITS = ("locale", "platform", "new_user")
DURATION = "planned_days"
MIN_EXPECTED = 5  # users expected in each cell, below which chi-square says nothing


def require_planned(exposures: Mapping[str, pl.DataFrame], config: ReadoutConfig) -> None:
    """Raise ConfigError where planned shares name some of the arms only (what the others should get is then unknown), or
    counts are to be cut of a metric that nobody defines."""
    plan = config.plan
    if unknown := sorted(set(plan.winsorise) - {m.name for m in config.metrics}):
        known = [m.name for m in config.metrics]
        raise ConfigError(f"ab_plan.winsorise: found {unknown}, expected metrics of ab_test_readout.metrics: {known}.")
    missing = sorted(set(exposures) - set(plan.planned_shares))
    if plan.planned_shares and missing:
        raise ConfigError(
            f"ab_plan.planned_shares: found shares for {sorted(plan.planned_shares)} and none for {missing}, expected one "
            "for every arm. Name them all, or none where all arms get the same."
        )


def excluded(exposures: Mapping[str, pl.DataFrame], plan: AbPlan) -> Mapping[str, pl.DataFrame]:
    """The exposures without the users whom the plan leaves out; the same object where it leaves out nobody."""
    out = set()
    if FILTER in plan.exclude:
        flagged = [f.filter(FILTER)["user_id"] for f in exposures.values() if FILTER in f.columns]
        out |= {user for users in flagged for user in users}
    if "users_in_both_arms" in plan.exclude and plan.design == "parallel":
        out |= crossing(exposures)
    if not out:
        return exposures
    gone = pl.Series("user_id", sorted(out, key=str)).implode()
    return {name: frame.filter(~pl.col("user_id").is_in(gone)) for name, frame in exposures.items()}


def crossing(exposures: Mapping[str, pl.DataFrame]) -> set[Any]:
    """Users in more than one arm of the test."""
    met = pl.concat([f.select("user_id").drop_nulls().unique() for f in exposures.values()])
    return set(met.filter(pl.col("user_id").is_duplicated())["user_id"])


def check_test(
    name: str, exposures: Mapping[str, pl.DataFrame], arms: Mapping[str, Arm | None], config: ReadoutConfig
) -> list[dict[str, Any]]:
    """One row per check of a candidate's test against the baseline; verdict fail, warn, info or ok."""
    plan, pair = config.plan, (name, config.baseline)
    frames = [exposures[n] for n in pair]
    checks = [
        *_ratio_checks(name, frames, config),
        _crossing_check(name, exposures, config),
        _filter_check(name, frames, plan),
    ]
    ours, theirs = arms[name], arms[config.baseline]
    checks.append(_duration_check(name, frames, [a for a in (ours, theirs) if a is not None], plan))
    if ours is None or theirs is None:
        who = name if ours is None else config.baseline
        note = f"nobody is left in {who} after the plan's exclusions"
        return [*checks, _check(name, "users_left", False, note)]
    if plan.design == "parallel":
        checks.append(_balance_check(name, ours, theirs, config))
    return [*checks, *_measured_checks(name, ours, theirs, config)]


def _ratio_checks(name: str, frames: list[pl.DataFrame], config: ReadoutConfig) -> list[dict[str, Any]]:
    """Do the arms have the shares of users that were planned: in all, on every day, in every segment of users?"""
    users = [f.unique("user_id", keep="first", maintain_order=True) for f in frames]
    planned = [config.plan.planned_shares.get(n, 1.0) for n in (name, config.baseline)]
    counts = [len(u) for u in users]
    p = _ratio_p([counts], planned)
    checks = [
        _check(
            name, "sample_ratio", p >= config.srm_p_value,
            f"{counts[0]} users in the arm, {counts[1]} in the baseline's (p = {p:.3g})",
        )
    ]  # fmt: skip
    if config.plan.design == "paired":
        return checks
    strata: list[tuple[str, pl.Expr]] = []
    if all(FIRST in u.columns for u in users):
        strata.append(("day", pl.col(FIRST)))
    strata += [(trait, pl.col(trait)) for trait in TRAITS if all(trait in u.columns for u in users)]
    for what, of in strata:
        cells = _cells(users, of)
        if set(cells) == {UNKNOWN}:
            checks.append(_check(name, f"sample_ratio_by_{what}", False, f"no user has a {what}", fails="info"))
            continue
        p = _ratio_p(cells.values(), planned)
        worst = min(cells, key=lambda k: _ratio_p([cells[k]], planned), default=None)
        told = "" if worst is None else f"; furthest off: {worst} with {cells[worst][0]} and {cells[worst][1]} users"
        note = f"over {len(cells)} values of {what} (p = {p:.3g}){told}"
        checks.append(_check(name, f"sample_ratio_by_{what}", p >= config.srm_p_value, note))
    return checks


def _cells(users: list[pl.DataFrame], of: pl.Expr) -> dict[str, list[int]]:
    """Users of both arms by value; those without one are a cell too, for an arm may have lost them."""
    counted = [u.group_by(of.cast(pl.String).fill_null(UNKNOWN).alias("value")).len() for u in users]
    both = counted[0].join(counted[1], on="value", how="full", coalesce=True, suffix="_base").fill_null(0).sort("value")
    return {str(value): [ours, theirs] for value, ours, theirs in both.iter_rows()}


def _ratio_p(cells: Iterable[list[int]], planned: list[float]) -> float:
    """p-value of the cells together: one chi-square per cell, the smallest corrected for their number; 1 without any.

    Cells too small for chi-square are added up, and what is still too small is tested exactly: that hardly anybody was
    expected in an arm is no reason not to look whether many came.
    """
    from scipy.stats import binomtest, chisquare

    share = np.array(planned) / sum(planned)
    known = [np.array(c) for c in cells if sum(c) > 0]
    large = [c for c in known if min(c.sum() * share) >= MIN_EXPECTED]
    p = [float(chisquare(c, c.sum() * share).pvalue) for c in large]
    small = [c for c in known if min(c.sum() * share) < MIN_EXPECTED]
    if small:
        first, both = int(sum(c[0] for c in small)), int(sum(c.sum() for c in small))
        p.append(float(binomtest(first, both, float(share[0])).pvalue))
    return min(1.0, len(p) * min(p)) if p else 1.0


def _crossing_check(name: str, exposures: Mapping[str, pl.DataFrame], config: ReadoutConfig) -> dict[str, Any]:
    crossed = crossing(exposures)  # with any arm of the test: users who met another candidate are left out of it too
    users = [set(exposures[n]["user_id"]) for n in (name, config.baseline)]
    share = max(len(u & crossed) / max(len(u), 1) for u in users)
    overlap = len(crossed & (users[0] | users[1]))
    if config.plan.design == "paired":
        note = f"{overlap} users are in both arms: compared as pairs, as the plan says"
        return _check(name, "users_in_one_arm", True, note)
    out = "left out" if "users_in_both_arms" in config.plan.exclude else "kept: the plan does not exclude them"
    told = f": {out}" if overlap else ""
    note = f"{overlap} of the two arms' users are in another arm too (up to {share:.1%} of an arm){told}"
    return _check(name, "users_in_one_arm", share <= config.max_crossing, note)


def _filter_check(name: str, frames: list[pl.DataFrame], plan: AbPlan) -> dict[str, Any]:
    """The same filter of bots and adversarial users in both arms, and it must not have caught more in one of them."""
    from scipy.stats import chi2_contingency

    has = [FILTER in f.columns for f in frames]
    if not any(has):
        return _check(
            name, "same_filter", False, "no arm says which of its users are bots or adversarial", fails="info"
        )
    if not all(has):
        return _check(
            name, "same_filter", False, "only one arm names its bots and adversarial users: filter both alike"
        )
    caught = [f.group_by("user_id").agg(pl.col(FILTER).any())[FILTER] for f in frames]
    table = np.array([[int(c.sum()), int((~c).sum())] for c in caught])
    p = float(chi2_contingency(table).pvalue) if table.sum(axis=0).min() > 0 and table.sum(axis=1).min() > 0 else 1.0
    shares = [float(c.mean() or 0.0) for c in caught]  # type: ignore[arg-type]
    out = "left out" if FILTER in plan.exclude else "kept: the plan does not exclude them"
    note = f"{shares[0]:.2%} of the arm's users and {shares[1]:.2%} of the baseline's are flagged (p = {p:.3g}), {out}"
    return _check(name, "same_filter", p >= 0.001, note)


def _duration_check(name: str, frames: list[pl.DataFrame], arms: list[Arm], plan: AbPlan) -> dict[str, Any]:
    """Did the test run for the days that were planned for as many users? A week that was not looked at may be another week.

    Counted are the different days on which users came for the first time, or since then were shown replies, whichever are
    more: one date that is wrong by a year is one day, not a year.
    """
    came = [f[FIRST].drop_nulls() for f in frames if FIRST in f.columns]
    shown = [a.log.frame["day"] for a in arms if a.log is not None and "day" in a.log.frame.columns]
    days = max((pl.concat(known).n_unique() for known in (came, shown) if known), default=0)
    users = sum(f["user_id"].n_unique() for f in frames)
    due = int(plan.planned_days * min(users / plan.planned_users, 1.0) + 1e-9)
    if not days:
        note = f"nobody knows for how many days it ran: {FIRST} is not in the exposures; {due} days were planned"
        return _check(name, DURATION, DURATION in plan.excused or due <= 1, note)
    note = f"{days} days with {users:,} users; the plan gives so many users {due} days"
    return _check(name, DURATION, days >= due, note)


def _balance_check(name: str, arm: Arm, base: Arm, config: ReadoutConfig) -> dict[str, Any]:
    """Did the arms' users behave alike before the test?"""
    from scipy.stats import ttest_ind

    # All that the figures may be adjusted by: a column that the test itself has touched would move them.
    history = [c for c in arm.users.columns if c.startswith(HISTORY) and c not in config.covariates]
    whole = config.model_copy(update={"covariates": (*config.covariates, *history)})
    columns = covariates_of(whole, arm.users, base.users)
    if not columns or min(len(arm.users), len(base.users)) < 2:
        return _check(name, "pre_period_balance", False, "no pre-period to compare the arms by", fails="info")
    found = {c: float(ttest_ind(arm.values(c), base.values(c), equal_var=False).pvalue) for c in columns}
    p = {c: value if np.isfinite(value) else 1.0 for c, value in found.items()}
    worst = min(p, key=lambda c: p[c])
    note = f"{worst}: {arm.values(worst).mean():.4g} and {base.values(worst).mean():.4g} a user (p = {p[worst]:.3g})"
    return _check(name, "pre_period_balance", p[worst] * len(p) >= config.srm_p_value, note)


def _measured_checks(name: str, arm: Arm, base: Arm, config: ReadoutConfig) -> list[dict[str, Any]]:
    heaviest = max(float(r.max() / max(r.sum(), 1.0)) for r in (a.values("replies") for a in (arm, base)))
    metrics = [over_known(m, arm.users, base.users) for m in config.metrics]
    missing = [m.name for m in metrics if not (_measured(m, arm) and _measured(m, base))]
    missing += config.undefined
    silent = [m.name for m in metrics if m.name not in missing and _no_events(m, arm, base)]
    shared = arm.log is not None and base.log is not None
    return [
        _check(
            name, "traffic_spread", heaviest <= config.max_user_share,
            f"the heaviest user holds {heaviest:.1%} of an arm's replies", fails="warn",
        ),
        _check(
            name, "replies_shared", True,
            f"users share {_distinct(arm)} replies: intervals are clustered by user and by reply" if shared
            else "every exposure counts as a reply of its own: intervals are clustered by user",
        ),
        _check(
            name, "metrics_measured", not missing,
            f"not in the exposures: {', '.join(missing)}" if missing else "all metrics are measured", fails="info",
        ),
        _check(
            name, "events_in_both_arms", not silent,
            f"no events in an arm, no lift stated: {', '.join(silent)}" if silent else "every metric has events",
            fails="warn",
        ),
    ]  # fmt: skip


def _distinct(arm: Arm) -> int:
    return 0 if arm.log is None else int(arm.log.frame["reply_id"].n_unique())


def _measured(metric: Metric, arm: Arm) -> bool:
    return metric_columns(arm.users, metric) and bool(arm.values(metric.denominator).sum() > 0)


def _no_events(metric: Metric, arm: Arm, base: Arm) -> bool:
    return any(a.values(metric.numerator).sum() == 0 for a in (arm, base))


def _check(candidate: str, check: str, passed: bool, note: str, fails: str = "fail") -> dict[str, Any]:
    return {"candidate": candidate, "check": check, "verdict": "ok" if passed else fails, "note": note}
