"""The audit as one self-contained page: its conclusion in a sentence, four plots, and the table (Plotly, inlined)."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.feedback.audit import CONTROLS, SignalAudit, offered

if TYPE_CHECKING:
    import plotly.graph_objects as go

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,td:last-child,th:first-child{text-align:left}.say{font-size:20px}"
)


def conclusion(audit: SignalAudit) -> str:
    """The audit in one sentence."""
    named = {
        verdict: audit.table.filter(pl.col("recommendation") == verdict)["signal"].to_list()
        for verdict in ("use", "use with care", "do not use")
    }
    return (
        "; ".join(f"{verdict}: {', '.join(signals) or 'none'}" for verdict, signals in named.items()).capitalize() + "."
    )


def report(audit: SignalAudit) -> str:
    """The whole page as HTML, Plotly's script included."""
    import plotly.io as pio
    from plotly.offline import get_plotlyjs

    figures = [returning(audit), volume(audit), over_time(audit), by_use_case(audit)]
    plots = "\n".join(pio.to_html(figure, full_html=False, include_plotlyjs=False) for figure in figures)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Signal audit</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>Which signal can we trust?</h1>"
        f"<p class='say'>{html.escape(conclusion(audit))}</p>{plots}{_table(audit.table)}</body></html>"
    )


def returning(audit: SignalAudit) -> go.Figure:
    """Correlation with returning, raw and controlled, with intervals."""
    figure = _figure("Correlation with the user's return", "correlation over user-days; controlled for " + CONTROLS)
    for name, column in (("raw", "return_correlation"), ("activity controlled for", "return_correlation_controlled")):
        rows = audit.table.filter(pl.col(column).is_not_null())
        above, below = rows[f"{column}_ci_high"] - rows[column], rows[column] - rows[f"{column}_ci_low"]
        error = {"type": "data", "symmetric": False, "array": above.to_list(), "arrayminus": below.to_list()}
        figure.add_scatter(
            x=rows[column].to_list(),
            y=rows["signal"].to_list(),
            error_x=error,
            mode="markers",
            name=name,
            marker_size=9,
        )
    figure.add_vline(x=0, line_dash="dot")
    return figure


def volume(audit: SignalAudit) -> go.Figure:
    """Positives found, and what is left of them after adversarial users and caps."""
    figure = _figure("Volume", "replies (log scale)")
    for name, column in (("positives", "positives"), ("after adversarial users and caps", "effective_positives")):
        figure.add_bar(x=audit.table[column].to_list(), y=audit.table["signal"].to_list(), orientation="h", name=name)
    figure.update_xaxes(type="log")
    return figure


def over_time(audit: SignalAudit) -> go.Figure:
    """Daily rate of each signal over its mean rate; days without closed windows are left out."""
    figure = _figure("Over time", "rate of the day / rate of the period")
    for signal in audit.table["signal"]:
        shown = offered(signal)
        days = audit.by_day.filter(pl.col(shown) > 0, pl.col("day").is_not_null())
        mean = days[signal].sum() / max(1, days[shown].sum())
        if mean:
            relative = (days[signal] / days[shown] / mean).to_list()
            figure.add_scatter(x=days["day"].to_list(), y=relative, mode="lines", name=signal)
    return figure


def by_use_case(audit: SignalAudit) -> go.Figure:
    """Rate of each signal per use case over its mean rate."""
    figure = _figure("By use case", "rate of the use case / rate overall")
    cases, signals = audit.by_use_case, audit.table["signal"].to_list()
    rates = []
    for signal in signals:
        mean = cases[signal].sum() / max(1, cases[offered(signal)].sum())
        rows = cases.select(signal, offered(signal)).iter_rows()
        rates.append([positives / max(1, shown) / max(1e-12, mean) for positives, shown in rows])
    figure.add_heatmap(
        z=rates, x=cases["use_case"].to_list(), y=signals, colorscale="RdBu", zmid=1, texttemplate="%{z:.1f}"
    )
    return figure


def _figure(title: str, axis: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure(layout={"title": {"text": title}, "template": "plotly_white", "height": 380})
    return figure.update_xaxes(title_text=axis) if title != "Over time" else figure.update_yaxes(title_text=axis)


def _table(table: pl.DataFrame) -> str:
    columns = {
        "signal": "signal", "positives": "positives", "rate": "rate", "coverage_users": "users who used it",
        "return_correlation_controlled": "return correlation", "purity": "purity",
        "next_message_agreement": "next message agrees", "next_message_usual": "usually",
        "adversarial_share": "adversarial", "scripted": "scripted reactions",
        "effective_positives": "effective", "recommendation": "recommendation", "reason": "why",
    }  # fmt: skip
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(row, name))}</td>" for name in columns) + "</tr>"
        for row in table.iter_rows(named=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    low, high = row.get(f"{name}_ci_low"), row.get(f"{name}_ci_high")
    return f"{value:.4g}" + ("" if low is None or high is None else f" ({low:.3g} to {high:.3g})")
