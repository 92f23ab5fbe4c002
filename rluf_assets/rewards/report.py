"""A reward model's report: one self-contained HTML page, its conclusion first, then reliability and mistakes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.io import to_html

from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.evaluation import Evaluation
from rluf_assets.rewards.reward import conclusion, figure_text
from rluf_assets.rewards.set_aside import told

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 14px } td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd;
text-align: left; vertical-align: top } td.number { text-align: right; font-variant-numeric: tabular-nums }
.lead { font-size: 20px } pre { white-space: pre-wrap; margin: 0; font: inherit }
"""
COLOURS = {"model": "#2563a8", "other": "#b0b7c0", "positive": "#c2410c"}


def write_report(path: Path, evaluation: Evaluation, calibration: Calibration, config: RewardConfig) -> None:
    """Write the page for a labelled or a pairwise evaluation."""
    labelled = config.objective == "bce"
    parts = (_signal_parts if labelled else _pair_parts)(evaluation, calibration, config)
    title = f"P[{calibration.signal}]" if labelled else "Preference reward model"
    body = "\n".join(part if isinstance(part, str) else _figure(part) for part in parts)
    library = to_html(go.Figure(), include_plotlyjs=True, full_html=False).split("<div", 1)[0]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    path.write_text(f"{page}{library}<h1>{html.escape(title)}</h1>{body}</html>", encoding="utf-8")


def _signal_parts(evaluation: Evaluation, calibration: Calibration, config: RewardConfig) -> list[str | go.Figure]:
    found = evaluation.metrics
    return [
        _lead(conclusion(found, "bce")),
        f"<p>{html.escape(told(found['set_aside']))}</p>",
        f"<p>{found['holdout_positives']:,} positives among {found['holdout_rows']:,} held-out replies, "
        f"{found['scored_rows']:,} of them scored and weighted back. Intervals resample users. "
        f"The baselines learned from {found['baseline_train_rows']:,} of the {found['model_train_rows']:,} rows that the "
        "model learned from. "
        f"live = sigmoid(z/{calibration.temperature:.3g} {calibration.offset:+.3g} - {calibration.shift:.3g}).</p>",
        _reliability(found["reliability"]),
        _score_distributions(evaluation.scores),
        _forest(found["slices"], "auroc", "AUROC by slice", 0.5),
        "<h2>All figures</h2>" + _figures_table(found),
        "<h2>Worst mistakes</h2>" + _signal_mistakes(evaluation, config.evaluation.worst_mistakes),
    ]


def _pair_parts(evaluation: Evaluation, calibration: Calibration, config: RewardConfig) -> list[str | go.Figure]:
    found = evaluation.metrics
    figure = go.Figure(go.Histogram(x=evaluation.rows["margin"].to_numpy(), nbinsx=60, marker_color=COLOURS["model"]))
    figure.add_vline(x=0, line_dash="dot")
    figure.update_layout(title="Score of the chosen reply minus the rejected one's", xaxis_title="margin")
    return [
        _lead(conclusion(found, "bradley_terry")),
        f"<p>{html.escape(told(found['set_aside']))}</p>",
        f"<p>The baselines learned from {found['baseline_train_pairs']:,} of the {found['model_train_pairs']:,} pairs that "
        "the model learned from.</p>",
        figure,
        _forest(found["slices"], "pair_accuracy", "Pair accuracy by slice", 0.5),
        "<h2>All figures</h2>" + _figures_table(found),
        "<h2>Worst mistakes</h2>" + _pair_mistakes(evaluation, config.evaluation.worst_mistakes),
    ]


