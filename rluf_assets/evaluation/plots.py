"""The report's plots: Plotly figures in one style, each with caption, alternative text and its numbers as a table.

Colours are Okabe and Ito's colour-blind-safe ones; candidates differ in marker shape too, so nothing hangs on colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rluf_assets.evaluation.offline import ALL, OfflineComparison
from rluf_assets.evaluation.words import number, percent, span

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
INK, GRID, MUTED = "#1f2733", "#e6e8ec", "#6b7484"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
ROW_PX = 34


@dataclass(frozen=True)
class Plot:
    """A figure with its words: caption below it, `alt` for screen readers, and the numbers as a table."""

    name: str
    figure: Any
    caption: str
    alt: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def colours(candidates: Sequence[str], references: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Colour and marker per candidate, those it is compared with in greys and first."""
    greys = dict(
        zip((r for r in references if r in candidates), ((INK, "circle-open"), (MUTED, "square-open")), strict=False)
    )
    rest = [c for c in candidates if c not in greys]
    return greys | {name: (PALETTE[i % len(PALETTE)], SYMBOLS[i % len(SYMBOLS)]) for i, name in enumerate(rest)}


def trade_off(offline: OfflineComparison, love: str, styles: Mapping[str, tuple[str, str]]) -> Plot:
    """One panel per objective: love change and win rates with intervals, per candidate."""
    from plotly.subplots import make_subplots

    others = [o for o in offline.objectives["objective"].unique(maintain_order=True).sort() if o != love]
    names = list(styles)
    titles = [f"{love.capitalize()}: predicted change of the live rate"] + [
        f"{o.capitalize()}: share of comparisons won" for o in others
    ]
    figure = make_subplots(rows=len(titles), cols=1, subplot_titles=titles, vertical_spacing=0.16)
    rows, told = [], []
    for panel, objective in enumerate([love, *others], start=1):
        key = "change" if objective == love else "win"
        value = "change" if objective == love else "win_rate"
        for name in names:
            row = offline.row(name, objective)
            colour, symbol = styles[name]
            figure.add_trace(
                interval_trace([row[value]], [name], [row[f"{key}_low"]], [row[f"{key}_high"]], colour, symbol, name),
                row=panel, col=1,
            )  # fmt: skip
            shown = percent(row[value], signed=objective == love)
            rows.append([name, objective, shown, span(row[f"{key}_low"], row[f"{key}_high"], signed=objective == love)])
            told.append(f"{name} {objective} {shown}")
        figure.add_vline(
            x=0 if objective == love else 0.5, line={"color": MUTED, "dash": "dot", "width": 1}, row=panel, col=1
        )
        figure.update_xaxes(tickformat="+.0%" if objective == love else ".0%", row=panel, col=1)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_annotations(x=0, xanchor="left")
    styled(figure, height=120 + len(titles) * (70 + ROW_PX * len(names)), legend=False)
    caption = (
        "Against the baseline on the same prompts; bars are 95% intervals over prompts. Dotted line: no difference."
    )
    return Plot(
        "trade-off", figure, caption, "; ".join(told), ("Candidate", "Objective", "Value", "95% interval"), rows
    )


def pareto(offline: OfflineComparison, love: str, against: str, styles: Mapping[str, tuple[str, str]]) -> Plot:
    """Love change against the win rate in another objective: what more love costs."""
    import plotly.graph_objects as go

    figure = go.Figure()
    front = dict(offline.pareto.select("candidate", "on_front").iter_rows())
    rows = []
    for name, (colour, symbol) in styles.items():
        x, y = offline.row(name, love), offline.row(name, against)
        figure.add_trace(
            go.Scatter(
                x=[x["change"]], y=[y["win_rate"]], name=name, mode="markers+text", text=[name],
                textposition="top center",
                textfont={"size": 12, "color": INK},
                marker={"color": colour, "symbol": symbol, "size": 13, "line": {"color": "white", "width": 1}},
                error_x=error_bar([x["change"]], [x["change_low"]], [x["change_high"]], colour),
                error_y=error_bar([y["win_rate"]], [y["win_low"]], [y["win_high"]], colour),
            )
        )  # fmt: skip
        rows.append([name, percent(x["change"], signed=True), percent(y["win_rate"]), "yes" if front[name] else "no"])
    figure.update_xaxes(title=f"Predicted change of {love}", tickformat="+.0%", zeroline=True, zerolinecolor=MUTED)
    figure.update_yaxes(title=f"{against.capitalize()}: comparisons won", tickformat=".0%")
    styled(figure, height=360, legend=False)
    alt = f"Predicted {love} change against {against} win rate: " + "; ".join(f"{r[0]} {r[1]}, {r[2]}" for r in rows)
    caption = f"What more {love} costs in {against}. Right is more {love}, up is better {against}."
    return Plot("pareto", figure, caption, alt, ("Candidate", love, against, "On the Pareto front"), rows)


