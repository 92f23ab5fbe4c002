"""For whom is a candidate worse? The gate of the groups that the plan judges, and one plain sentence for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Figures, Gate, Kind, Result
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.words import percent, points, span

SEGMENTS = "segments"
TOLD = 3


def segment_gate(candidate: str, readout: Readout | None, config: ReleaseConfig) -> Gate:
    """Is any group of the plan's traits shown to be worse off? Traits that the plan excuses may go unmeasured."""
    found = _of(candidate, readout).filter("judged")
    measured = found.filter(pl.col("metric").is_not_null() & (pl.col("result") != Result.NOT_MEASURED))
    missing = [t for t in config.plan.segments if t not in measured["trait"].to_list() and t not in config.plan.excused]
    worse = {r: measured.filter(pl.col("worse") & (pl.col("result") == r)).to_dicts() for r in Result}
    figures: Figures = {
        "groups": measured.select("trait", "group").n_unique() if len(measured) else 0,
        **{str(result): len(rows) for result, rows in worse.items()},
    }

    def gate(result: Result, detail: str, brief: str) -> Gate:
        return Gate(SEGMENTS, "No group of users is worse off", Kind.LIVE, result, detail, brief, figures)

    if worse[Result.FAIL]:
        told = _list(worse[Result.FAIL])
        return gate(Result.FAIL, f"Worse beyond the margin for {told}.", f"worse for {_group(worse[Result.FAIL][0])}")
    if missing:
        told = ", ".join(_words(t) for t in missing)
        detail = f"The plan judges users by {told}, and the exposures do not say it, or only of too few users."
        return gate(Result.NOT_MEASURED, detail, f"{told} is not measured")
    if worse[Result.NOT_SHOWN]:
        told = _list(worse[Result.NOT_SHOWN])
        detail = f"Worse for {told}; not shown to stay within the margin."
        return gate(Result.NOT_SHOWN, detail, f"worse for {_group(worse[Result.NOT_SHOWN][0])}")
    small = found.filter(pl.col("metric").is_null()).height
    detail = f"None of {figures['groups']} groups is shown to be worse beyond its margin"
    if worse[Result.PASS]:
        detail += f"; within it: {_list(worse[Result.PASS])}"
    if small:
        detail += f"; {small} more had too few users to be read"
    return gate(Result.PASS, f"{detail}.", "no group of users is shown to be worse off")


def for_whom(candidate: str, readout: Readout, config: ReleaseConfig) -> str:
    """One sentence: for whom it is worse, in what and by how much; groups that the plan does not judge are told as such."""
    found = _of(candidate, readout)
    groups = found.filter(pl.col("metric").is_not_null()).select("trait", "group").unique()
    if groups.is_empty():
        return "For whom it is better or worse was not measured: no group of users had enough of them."
    worse = found.filter("worse").sort(pl.col("judged").not_(), -pl.col("z"))
    if worse.is_empty():
        traits = ", ".join(_words(t) for t in groups["trait"].unique().sort())
        return f"No group of users is shown to be worse off ({len(groups)} groups by {traits})."
    shown = [_told(r) + ("" if r["judged"] else ", which the plan does not judge") for r in worse.head(TOLD).to_dicts()]
    more = len(worse) - len(shown)
    return f"Worse for {'; for '.join(shown)}{f'; and {more} more' if more else ''}."


def _of(candidate: str, readout: Readout | None) -> pl.DataFrame:
    table = Readout(pl.DataFrame(), pl.DataFrame()).segments if readout is None else readout.segments
    return table.filter(pl.col("candidate") == candidate)


def _list(rows: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda r: -r["z"])
    more = len(ordered) - TOLD
    return "; ".join(_told(r) for r in ordered[:TOLD]) + (f"; and {more} more" if more > 0 else "")


def _told(row: Mapping[str, Any]) -> str:
    """ "new users (early ending rate +61.0%, +22.0% to +99.0%, of 840 users)": after pooling where a lift is defined."""
    if row["pooled_lift"] is not None:
        change = f"{percent(row['pooled_lift'], signed=True)}, {span(row['pooled_low'], row['pooled_high'])}"
    else:
        change = f"{points(row['share_difference'])} of its users"
    return f"{_group(row)} ({_words(row['metric'])} {change}, of {row['n_control'] + row['n_treatment']:,} users)"


def _group(row: Mapping[str, Any]) -> str:
    if row["trait"] == "new_user":
        return f"{row['group']} users"
    return f"{_words(row['trait'])} {_words(row['group'])}"


def _words(name: str) -> str:
    return "new and established users" if name == "new_user" else name.replace("_", " ")
