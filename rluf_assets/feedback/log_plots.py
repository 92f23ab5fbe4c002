"""Plots of logs before any model: how rare reactions are, how few users give most of them, what becomes of replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from rluf_assets.charts import MUTED, PALETTE, SHARE, intervals, styled
from rluf_assets.feedback.schemas import label_column
from rluf_assets.feedback.splits import signals_of
from rluf_assets.feedback.statistics import proportion

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONFIDENCE = 0.95


def signal_rates(replies: pl.LazyFrame) -> pl.DataFrame:
    """One row per signal, rarest first: the share of replies with a known label that got it, with Wilson's interval."""
    signals = signals_of(replies)
    labels = [label_column(signal) for signal in signals]
    counts = replies.select(pl.col(labels).sum().name.suffix("+"), pl.col(labels).count()).collect().row(0, named=True)
    rows = [
        {"signal": signal, "replies": counts[label], "positives": counts[f"{label}+"],
         **proportion(counts[f"{label}+"], counts[label], CONFIDENCE)._asdict()}
        for signal, label in zip(signals, labels, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows).fill_nan(None).sort("value", nulls_last=True)


def plot_rates(replies: pl.LazyFrame) -> go.Figure:
    """How rare each signal is, on a logarithmic axis; those that nobody gave have no point there."""
    rows = signal_rates(replies).filter(pl.col("value") > 0)
    named = rows.rename({"signal": "name"}).to_dicts()
    return intervals(named, title="share of replies that got it", percent=".2~%", log=True)


def plot_concentration(replies: pl.LazyFrame) -> go.Figure:
    """The share of each signal that its most eager users gave."""
    import plotly.graph_objects as go

    signals = signals_of(replies)
    sums = [pl.col(label_column(signal)).sum().alias(signal) for signal in signals]
    per_user = replies.group_by("user_id").agg(sums).collect()
    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": MUTED}, name="equal"))
    for k, signal in enumerate(signals):
        held = per_user[signal].cast(pl.Int64).sort(descending=True).cum_sum()
        if not held[-1]:
            continue
        at = sorted({round(i * (len(held) - 1) / 200) for i in range(201)})
        figure.add_scatter(
            x=[(i + 1) / len(held) for i in at],
            y=[held[i] / held[-1] for i in at],
            mode="lines",
            name=signal,
            line={"color": PALETTE[k % len(PALETTE)]},
        )
    figure.update_xaxes(title="share of users, most eager first", tickformat=SHARE)
    figure.update_yaxes(title="share of the signal", tickformat=SHARE)
    styled(figure, height=380, legend=True)
    return figure


def plot_funnel(funnel: pl.DataFrame, signal: str) -> go.Figure:
    """From logs to training examples: rows left after each step, and why the others went."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Bar(
            x=funnel["rows_out"].to_list(),
            y=[step.replace("_", " ") for step in funnel["step"]],
            orientation="h",
            marker_color=PALETTE[0],
            customdata=funnel["reason"].to_list(),
            hovertemplate="%{x:,} left<br>dropped: %{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(type="log", title=f"rows left for {signal} (log scale)")
    figure.update_yaxes(autorange="reversed")
    styled(figure, height=90 + 30 * len(funnel), legend=False)
    return figure