def reliability_plot(table: pl.DataFrame, love: str) -> Plot:
    """Predicted against observed rate on the holdout, both on log axes."""
    import plotly.graph_objects as go

    known = table.filter(pl.col("observed") > 0)
    figure = go.Figure()
    lowest, highest = (float(f(table["predicted"].to_list() + known["observed"].to_list())) for f in (min, max))
    figure.add_trace(diagonal(lowest, highest))
    figure.add_trace(
        go.Scatter(
            x=known["predicted"].to_list(), y=known["observed"].to_list(), mode="markers", name="bins",
            marker={"color": PALETTE[0], "size": 10},
            error_y=error_bar(known["observed"].to_list(), known["low"].to_list(), known["high"].to_list(), PALETTE[0]),
        )
    )  # fmt: skip
    ticks = _log_ticks(lowest, highest)
    around = [math.log10(bound * factor) for bound, factor in ((lowest, 0.7), (highest, 1.4))]
    figure.update_xaxes(type="log", title=f"Predicted {love} rate", range=around, **ticks)
    figure.update_yaxes(type="log", title=f"Observed {love} rate", **ticks)
    styled(figure, height=360, legend=False)
    rows = [
        [
            percent(r["predicted"]),
            percent(r["observed"]),
            span(r["low"], r["high"], signed=False),
            number(r["positives"]),
        ]
        for r in table.iter_rows(named=True)
    ]
    inside = sum(r["low"] <= r["predicted"] <= r["high"] for r in table.iter_rows(named=True))
    alt = f"In {inside} of {len(table)} bins the predicted {love} rate lies in the observed rate's 95% interval."
    caption = f"{alt} Holdout at the natural rate, of users that training did not see."
    return Plot("reliability", figure, caption, alt, ("Predicted", "Observed", "95% interval", "Reactions"), rows)


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """1-2-5 ticks with as many digits as they need: Plotly's own run into each other on a narrow log axis."""
    exponents = range(math.floor(math.log10(max(low, 1e-9))) - 1, math.ceil(math.log10(max(high, 1e-9))) + 1)
    values = [m * 10.0**e for e in exponents for m in ((1, 2, 5) if high / max(low, 1e-9) < 200 else (1,))]
    return {"tickvals": values, "ticktext": [f"{100 * v:.4f}".rstrip("0").rstrip(".") + "%" for v in values]}


def backtest_plot(policies: pl.DataFrame, summary: Mapping[str, Any], love: str) -> Plot:
    """Predicted against observed change of every past launch."""
    import plotly.graph_objects as go

    known = policies.drop_nulls(["predicted_change", "observed_change"])
    x, y = known["predicted_change"].to_list(), known["observed_change"].to_list()
    figure = go.Figure()
    if x:
        figure.add_trace(diagonal(min(x + y), max(x + y)))
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="markers", name="past launches", text=known["description"].to_list(),
            hovertemplate="%{text}<br>predicted %{x:+.1%}, observed %{y:+.1%}<extra></extra>",
            marker={"color": PALETTE[1], "symbol": "diamond", "size": 10},
            error_x=error_bar(x, known["predicted_ci_low"].to_list(), known["predicted_ci_high"].to_list(), PALETTE[1]),
            error_y=error_bar(y, known["observed_ci_low"].to_list(), known["observed_ci_high"].to_list(), PALETTE[1]),
        )
    )  # fmt: skip
    figure.update_xaxes(title=f"Predicted change of {love}", tickformat="+.0%")
    figure.update_yaxes(title="Change users showed", tickformat="+.0%")
    styled(figure, height=360, legend=False)
    r = summary["pearson_r"]
    shown = "" if r is None else f" r = {number(r)} ({span(*summary['ci'], as_percent=False, signed=False)})."
    rows = [
        [
            row["policy"], row["description"], percent(row["predicted_change"], signed=True),
            percent(row["observed_change"], signed=True), span(row["observed_ci_low"], row["observed_ci_high"]),
        ]
        for row in policies.iter_rows(named=True)
    ]  # fmt: skip
    header = ("Policy", "What it was", "Predicted", "Observed", "95% interval")
    return Plot("backtest", figure, summary["sentence"] + shown, summary["sentence"] + shown, header, rows)


