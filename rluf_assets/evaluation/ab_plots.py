"""Plots of an A/B readout: every metric, the goal by use case and by day, and the power of a test of another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from rluf_assets.charts import MUTED, PALETTE, SHARE, styled
from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.frames import ALL
from rluf_assets.evaluation.plots import Plot, forest
from rluf_assets.evaluation.power import power_curve, users_needed
from rluf_assets.evaluation.words import number, percent

if TYPE_CHECKING:
    from rluf_assets.evaluation.readout import Readout

Styles = Mapping[str, tuple[str, str]]


def readout_plots(readout: Readout, styles: Styles, control: str) -> list[Plot]:
    """Every plot the readout allows; the control arm is left out."""
    metrics = readout.metrics.filter(pl.col("lift").is_not_null() & (pl.col("candidate") != control))
    whole = metrics.filter(pl.col("segment") == ALL)
    goals = metrics.filter((pl.col("role") == "goal") & (pl.col("segment") != ALL))
    days = readout.days.filter(pl.col("lift").is_not_null() & (pl.col("candidate") != control))
    shown = [
        (
            "ab-test", whole, pl.col("metric"),
            "Change against the baseline's arm, users as the unit, pre-period taken out; bars are 95% intervals.",
        ),
        ("ab-use-cases", goals, pl.col("segment").alias("use case"), "The goal metric by use case, each on its own."),
        (
            "ab-days", days, pl.format("day {}", pl.col("day")).alias("day"),
            "The goal metric by day since a user's first exposure: an effect of novelty wears off.",
        ),
    ]  # fmt: skip
    found = []
    for name, table, label, caption in shown:
        if table["ci_low"].count():
            frame = table.select("candidate", label, value="lift", low="ci_low", high="ci_high")
            found.append(forest(name, frame, frame.columns[1], styles, caption))
    power = power_plot(whole, ReadoutConfig())
    return [*found, *([power] if power else [])]


def power_plot(metrics: pl.DataFrame, config: ReadoutConfig) -> Plot | None:
    """Power over users for lifts of several sizes, from the first candidate whose goal metric allows it."""
    import plotly.graph_objects as go

    goals = metrics.filter((pl.col("role") == "goal") & pl.col("mde").is_not_null())
    if goals.is_empty():
        return None
    row = goals.row(0, named=True)
    run = row["n_control"] + row["n_treatment"]
    figure, rows = go.Figure(), []
    for k, ((lift,), part) in enumerate(power_curve(row, config).group_by("lift", maintain_order=True)):
        figure.add_trace(
            go.Scatter(
                x=part["users"].to_list(), y=part["power"].to_list(), name=f"true lift {percent(lift, signed=True)}",
                mode="lines+markers", line={"color": PALETTE[k % len(PALETTE)]},
            )
        )  # fmt: skip
        here = part.filter(pl.col("users") == run)["power"][0]
        needed = users_needed(row, float(lift))
        rows.append([percent(lift, signed=True), percent(here), number(needed)])
    figure.add_vline(x=run, line={"color": MUTED, "dash": "dash", "width": 1})
    figure.update_xaxes(type="log", title="Users in both arms")
    figure.update_yaxes(tickformat=SHARE, range=[0, 1.03], title="Chance to find it")
    styled(figure, height=340, legend=True)
    caption = (
        f"How likely a test shows a true lift of {row['metric'].replace('_', ' ')}; dashed: the {run:,} users of this "
        f"test, which finds {percent(row['mde'])} or more."
    )
    alt = caption + " " + "; ".join(f"{r[0]}: {r[1]}" for r in rows)
    return Plot("power", figure, caption, alt, ("True lift", "Found by this test", "Users for 80%"), rows)
