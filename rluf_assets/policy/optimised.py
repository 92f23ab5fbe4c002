"""An optimised policy's folder as one reads it: what happened in each iteration. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from rluf_assets.charts import PALETTE, styled
from rluf_assets.errors import ArtifactMissing

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class OptimisedPolicy:
    """A policy folder that `optimise_policy` wrote: an AutoModelForCausalLM, and a row per iteration of its making."""

    folder: Path

    @property
    def iterations(self) -> pl.DataFrame:
        """One row per iteration: rewards, how many replies were learned from and what dropped the others, distance."""
        path = self.folder / "iterations.parquet"
        if not path.exists():
            raise ArtifactMissing(f"{path}: no such file. Optimise the policy first.")
        return pl.read_parquet(path)

    def plot_iterations(self) -> go.Figure:
        """Mean of each objective over iterations, z-scored on replies of the base policy."""
        import plotly.graph_objects as go

        rows, figure = self.iterations, go.Figure()
        for k, name in enumerate(column for column in rows.columns if column.startswith("value_")):
            figure.add_scatter(
                x=rows["iteration"].to_list(), y=rows[name].to_list(), mode="lines", name=name.removeprefix("value_"),
                line={"color": PALETTE[k % len(PALETTE)]},
            )  # fmt: skip
        figure.update_xaxes(title="iteration")
        figure.update_yaxes(title="score, in spreads of the base policy's")
        styled(figure, height=340, legend=True)
        return figure

    def _repr_html_(self) -> str:
        shown = ("iteration", "learned", "passed_share", "reward", "kl_mean", "farewell_share")
        return f"<p>{self.folder}</p>{self.iterations.select(shown)._repr_html_()}"
