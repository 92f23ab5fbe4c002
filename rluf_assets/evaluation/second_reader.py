"""Off-policy evaluation in a decision: the second reader beside P[signal]. It can lower a verdict, never raise one.

Both read what users would do before any met the candidate: P[signal] from the replies' texts, off-policy evaluation from
what users did about like replies in the logs. Where the two disagree the page says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.evaluation.claims import Claim
from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Figures, Gate, Kind, Result
from rluf_assets.evaluation.frames import read_parquet
from rluf_assets.evaluation.off_policy_rows import ESTIMATE, NOT_MEASURED, SCHEMA, SILENT, sentence
from rluf_assets.evaluation.words import percent, span

GATE = "off_policy"


def read_off_policy(folder: Path | None) -> pl.DataFrame:
    """The table of `off_policy_evaluation`; empty where it was not made."""
    return pl.DataFrame(schema=SCHEMA) if folder is None else read_parquet(folder / "off_policy.parquet")


def off_policy_gate(candidate: str, table: pl.DataFrame, config: ReleaseConfig) -> Gate:
    """Whether the logs show harm: the change of the signal's rate lies below what the plan would want to find."""
    title, least = "The logs show no fall", -config.plan.minimum_detectable_effect
    rows = table.filter(kind="candidate", name=candidate).to_dicts()
    row: dict[str, Any] = rows[0] if rows else {"result": NOT_MEASURED, "why": SILENT}
    low, high = row.get("change_ci_low"), row.get("change_ci_high")
    if row["result"] != ESTIMATE or low is None or high is None:
        why = row["why"] or "no interval"
        said = f"off-policy evaluation: {row['result'] if row['result'] != ESTIMATE else NOT_MEASURED}"
        return Gate(GATE, title, Kind.SECOND, Result.NOT_MEASURED, f"{said[:1].upper()}{said[1:]} ({why}).", said)
    result = Result.FAIL if high < least else Result.PASS if low > least else Result.NOT_SHOWN
    words = {
        Result.PASS: "the logs show no fall", Result.FAIL: "the logs show a fall",
        Result.NOT_SHOWN: "the logs do not rule out a fall",
    }[result]  # fmt: skip
    figures: Figures = {"change": row["change"], "low": low, "high": high, "least": least}
    detail = f"{words[:1].upper()}{words[1:]}: {percent(row['change'], signed=True)} ({span(low, high)})."
    return Gate(GATE, title, Kind.SECOND, result, detail, words, figures)


def second_reader(table: pl.DataFrame, decisions: Sequence[Any], config: ReleaseConfig) -> dict[str, Any]:
    """What the page shows: a sentence, and a row per candidate and arm with both readers where there are figures."""
    predicted = {d.candidate: (d.love_change, d.love_change_low, d.love_change_high) for d in decisions}
    quoted = {d.candidate for d in decisions if d.claim is Claim.LEVEL}  # of the others a level is not claimed
    shown = table.filter((pl.col("kind") == "arm") | pl.col("name").is_in(list(predicted)))
    rows = [
        _row(row, predicted.get(row["name"]) if row["kind"] == "candidate" else None, row["name"] in quoted)
        for row in shown.to_dicts()
    ]
    measured = bool(len(shown)) and not (shown["result"] == NOT_MEASURED).all()
    return {"sentence": sentence(shown), "rows": rows if measured else []}


def _row(
    row: dict[str, Any], predicted: tuple[float | None, float | None, float | None] | None, quoted: bool
) -> dict[str, Any]:
    low, high = row["change_ci_low"], row["change_ci_high"]
    told, verdict = row["why"], ""
    if row["name"] == row["against"]:
        told = "what the others are read against" if row["result"] == ESTIMATE else told
    elif predicted is not None and None not in (*predicted, low, high):
        apart = predicted[1] > high or predicted[2] < low
        verdict = "the two readers disagree" if apart else "the two readers agree within their intervals"
    elif row["kind"] == "arm" and row["residual_ci_low"] is not None:
        apart = row["residual_ci_low"] > 0 or row["residual_ci_high"] < 0
        verdict = "P[signal] expects another rate of this arm" if apart else "P[signal] expects no other rate"
    overlap = f"{row['effective_users']:,.0f} of {row['users']:,} users" if row["users"] is not None else "–"
    level = predicted if quoted and predicted is not None else (None, None, None)
    return {**row, "predicted": level, "told": verdict or told, "overlap": overlap}