def _reliability(bins: list[dict[str, Any]]) -> go.Figure:
    predicted = np.array([b["predicted"] for b in bins])
    observed = np.array([b["observed"] for b in bins])
    bounds = np.array([[v if v is not None else np.nan for v in b["observed_ci"]] for b in bins], dtype=float)
    top = float(np.nanmax([predicted.max(), observed.max()]))
    figure = go.Figure()
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line={"dash": "dot", "color": COLOURS["other"]}, name="ideal"
    )
    errors = {"array": bounds[:, 1] - observed, "arrayminus": observed - bounds[:, 0]}
    figure.add_scatter(
        x=predicted, y=observed, error_y=errors, mode="markers+lines", line_color=COLOURS["model"], name="model"
    )
    figure.update_layout(
        title="Reliability at the live rate", xaxis_title="predicted rate", yaxis_title="observed rate"
    )
    return figure


def _score_distributions(scores: pl.DataFrame) -> go.Figure:
    figure = go.Figure()
    for label, name, colour in ((0, "no reaction", COLOURS["other"]), (1, "reaction", COLOURS["positive"])):
        part = scores.filter(pl.col("label") == label)["logit"].to_numpy()
        figure.add_histogram(x=part, histnorm="probability density", opacity=0.6, name=name, marker_color=colour)
    figure.update_layout(title="Scores of both classes", barmode="overlay", xaxis_title="raw logit")
    return figure


def _forest(slices: list[dict[str, Any]], metric: str, title: str, reference: float) -> go.Figure:
    names = [f"{entry['by']}: {entry['value']}" for entry in slices][::-1]
    values = np.array([entry[metric] for entry in slices], dtype=float)[::-1]
    bounds = np.array([entry[f"{metric}_ci"] for entry in slices], dtype=float).reshape(-1, 2)[::-1]
    errors = {"array": bounds[:, 1] - values, "arrayminus": values - bounds[:, 0]}
    figure = go.Figure(go.Scatter(x=values, y=names, error_x=errors, mode="markers", marker_color=COLOURS["model"]))
    figure.add_vline(x=reference, line_dash="dot")
    figure.update_layout(title=title, height=140 + 24 * len(names), margin_l=220)
    return figure


def _figures_table(metrics: dict[str, Any]) -> str:
    rows = []
    for name, value in metrics.items():
        if name.endswith("_ci") or not isinstance(value, int | float):
            continue
        interval = metrics.get(f"{name}_ci")
        shown = "" if interval is None else " to ".join(figure_text(bound) for bound in interval)
        rows.append((name.replace("_", " "), figure_text(value), shown))
    return _table(("figure", "value", "interval"), rows)


def _signal_mistakes(evaluation: Evaluation, count: int) -> str:
    columns = ("prompt", "completion")
    frame = pl.concat(
        [evaluation.rows.select(columns), evaluation.scores.select("label", "live_probability")], how="horizontal"
    )
    missed = frame.filter(pl.col("label") == 1).sort("live_probability").head(count)
    overrated = frame.filter(pl.col("label") == 0).sort("live_probability", descending=True).head(count)
    parts = []
    for title, part in (("Reacted, but scored lowest", missed), ("Scored highest, but no reaction", overrated)):
        rows = [
            (figure_text(r["live_probability"]), _asked(r["prompt"]), r["completion"])
            for r in part.iter_rows(named=True)
        ]
        parts.append(f"<h3>{title}</h3>" + _table(("live probability", "last message", "reply"), rows))
    return "".join(parts)


def _pair_mistakes(evaluation: Evaluation, count: int) -> str:
    worst = evaluation.rows.sort("margin").head(count)
    rows = [
        (figure_text(r["margin"]), _asked(r["prompt"]), r["chosen"], r["rejected"]) for r in worst.iter_rows(named=True)
    ]
    return _table(("margin", "last message", "chosen by experts", "preferred by the model"), rows)


def _asked(prompt: Sequence[dict[str, str]]) -> str:
    return prompt[-1]["content"]


def _lead(sentence: str) -> str:
    return f"<p class=lead>{html.escape(sentence)}</p>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td><pre>{html.escape(cell)}</pre></td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _figure(figure: go.Figure) -> str:
    figure.update_layout(template="plotly_white")
    return to_html(figure, include_plotlyjs=False, full_html=False)
