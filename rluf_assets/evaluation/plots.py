"""The report's plots: Plotly figures in one style, each with caption, alternative text and its numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.charts import (
    CHANGE,
    INK,
    MUTED,
    PALETTE,
    ROW_PX,
    SHARE,
    diagonal,
    error_bar,
    interval_trace,
    log_ticks,
    styled,
)
from rluf_assets.evaluation.frames import ALL
from rluf_assets.evaluation.words import number, percent, span

if TYPE_CHECKING:
    from rluf_assets.evaluation.offline import OfflineComparison


@dataclass(frozen=True)
class Plot:
    """A figure with its words: caption below it, `alt` for screen readers, and the numbers as a table."""

    name: str
    figure: Any
    caption: str
    alt: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


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
        figure.update_xaxes(tickformat=CHANGE if objective == love else SHARE, row=panel, col=1)
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
    figure.update_xaxes(title=f"Predicted change of {love}", tickformat=CHANGE, zeroline=True, zerolinecolor=MUTED)
    figure.update_yaxes(title=f"{against.capitalize()}: comparisons won", tickformat=SHARE)
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
    ticks = log_ticks(lowest, highest)
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
    figure.update_xaxes(title=f"Predicted change of {love}", tickformat=CHANGE)
    figure.update_yaxes(title="Change users showed", tickformat=CHANGE)
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
    figure.update_xaxes(tickformat=CHANGE)
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
    figure.update_xaxes(tickformat=SHARE, rangemode="tozero")
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
