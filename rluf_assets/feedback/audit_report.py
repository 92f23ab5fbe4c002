"""What a signal audit found: its tables, its plots, and one self-contained page (Plotly, inlined)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.charts import SHARE, intervals

if TYPE_CHECKING:
    import plotly.graph_objects as go

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,td:last-child,th:first-child{text-align:left}.say{font-size:20px}"
)
CONTROLS = "log replies that day, log replies before, log days since first seen"
_FILES = ("audit", "by_use_case", "by_day")
_MEANING = {
    "purity": "purity",
    "next_message_agreement": "next message agrees",
    "next_message_usual": "next message agrees, after any reply",
}


@dataclass(frozen=True)
class SignalAudit:
    """One row per signal, and the rates per use case and per day that the report draws.

    audit = rluf.open_home().signals.audit
    audit.table.select("signal", "positives", "recommendation", "reason")
    audit.plot_volume()
    """

    table: pl.DataFrame
    by_use_case: pl.DataFrame
    by_day: pl.DataFrame

    @property
    def conclusion(self) -> str:
        """The audit in one sentence."""
        named = {
            verdict: self.table.filter(pl.col("recommendation") == verdict)["signal"].to_list()
            for verdict in ("use", "use with care", "do not use")
        }
        told = "; ".join(f"{verdict}: {', '.join(signals) or 'none'}" for verdict, signals in named.items())
        return told.capitalize() + "."

    def plot_returning(self) -> go.Figure:
        """Correlation with returning, raw and controlled, with intervals."""
        columns = {"raw": "return_correlation", "activity controlled for": "return_correlation_controlled"}
        figure = intervals(self._rows(columns), title="correlation over user-days; controlled for " + CONTROLS)
        return figure.add_vline(x=0, line_dash="dot")

    def plot_meaning(self) -> go.Figure:
        """Does a signal mean one thing: its purity, and the tone of the users' next messages, with intervals."""
        figure = intervals(self._rows({name: column for column, name in _MEANING.items()}), percent=SHARE)
        return figure.update_xaxes(range=[-0.02, 1.05])

    def plot_volume(self) -> go.Figure:
        """Positives found, and what is left of them after adversarial users and caps."""
        figure = _figure("Volume", "replies (log scale)")
        for name, column in (("positives", "positives"), ("after adversarial users and caps", "effective_positives")):
            figure.add_bar(x=self.table[column].to_list(), y=self.table["signal"].to_list(), orientation="h", name=name)
        return figure.update_xaxes(type="log")

    def plot_over_time(self) -> go.Figure | None:
        """Daily rate of each signal over its mean rate; None where no day has closed windows."""
        figure = _figure("Over time", "rate of the day / rate of the period")
        for signal in self.table["signal"]:
            shown = offered(signal)
            days = self.by_day.filter(pl.col(shown) > 0, pl.col("day").is_not_null())
            mean = days[signal].sum() / max(1, days[shown].sum())
            if mean:
                relative = (days[signal] / days[shown] / mean).to_list()
                figure.add_scatter(x=days["day"].to_list(), y=relative, mode="lines", name=signal)
        return figure if figure.data else None

    def plot_use_cases(self) -> go.Figure:
        """Rate of each signal per use case over its mean rate."""
        figure = _figure("By use case", "rate of the use case / rate overall")
        cases, signals = self.by_use_case, self.table["signal"].to_list()
        rates = []
        for signal in signals:
            mean = cases[signal].sum() / max(1, cases[offered(signal)].sum())
            rows = cases.select(signal, offered(signal)).iter_rows()
            rates.append([positives / max(1, shown) / max(1e-12, mean) for positives, shown in rows])
        return figure.add_heatmap(
            z=rates, x=cases["use_case"].to_list(), y=signals, colorscale="RdBu", zmid=1, texttemplate="%{z:.1f}"
        )

    def changes(self, other: SignalAudit) -> pl.DataFrame:
        """One row per signal of both: what is recommended here, and there."""
        before = self.table.select("signal", before="recommendation")
        return before.join(other.table.select("signal", after="recommendation"), on="signal", maintain_order="left")

    def page(self) -> str:
        """The whole page as HTML, Plotly's script included."""
        import plotly.io as pio
        from plotly.offline import get_plotlyjs

        figures = (self.plot_returning(), self.plot_volume(), self.plot_over_time(), self.plot_use_cases())
        plots = "\n".join(pio.to_html(f, full_html=False, include_plotlyjs=False) for f in figures if f is not None)
        return (
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Signal audit</title><style>{STYLE}</style>"
            f"<script>{get_plotlyjs()}</script></head><body><h1>Which signal can we trust?</h1>"
            f"<p class='say'>{html.escape(self.conclusion)}</p>{plots}{_table(self.table)}</body></html>"
        )

    def write(self, folder: Path) -> None:
        """`audit.parquet`, `by_use_case.parquet`, `by_day.parquet` and the page, `report.html`."""
        for name, table in zip(_FILES, (self.table, self.by_use_case, self.by_day), strict=True):
            table.write_parquet(folder / f"{name}.parquet")
        (folder / "report.html").write_text(self.page(), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SignalAudit:
        """An audit as the job wrote it."""
        return cls(*(pl.read_parquet(folder / f"{name}.parquet") for name in _FILES))

    def _rows(self, columns: dict[str, str]) -> Sequence[dict[str, Any]]:
        """What `intervals` draws: the signals for which a column is known, each with its interval."""
        return [
            {
                "name": row["signal"], "series": name, "value": row[column], "low": row[f"{column}_ci_low"],
                "high": row[f"{column}_ci_high"],
            }
            for name, column in columns.items()
            for row in self.table.iter_rows(named=True)
            if row[column] is not None
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        shown = self.table.select("signal", "positives", "rate", "recommendation", "reason")
        return f"<p><b>{html.escape(self.conclusion)}</b></p>{shown._repr_html_()}"


def offered(signal: str) -> str:
    """Name of the column that counts the replies whose label of this signal is known."""
    return f"offered_{signal}"


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
