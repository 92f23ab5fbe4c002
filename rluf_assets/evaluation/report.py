"""The release report: one self-contained HTML page that opens offline, on a phone and in print.

Plotly is inlined once, compressed (the browser unpacks it), so the page stays near 2 MB; every plot also has its
numbers as a table, which is what print, screen readers and browsers without scripts show.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.charts import colours
from rluf_assets.evaluation import plots
from rluf_assets.evaluation.ab_plots import readout_plots
from rluf_assets.evaluation.claims import backtest_sentences
from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import Gate, Result
from rluf_assets.evaluation.frames import Evaluation
from rluf_assets.evaluation.gates import GOAL, GUARDRAIL
from rluf_assets.evaluation.offline import OfflineComparison
from rluf_assets.evaluation.readout import Readout
from rluf_assets.evaluation.release import REFERENCE, Decision, claimed, conclusion
from rluf_assets.evaluation.second_reader import read_off_policy, second_reader
from rluf_assets.evaluation.segment_gate import for_whom
from rluf_assets.evaluation.trust import TRUST_SCHEMA
from rluf_assets.evaluation.words import number, percent, points, span

TEMPLATE = Path(__file__).with_name("report.jinja")
CANDIDATE_PAGE_REPLIES = 3  # times as many side-by-side replies as on the run's page
MARKS = {
    **dict.fromkeys(("pass", "ok", "promote", "better"), "✓"),
    **dict.fromkeys(("fail", "hold", "harm", "worse"), "✗"),
    **dict.fromkeys(("not shown", "needs A/B", "unclear"), "?"),
    "warn": "!",
    "not measured": "–",
    "info": "i",
    "reference": "•",
}
WORST_FIRST = ("fail", "not measured", "not shown", "pass")


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows. What is None or empty is left out of it."""

    decisions: Sequence[Decision]
    offline: OfflineComparison
    tripwires: pl.DataFrame
    phrases: pl.DataFrame
    farewells: pl.DataFrame
    logged_farewells: float | None
    replies: Sequence[Mapping[str, Any]]
    # All candidates of the run: one keeps its colour on every page.
    candidates: Sequence[str] = ()
    readout: Readout | None = None
    backtest: tuple[pl.DataFrame, Mapping[str, Any]] | None = None
    trust: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TRUST_SCHEMA))
    off_policy: pl.DataFrame = field(default_factory=lambda: read_off_policy(None))
    reliability: pl.DataFrame | None = None
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    funnel: pl.DataFrame | None = None
    set_aside: Sequence[Mapping[str, Any]] = ()
    rates: Mapping[str, Any] = field(default_factory=dict)
    simulation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    candidate: str | None = None


def render_report(data: ReportData, config: ReleaseConfig) -> str:
    """The page as HTML. Raises ValueError if a figure that is not finite would reach it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": percent,
        "points": points,
        "number": number,
        "words": _words,
        "p_value": _p_value,
    }
    environment.globals |= {
        "span": span,
        "span_points": _span_points,
        "mark": lambda verdict: MARKS.get(verdict, ""),
        "percent": percent,
        "claimed": claimed,
        "backtest_sentences": backtest_sentences,
        "for_whom": lambda name: for_whom(name, data.readout, config) if data.readout else "",
    }
    shown = draw(data, config)
    audited = [r for r in data.tripwires.iter_rows(named=True) if r["candidate"] != config.control]
    judged = [d for d in data.decisions if d.decision != REFERENCE]
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        data=data,
        config=config,
        conclusion=conclusion(data.decisions, config.baseline),
        judged=judged,
        rows=gate_rows(judged),
        tested=any(g.name == GOAL and g.result != Result.NOT_MEASURED for d in judged for g in d.gates),
        plots=shown,
        figures={name: _figure_json(plot) for name, plot in shown.items()},
        fired=[r for r in audited if r["verdict"] != "ok"],
        unsure=[r for r in audited if r["verdict"] == "ok" and r["result"] == Result.NOT_SHOWN],
        quiet=[r for r in audited if r["verdict"] == "ok" and r["result"] != Result.NOT_SHOWN],
        phrases=data.phrases.filter(pl.col("candidate") != config.control),
        simulation=list(data.simulation.items()),
        correlations=_correlations(data, config),
        arms=_logged_arms(data),
        second=second_reader(data.off_policy, data.decisions, config),
        plotly=packed_plotly(),
    )
    return str(page)


def gate_rows(judged: Sequence[Decision]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The page's rows: a gate's title, and per candidate its result and its detail. Guardrails share one row."""
    if not judged:
        return []
    names = [g.name for g in judged[0].gates if not g.name.startswith(GUARDRAIL)]
    rows = []
    for name in names:
        gates = [next(g for g in d.gates if g.name == name) for d in judged]
        rows.append((gates[0].title, [(str(g.result), g.detail) for g in gates]))
    guardrails = [[g for g in d.gates if g.name.startswith(GUARDRAIL)] for d in judged]
    if any(guardrails):
        rows.append(("Guardrails stay within their margins", [_together(gates) for gates in guardrails]))
    return rows


def _together(guardrails: Sequence[Gate]) -> tuple[str, str]:
    """The worst result of the guardrails, and those that do not pass, in a few words each."""
    if all(g.result == Result.NOT_MEASURED for g in guardrails):
        return str(Result.NOT_MEASURED), f"Not one of {len(guardrails)} guardrails was measured."
    worst = min(guardrails, key=lambda g: WORST_FIRST.index(g.result)).result
    broken = [g for g in guardrails if g.result != Result.PASS]
    told = f"{len(guardrails) - len(broken)} of {len(guardrails)} hold"
    return str(worst), f"{told}{': ' if broken else ''}{'; '.join(g.brief for g in broken)}."


