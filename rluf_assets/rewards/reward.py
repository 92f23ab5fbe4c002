"""A finished reward model's folder as one reads and asks it; no torch until something is scored.

reward = rluf.open_home().rewards["love"]
reward.metrics["auroc"], reward.metrics["auroc_ci"]
reward.score(["Try the blue one.", "No."], "Which one?")
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from rluf_assets.charts import PALETTE, diagonal, error_bar, intervals, log_ticks, styled
from rluf_assets.chat import Message, as_messages
from rluf_assets.errors import ArtifactMissing, DataError, missing_extra
from rluf_assets.lake import read_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from rluf_assets.rewards.scoring import RewardModel

T = TypeVar("T")
SIGNAL_SCORES, PAIR_SCORES = "holdout_scores.parquet", "eval_scores.parquet"


@dataclass(frozen=True)
class Reward:
    """A reward model by the name of its objective: its figures on held-out rows, and its score of any reply."""

    objective: str
    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Its figures on held-out rows, each with its interval under `<name>_ci`."""
        return dict(read_json(str(self.folder / "metrics.json")))

    @property
    def held_out_scores(self) -> pl.DataFrame:
        """One row per held-out row that was scored.

        P[signal]: label, weight, logit, live_probability, who and what; of pairs: both sides' logits.
        """
        return pl.read_parquet(self.folder / (SIGNAL_SCORES if self.labelled else PAIR_SCORES))

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """What turns its logit into probabilities. Raises ArtifactMissing for a folder that is not finished."""
        try:
            return dict(read_json(str(self.folder / "calibration.json")))
        except FileNotFoundError:
            raise ArtifactMissing(f"{self.folder}: no calibration.json: not a finished reward model.") from None

    @property
    def labelled(self) -> bool:
        """Whether it predicts a signal (else it was learned from pairs)."""
        return bool(self.calibration["objective"] == "bce")

    @property
    def column(self) -> str:
        """The score that it is read by: the live probability of a signal, else the logit."""
        return "live_probability" if self.labelled else "logit"

    @cached_property
    def model(self) -> RewardModel:
        """The model itself, loaded once. Raises MissingExtra without torch."""

        def load() -> RewardModel:
            from rluf_assets.rewards.scoring import RewardModel

            return RewardModel.load(self.folder)

        return quietly(load)

    def score(self, texts: Sequence[str], prompt: str | Sequence[Message]) -> pl.DataFrame:
        """One row per reply to the prompt: `reply`, and its score under the objective's name.

        A signal's score is its live probability, a pair objective's a logit. Raises DataError for an empty prompt or no
        replies, MissingExtra without torch.
        """
        messages = as_messages(prompt)
        if not texts or isinstance(texts, str):
            raise DataError(f"replies: found {texts!r}, expected a list of at least one text.")
        scored = self.model.score([messages] * len(texts), list(texts))[self.column]
        return pl.DataFrame({"reply": list(texts), self.objective: scored}, schema_overrides={"reply": pl.String})

    def plot_reliability(self) -> go.Figure:
        """When it says one in a thousand, is it one in a thousand? Predicted against observed rate, by bin, on log axes."""
        import plotly.graph_objects as go

        bins = [b for b in self.metrics["reliability"] if b["observed"] > 0 and b["predicted"] > 0]
        x, y = ([b[name] for b in bins] for name in ("predicted", "observed"))
        low, high = ([b["observed_ci"][k] for b in bins] for k in (0, 1))
        signal = self.calibration["signal"]
        figure = go.Figure([diagonal(min(x + y), max(x + y))] if bins else [])
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"color": PALETTE[0], "size": 10},
            error_y=error_bar(y, low, high, PALETTE[0]),
        )
        ticks = log_ticks(min(x + y), max(x + y)) if bins else {}
        figure.update_xaxes(type="log", title=f"predicted {signal} rate", **ticks)
        figure.update_yaxes(type="log", title=f"observed {signal} rate", **ticks)
        styled(figure, height=360, legend=False)
        return figure

    def plot_rivals(self) -> go.Figure:
        """How often it ranks a pair right, beside a bag of words and the length of the reply alone."""
        main = "auroc" if self.labelled else "pair_accuracy"
        rivals = {"the model": main, "bag of words": f"{main}_bag_of_words", "length alone": f"{main}_length_only"}
        figure = intervals(self._rows(rivals), title="probability of ranking a pair right")
        return figure.add_vline(x=0.5, line_dash="dot")

    def plot_style(self) -> go.Figure:
        """Correlation of its score with what carries no value of its own: length, emoji, exclamation marks, ..."""
        style = {n.removesuffix("_correlation"): n for n in self.metrics if n.endswith("_correlation")}
        figure = intervals(self._rows(style), title="correlation with the score").update_xaxes(range=[-1, 1])
        return figure.add_vline(x=0, line_dash="dot")

    @property
    def slices(self) -> pl.DataFrame:
        """One row per slice of the held-out rows: by what, how many, and how well it ranks them, with intervals."""
        main = "auroc" if self.labelled else "pair_accuracy"
        rows = [
            {**{k: v for k, v in part.items() if not isinstance(v, list)},
             f"{main}_low": part[f"{main}_ci"][0], f"{main}_high": part[f"{main}_ci"][1]}
            for part in self.metrics["slices"]
            if part[main] is not None
        ]  # fmt: skip
        return pl.DataFrame(rows, infer_schema_length=None)

    def _rows(self, figures: dict[str, str]) -> list[dict[str, Any]]:
        """What `intervals` draws: the figures by their names in metrics.json, of those that are defined."""
        found = []
        for name, key in figures.items():
            if self.metrics.get(key) is not None:
                low, high = self.metrics[f"{key}_ci"]
                found.append({"name": name, "value": self.metrics[key], "low": low, "high": high})
        return found

    @property
    def conclusion(self) -> str:
        """What it knows, in one sentence."""
        return conclusion(self.metrics, self.calibration["objective"])

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.objective)}</b>: {html.escape(self.conclusion)}</p>"


