"""The gate of trust: may the offline figures be believed, or can only users tell?

It never fails a candidate: what it doubts is not shown, what is missing is not measured, and either says that only an
A/B test can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Figures, Gate, Kind, Result
from rluf_assets.evaluation.stats import finite
from rluf_assets.evaluation.words import number, percent, span

Doubts = tuple[list[str], Figures]


def trust_gate(
    candidate: str,
    backtest: Mapping[str, Any] | None,
    tripwires: pl.DataFrame,
    trust: pl.DataFrame,
    config: ReleaseConfig,
) -> Gate:
    """Backtest, distance from the logs, agreement of the ensemble, spoilt replies; each doubt is told in the detail.

    tripwires: of the hacking audit; trust: of `assess_trust`.
    """
    title = "Offline figures can be trusted"
    row = next(trust.filter(pl.col("candidate") == candidate).iter_rows(named=True), {})
    parts = [
        _backtest_doubts(backtest, config),
        _distance_doubts(candidate, tripwires, config),
        _ensemble_doubts(row, config),
        _spoilt_doubts(row),
    ]
    doubts = [doubt for part, _ in parts for doubt in part]
    figures: Figures = {name: value for _, part in parts for name, value in part.items()}
    if doubts or backtest is None:
        detail = f"Offline figures are not enough: {'; '.join(doubts)}."
        missing = any(part and not known for part, known in parts)
        result = Result.NOT_MEASURED if missing else Result.NOT_SHOWN
        brief = f"offline figures are not enough: {doubts[0]}"
        return Gate("trust", title, Kind.PREDICTION, result, detail, brief, figures)
    shown = f"r = {number(backtest['pearson_r'])} ({span(*backtest['ci'], as_percent=False, signed=False)})"
    detail = (
        f"Offline figures held on {backtest['policies']} past launches: {shown}; the replies are like logged ones, the "
        f"{row['members']} members of the ensemble agree, and spoilt replies score last."
    )
    brief = "offline figures held on past launches"
    return Gate("trust", title, Kind.PREDICTION, Result.PASS, detail, brief, figures)


def _backtest_doubts(backtest: Mapping[str, Any] | None, config: ReleaseConfig) -> Doubts:
    if backtest is None:
        return ["there is no backtest over past launches"], {}
    r, low = finite(backtest["pearson_r"]), finite(backtest["ci"][0])
    figures: Figures = {"backtest_r": r, "backtest_r_low": low, "policies": backtest["policies"]}
    if r is None:
        return [f"the backtest says nothing ({backtest['policies']} past launches)"], figures
    if low is None or low < config.min_backtest_r:
        interval = span(*backtest["ci"], as_percent=False, signed=False)
        return [f"the backtest's r of {number(r)} ({interval}) may be below {number(config.min_backtest_r)}"], figures
    return [], figures


def _distance_doubts(candidate: str, tripwires: pl.DataFrame, config: ReleaseConfig) -> Doubts:
    own = (pl.col("candidate") == candidate) & (pl.col("tripwire") == "out_of_distribution")
    row = next(tripwires.filter(own).iter_rows(named=True), {})
    far, low, high = (finite(row.get(name)) for name in ("value", "value_low", "value_high"))
    if far is None or low is None or high is None:
        return ["how far its replies lie from the logged ones was not measured"], {}
    doubts = [_share(far, low, high, config.max_out_of_distribution, "of its replies", "lie far from the logged ones")]
    figures: Figures = {"out_of_distribution": far, "out_of_distribution_low": low, "out_of_distribution_high": high}
    return (doubts if high > config.max_out_of_distribution else []), figures


def _share(value: float, low: float, high: float, limit: float, of: str, does: str) -> str:
    """A share whose interval is not within its limit: surely beyond it, or perhaps."""
    interval = span(low, high, signed=False)
    return (
        f"{percent(value)} ({interval}) {of} {does}, {'more' if low > limit else 'perhaps more'} than {percent(limit)}"
    )


def _ensemble_doubts(row: Mapping[str, Any], config: ReleaseConfig) -> Doubts:
    members = row.get("members")
    disputed, low, high = (finite(row.get(f"disputed{part}")) for part in ("", "_low", "_high"))
    if members is None or disputed is None or low is None or high is None:
        return [f"P[{config.love_objective}] has no ensemble to check it by"], {}
    figures: Figures = {"members": members, "members_agreeing": row["members_agreeing"], "disputed": disputed}
    doubts = []
    if high > config.max_disputed:
        doubts.append(
            f"P[{config.love_objective}]'s ensemble disagrees: "
            + _share(disputed, low, high, config.max_disputed, "of its replies", "are disputed")
        )
    if row["members_agreeing"] < members:
        span_of_members = span(row["change_lowest"], row["change_highest"])
        doubts.append(
            f"only {row['members_agreeing']} of {members} members of the ensemble see the predicted change's sign "
            f"({span_of_members})"
        )
    return doubts, figures


def _spoilt_doubts(row: Mapping[str, Any]) -> Doubts:
    if row.get("spoilt_last") is None:
        return ["no shuffled or truncated replies were scored as a control"], {}
    figures: Figures = {"spoilt_mean": row["spoilt_mean"], "lowest_mean": row["lowest_mean"]}
    if row["spoilt_last"]:
        return [], figures
    spoilt = f"{row['spoilt_kind']} ones of {row['spoilt_of']} {percent(row['spoilt_mean'])}"
    real = f"{row['lowest_policy']}'s real ones {percent(row['lowest_mean'])}"
    return [f"replies spoilt on purpose do not score last ({spoilt}, {real})"], figures