def draw(data: ReportData, config: ReleaseConfig) -> dict[str, plots.Plot]:
    """Every plot the data allow, by name."""
    love, offline = config.love_objective, data.offline
    shown = offline.pareto["candidate"].to_list()
    all_styles = colours(data.candidates or shown, (config.baseline, config.control))
    styles = {name: style for name, style in all_styles.items() if name in shown}
    against = "helpfulness" if "helpfulness" in offline.objectives["objective"].to_list() else None
    found: list[plots.Plot | None] = [plots.trade_off(offline, love, styles)]
    if against:
        found.append(plots.pareto(offline, love, against, styles))
    if data.backtest is not None:
        found.append(plots.backtest_plot(data.backtest[0], data.backtest[1], love))
    if data.reliability is not None:
        found.append(plots.reliability_plot(data.reliability, love))
    if data.readout is not None:
        arms = data.readout.metrics["candidate"].unique().sort().to_list()
        logged = colours([arm for arm in arms if arm not in styles])
        found += readout_plots(data.readout, {**styles, **logged}, config.control)
    found.append(
        plots.rates_plot(
            "farewells", data.farewells, styles, data.logged_farewells, "Share of replies that say goodbye"
        )
    )
    found.append(plots.by_use_case(offline, love, (config.baseline, config.control), styles))
    return {plot.name: plot for plot in found if plot is not None}


def farewell_rates(evaluations: Mapping[str, Evaluation], config: ReleaseConfig, *, seed: int) -> pl.DataFrame:
    """Share of replies that say goodbye per candidate, with an interval over prompts: candidate, value, low, high."""
    import numpy as np

    from rluf_assets.evaluation.stats import bootstrap
    from rluf_assets.text import FAREWELL

    rows = []
    for name, found in evaluations.items():
        share = found.completions.group_by("prompt_id").agg(FAREWELL.share(pl.col("completion")).mean().alias("share"))
        values = share.sort("prompt_id")["share"].to_numpy()
        table = np.column_stack([values, np.ones(len(values))])
        estimate = bootstrap(
            table, lambda t: np.asarray(t[..., 0] / t[..., 1])[..., None],
            resamples=config.resamples, seed=seed, confidence=config.confidence,
        )[0]  # fmt: skip
        rows.append({"candidate": name, "value": estimate.value, "low": estimate.low, "high": estimate.high})
    return pl.DataFrame(rows)


def side_by_side(evaluations: Mapping[str, Evaluation], config: ReleaseConfig, *, seed: int) -> list[dict[str, Any]]:
    """Replies of every candidate to the same prompts: drawn at random over use cases, not chosen for their looks.

    Enough for a candidate's own page; the run's page shows the first `side_by_side` of them.
    """
    import numpy as np

    base = evaluations[config.baseline].completions
    prompts = base.unique("prompt_id", keep="first", maintain_order=True).sort("prompt_id")
    order = np.random.default_rng(seed).permutation(len(prompts))
    drawn = prompts[order.tolist()].with_columns(pl.int_range(pl.len()).over("use_case").alias("turn"))
    chosen = drawn.sort("turn", "use_case").head(CANDIDATE_PAGE_REPLIES * config.side_by_side)
    shown = []
    for prompt in chosen.iter_rows(named=True):
        replies = []
        for name, found in evaluations.items():
            own = (
                found.completions.filter(pl.col("prompt_id") == prompt["prompt_id"])
                .sort("completion_id")
                .row(0, named=True)
            )
            scores = found.scores.filter(
                (pl.col("prompt_id") == prompt["prompt_id"]) & (pl.col("completion_id") == own["completion_id"])
            )
            column = {o: "live_probability" if o == config.love_objective else "logit" for o in found.objectives}
            values = {r["objective"]: r[column[r["objective"]]] for r in scores.iter_rows(named=True)}
            failed = [j for j in found.judges if own[f"judge_{j}"] is False]
            replies.append({"candidate": name, "text": own["completion"], "scores": values, "failed": failed})
        shown.append({"use_case": prompt["use_case"], "messages": prompt["prompt"], "replies": replies})
    return shown


def _logged_arms(data: ReportData) -> dict[str, Any] | None:
    """Of a readout of the logs' own arms: the arm that the others are read against, and how many users an arm has."""
    if data.readout is None or set(data.readout.metrics["candidate"]) & set(data.offline.pareto["candidate"]):
        return None
    users = data.readout.metrics["n_treatment"].to_list() + data.readout.metrics["n_control"].to_list()
    return {"baseline": data.readout.metrics["baseline"][0], "fewest": min(users), "most": max(users)}


def _correlations(data: ReportData, config: ReleaseConfig) -> list[dict[str, Any]]:
    """Within-prompt correlations of the page's candidate, else of the baseline, and over policies."""
    whose = data.candidate or config.baseline
    table = data.offline.correlations.filter(
        ((pl.col("level") == "completions") & (pl.col("candidate") == whose)) | (pl.col("level") == "policies")
    )
    return table.to_dicts()


def _figure_json(plot: plots.Plot) -> str:
    """Plotly JSON for a script element; refuses figures that are not finite."""
    text = plot.figure.to_json(validate=True)
    json.loads(text, parse_constant=_not_finite)
    return str(text).replace("</", "<\\/")


def _not_finite(constant: str) -> float:
    raise ValueError(f"report: found {constant} in a plot, expected finite figures. Show a missing figure as None.")


@cache
def packed_plotly() -> str:
    """Plotly's script, gzipped and in base64: 2 MB instead of 5."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode()


def _span_points(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{points(low)} to {points(high)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