def forest(name: str, table: pl.DataFrame, label: str, styles: Mapping[str, tuple[str, str]], caption: str) -> Plot:
    """Relative changes with intervals: one line per label, one marker per candidate.

    table: candidate, the label column, value, low, high. A change without an interval is not drawn, only told.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    drawn = table.drop_nulls(["value", "low", "high"])
    labels = drawn[label].unique(maintain_order=True).to_list()
    present = [c for c in styles if c in drawn["candidate"].to_list()]
    spread = 0.5 / max(len(present), 1)
    for k, candidate in enumerate(present):
        own = drawn.filter(pl.col("candidate") == candidate)
        at = [labels.index(v) + (k - (len(present) - 1) / 2) * spread for v in own[label]]
        colour, symbol = styles[candidate]
        figure.add_trace(
            interval_trace(
                own["value"].to_list(), at, own["low"].to_list(), own["high"].to_list(), colour, symbol, candidate
            )
        )
    figure.add_vline(x=0, line={"color": MUTED, "dash": "dot", "width": 1})
    shown = [text.replace("_", " ") for text in labels]
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=shown, range=[len(labels) - 0.5, -0.5], automargin=True
    )
    figure.update_xaxes(tickformat="+.0%")
    styled(figure, height=110 + int(ROW_PX * len(labels) * max(1.0, 0.6 * len(present))), legend=len(present) > 1)
    rows = [
        [r["candidate"], r[label].replace("_", " "), percent(r["value"], signed=True), span(r["low"], r["high"])]
        for r in table.iter_rows(named=True)
    ]
    alt = "; ".join(f"{r[0]} {r[1]} {r[2]} ({r[3]})" for r in rows[:12])
    untold = len(table) - len(drawn)
    caption += f" {untold} without an interval stand only among the numbers." if untold else ""
    return Plot(name, figure, caption, alt, ("Candidate", label.capitalize(), "Change", "95% interval"), rows)


def rates_plot(
    name: str, table: pl.DataFrame, styles: Mapping[str, tuple[str, str]], logged: float | None, what: str
) -> Plot:
    """A rate per candidate with its interval, and the logs' own rate as a line. table: candidate, value, low, high."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for row in table.iter_rows(named=True):
        colour, symbol = styles[row["candidate"]]
        trace = interval_trace(
            [row["value"]], [row["candidate"]], [row["low"]], [row["high"]], colour, symbol, row["candidate"]
        )
        figure.add_trace(trace)
    if logged is not None:
        figure.add_vline(x=logged, line={"color": MUTED, "dash": "dash", "width": 1})
        figure.add_annotation(
            x=logged, y=1.0, yref="paper", text=f"logs {percent(logged)}", showarrow=False, xanchor="left",
            yanchor="bottom",
            font={"color": MUTED, "size": 12},
        )  # fmt: skip
    figure.update_xaxes(tickformat=".1~%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True, ticklabelstandoff=8)
    styled(figure, height=110 + ROW_PX * len(table), legend=False)
    rows = [
        [r["candidate"], percent(r["value"]), span(r["low"], r["high"], signed=False)]
        for r in table.iter_rows(named=True)
    ]
    alt = f"{what}: " + "; ".join(f"{r[0]} {r[1]} ({r[2]})" for r in rows)
    return Plot(
        name, figure, f"{what}, with 95% intervals over prompts.", alt, ("Candidate", "Share", "95% interval"), rows
    )


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


def by_use_case(
    offline: OfflineComparison, love: str, references: Sequence[str], styles: Mapping[str, tuple[str, str]]
) -> Plot | None:
    """Predicted love change per use case, or None where no use case has enough prompts."""
    table = offline.objectives.filter(
        (pl.col("objective") == love) & (pl.col("segment") != ALL) & ~pl.col("candidate").is_in(list(references))
    ).select("candidate", pl.col("segment").alias("use case"), value="change", low="change_low", high="change_high")
    if table.is_empty():
        return None
    caption = f"Predicted change of {love} by use case, with 95% intervals over prompts (each on its own)."
    return forest("use-cases", table, "use case", styles, caption)