def conclusion(metrics: dict[str, Any], objective: str) -> str:
    """One sentence: does the model know something, more than its baselines, and is it calibrated?"""
    if objective != "bce":
        return (
            f"The model prefers the reply experts chose in {_percent(metrics, 'pair_accuracy')} of "
            f"{metrics['eval_pairs']:,} held-out pairs; a bag of words does in "
            f"{_percent(metrics, 'pair_accuracy_bag_of_words')}, "
            f"length alone in {_percent(metrics, 'pair_accuracy_length_only')}."
        )
    low, high = metrics["observed_over_expected_ci"]
    slope_low, slope_high = metrics["calibration_slope_ci"]
    calibrated = low <= 1 <= high and slope_low <= 1 <= slope_high
    return (
        f"The model ranks a reacted reply above another with probability {_value(metrics, 'auroc')}, against "
        f"{_value(metrics, 'auroc_bag_of_words')} for a bag of words and {_value(metrics, 'auroc_length_only')} for "
        f"length alone; at the live rate it is {'' if calibrated else 'not '}calibrated: observed over expected is "
        f"{_value(metrics, 'observed_over_expected')}, slope {_value(metrics, 'calibration_slope')}."
    )


def figure_text(value: float | None) -> str:
    """A figure as the report's tables write it."""
    if value is None or value != value:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _value(metrics: dict[str, Any], name: str) -> str:
    low, high = metrics[f"{name}_ci"]
    return f"{figure_text(metrics[name])} ({figure_text(low)} to {figure_text(high)})"


def _percent(metrics: dict[str, Any], name: str) -> str:
    low, high = metrics[f"{name}_ci"]
    return f"{metrics[name]:.1%} ({low:.1%} to {high:.1%})"


def quietly(load: Callable[[], T]) -> T:
    """Load models without progress bars, or the notice that notebooks could have prettier ones.

    Raises MissingExtra for a package of an extra that is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")
            from transformers.utils import logging

            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            return load()
    except ModuleNotFoundError as error:
        raise missing_extra(error, "scoring and sampling") or error from error
