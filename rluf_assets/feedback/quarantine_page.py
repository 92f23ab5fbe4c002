"""The quarantine of one partition as a page: how much was set aside, under which names, what they mean, and rows to look at.

The check that fails on a bad day links to it. Rows are shown as they are stored, with personal data taken out.
"""

from __future__ import annotations

import html
from datetime import date

import polars as pl

from rluf_assets.feedback.audit_report import STYLE
from rluf_assets.feedback.contract import Accounting
from rluf_assets.feedback.defects import MESSAGE_DEFECTS, REACTION_DEFECTS

EXAMPLES = 10
_MEANING = {"messages": MESSAGE_DEFECTS, "reactions": REACTION_DEFECTS}
# Rows are JSON of any length; they wrap and keep their place in the source in front.
_ROWS = "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.5rem}"


def quarantine_page(quarantine: pl.DataFrame, accounting: Accounting, day: date | None) -> str:
    """The page as HTML; `quarantine` has one row per row set aside (`table`, `defect`, `source_row`, `row`)."""
    title = f"Quarantine of {day}" if day else "Quarantine"
    counts = (
        quarantine.group_by("table", "defect")
        .len("rows")
        .sort("rows", "table", "defect", descending=[True, False, False])
    )
    body = [f"<h1>{html.escape(title)}</h1>", f"<p class='say'>{html.escape(_conclusion(accounting))}</p>"]
    if counts.height:
        body += [_table(counts), *(_examples(quarantine, table, defect) for table, defect, _ in counts.iter_rows())]
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}{_ROWS}</style></head><body>{''.join(body)}</body></html>"
    )


def _conclusion(accounting: Accounting) -> str:
    parts = [
        f"{aside} of {total} {table} ({aside / max(total, 1):.1%})"
        for table, aside, total in (
            ("messages", accounting.messages_quarantined, accounting.messages_in),
            ("reactions", accounting.reactions_quarantined, accounting.reactions_in),
        )
    ]
    return f"Set aside: {' and '.join(parts)}. The rest was accepted."


def _table(counts: pl.DataFrame) -> str:
    rows = "".join(
        f"<tr><td><a href='#{table}-{defect}'>{html.escape(defect)}</a></td><td>{html.escape(table)}</td><td>{rows}</td>"
        f"<td>{html.escape(_meaning(table, defect))}</td></tr>"
        for table, defect, rows in counts.iter_rows()
    )
    head = "".join(f"<th>{name}</th>" for name in ("defect", "table", "rows", "meaning"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _examples(quarantine: pl.DataFrame, table: str, defect: str) -> str:
    rows = quarantine.filter(pl.col("table") == table, pl.col("defect") == defect).sort("source_row")
    shown = "".join(
        f"<pre>row {row['source_row']}: {html.escape(row['row'])}</pre>"
        for row in rows.head(EXAMPLES).iter_rows(named=True)
    )
    more = f"<p>and {rows.height - EXAMPLES} more, in quarantine.parquet</p>" if rows.height > EXAMPLES else ""
    return f"<h2 id='{table}-{defect}'>{html.escape(defect)} ({html.escape(table)})</h2>{shown}{more}"


def _meaning(table: str, defect: str) -> str:
    return _MEANING.get(table, {}).get(defect, "")
