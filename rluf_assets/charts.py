"""Figures in one style: colours, markers, points with intervals. The pages, results' `.plot_*` and notebooks draw with it.

Colours are Okabe and Ito's colour-blind-safe ones; candidates differ in marker shape too, so nothing hangs on colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
INK, GRID, MUTED = "#1f2733", "#e6e8ec", "#6b7484"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
ROW_PX = 34
# Ticks in percent with as many digits as their step needs: rounded to whole ones two of them could read alike.
SHARE, CHANGE = ".3~%", "+.3~%"


def colours(candidates: Sequence[str], references: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Colour and marker per candidate, those it is compared with in greys and first."""
    greys = dict(
        zip((r for r in references if r in candidates), ((INK, "circle-open"), (MUTED, "square-open")), strict=False)
    )
    rest = [c for c in candidates if c not in greys]
    return greys | {name: (PALETTE[i % len(PALETTE)], SYMBOLS[i % len(SYMBOLS)]) for i, name in enumerate(rest)}


def interval_trace(
    x: Sequence[Any], y: Sequence[Any], low: Sequence[Any], high: Sequence[Any], colour: str, symbol: str, name: str
) -> Any:
    """Points with horizontal intervals."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=list(x), y=list(y), mode="markers", name=name, cliponaxis=False,
        marker={"color": colour, "symbol": symbol, "size": 10},
        error_x=error_bar(x, low, high, colour), hovertemplate="%{x}<extra>" + name + "</extra>",
    )  # fmt: skip


def error_bar(values: Sequence[Any], low: Sequence[Any], high: Sequence[Any], colour: str) -> dict[str, Any]:
    """Asymmetric bars; a missing bound draws none."""
    above = [0.0 if v is None or h is None else max(h - v, 0.0) for v, h in zip(values, high, strict=True)]
    below = [0.0 if v is None or b is None else max(v - b, 0.0) for v, b in zip(values, low, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1.6,
        "width": 4,
    }


def diagonal(low: float, high: float) -> Any:
    """Where predictions equal outcomes."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": MUTED, "dash": "dot", "width": 1}, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip


def styled(figure: Any, *, height: int, legend: bool) -> None:
    """The house style: quiet grid, no frame, system font, wide enough for a phone."""
    figure.update_layout(
        template="none", height=height, showlegend=legend, font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 8, "r": 12, "t": 34, "b": 40}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, hoverlabel={"font": {"family": FONT}},
    )  # fmt: skip
    figure.update_xaxes(
        gridcolor=GRID, linecolor=GRID, zeroline=False, automargin=True, title_font={"size": 13}, title_standoff=8
    )
    figure.update_yaxes(
        gridcolor=GRID, linecolor=GRID, zeroline=False, automargin=True, title_font={"size": 13}, title_standoff=8
    )
    figure.update_annotations(font={"size": 13, "color": INK}, selector={"yref": "paper", "showarrow": False})


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """1-2-5 ticks with as many digits as they need: Plotly's own run into each other on a narrow log axis."""
    exponents = range(math.floor(math.log10(max(low, 1e-9))) - 1, math.ceil(math.log10(max(high, 1e-9))) + 1)
    values = [m * 10.0**e for e in exponents for m in ((1, 2, 5) if high / max(low, 1e-9) < 200 else (1,))]
    return {"tickvals": values, "ticktext": [f"{100 * v:.4f}".rstrip("0").rstrip(".") + "%" for v in values]}


def intervals(
    rows: Sequence[Mapping[str, Any]], *, title: str = "", percent: str | None = None, log: bool = False
) -> Any:
    """One line per row, a point with its interval: `name`, `value`, `low`, `high`, and `series` where there are several."""
    import plotly.graph_objects as go

    figure = go.Figure()
    series = list(dict.fromkeys(row.get("series", "") for row in rows))
    for k, name in enumerate(series):
        own = [row for row in rows if row.get("series", "") == name]
        value, label, low, high = ([row[key] for row in own] for key in ("value", "name", "low", "high"))
        colour, symbol = PALETTE[k % len(PALETTE)], SYMBOLS[k % len(SYMBOLS)]
        figure.add_trace(interval_trace(value, label, low, high, colour, symbol, name))
    figure.update_xaxes(title=title, tickformat=percent, **({"type": "log"} if log else {}))
    figure.update_yaxes(autorange="reversed", automargin=True)
    lines = len(dict.fromkeys(row["name"] for row in rows))
    styled(figure, height=100 + ROW_PX * lines + 10 * (len(series) - 1) * lines, legend=len(series) > 1)
    return figure
