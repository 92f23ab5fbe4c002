"""A home folder for notebooks: every table and result of the graph, and the models to play with.

    import rluf_assets as rluf

    home = rluf.open_home()                     # the folder that RLUF_HOME names, else ./rluf-demo
    home                                        # a card: days, assets and their state, the conclusion
    home.logs.replies.head().collect()          # big tables are LazyFrames, results are typed
    home.signals.audit
    home.rewards["love"].score(["Try the blue one."], "Which one?")      # needs the extra `train`
    home.policies["moderate"].reply("Which one?")
    home.release.decide(ab_plan={"alpha": 0.01})

Nothing here computes what an asset computed: results are read from the artifacts in force.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Artifact, Lake
from rluf_assets.objectives import REWARDS
from rluf_assets.playing import Panel, Policies, Rewards
from rluf_assets.stages import Evaluations, Logs, Release, Signals

if TYPE_CHECKING:
    from resources.profiles import Profile

HOME_VARIABLE, DEFAULT_HOME = "RLUF_HOME", "rluf-demo"


def open_home(folder: str | Path | None = None) -> Home:
    """A home folder; without one, that which RLUF_HOME names, else `rluf-demo` here or above.

    home = rluf.open_home("my-project")

    Raises ArtifactMissing where there is no lake.
    """
    path = Path(folder or os.environ.get(HOME_VARIABLE) or _default_home()).expanduser().resolve()
    if not (path / "lake").is_dir():
        raise ArtifactMissing(
            f"home folder {path}: holds no lake. Make one with `rluf demo --home {path}`, or name another folder: "
            f"open_home(FOLDER), or the environment variable {HOME_VARIABLE}."
        )
    return Home(path)


def _default_home() -> Path:
    here = Path.cwd()
    homes = [folder / DEFAULT_HOME for folder in (here, *here.parents)]
    return next((home for home in homes if (home / "lake").is_dir()), homes[0])


@dataclass(frozen=True)
class Home:
    """One home folder's artifacts in force, by stage. What is not made yet raises ArtifactMissing, naming the asset."""

    folder: Path

    @property
    def lake(self) -> Lake:
        """The lake itself: artifacts with their manifests, e.g. `home.lake.current("p_love").metrics`."""
        return Lake(str(self.folder / "lake"))

    @property
    def settings(self) -> Profile:
        """The settings: a packaged profile with the home's own `rluf.yaml` laid over it."""
        from resources.profiles import load_profile

        return load_profile(self.folder)

    @property
    def candidates(self) -> pl.DataFrame:
        """One row per candidate of candidates.yaml: its name and the weight of each objective (0 where absent)."""
        return pl.DataFrame([{"candidate": name, **weights} for name, weights in self.policies.weights.items()])

    @property
    def logs(self) -> Logs:
        """Replies with labels, messages, what was set aside, and the count of it all."""
        return Logs(self.lake)

    @property
    def signals(self) -> Signals:
        """The audit of all signals, the training set of one, pairs and prompts."""
        return Signals(self.lake)

    @cached_property
    def rewards(self) -> Rewards:
        """Reward models by objective."""
        return Rewards(self.lake)

    @cached_property
    def policies(self) -> Policies:
        """Candidates by name."""
        from resources.profiles import load_candidates

        weights = {
            name: {o: float(entry.get("weights", {}).get(o, 0.0)) for o in REWARDS}
            for name, entry in load_candidates(self.folder).items()
        }
        return Policies(weights, self.panel)

    @property
    def evaluation(self) -> Evaluations:
        """Predictions, the A/B tests, and how far the predictions can be believed."""
        return Evaluations(self.lake, self.policies, self.settings.release_report)

    @property
    def release(self) -> Release:
        """The decision, and what it would be by other rules."""
        return Release(self.folder, self.lake, tuple(self.policies))

    @cached_property
    def panel(self) -> Panel:
        """All reward models and judges together."""
        return Panel(self.rewards, self.folder)

    def score(self, texts: Sequence[str], prompt: str | Sequence[Message]) -> pl.DataFrame:
        """Scores and verdicts of replies to one prompt: a column per objective, `failed` judges, and their reasons.

        `<objective>_rank` is the share of the baseline's own replies that score lower. Raises MissingExtra without torch.
        """
        return self.panel.score(texts, prompt)

    def state(self) -> pl.DataFrame:
        """One row per asset, in the order of the graph: how many parts are in force, and when the last one was made."""
        from rluf_assets.catalogue import catalogue

        rows = []
        for asset in (*catalogue(), *sorted(set(self.lake.assets()) - catalogue().keys())):
            parts = self._parts(asset)
            last = max((str(part.manifest["published_at"]) for part in parts), default=None)
            rows.append({"asset": asset, "parts": len(parts), "made": last and last.replace("T", " ")[:16]})
        return pl.DataFrame(rows, schema={"asset": pl.String, "parts": pl.Int64, "made": pl.String})

    def _parts(self, asset: str) -> list[Artifact]:
        return [self.lake.current(asset, None if part == "_" else part) for part in self.lake.partitions(asset)]

    def _conclusion(self) -> str:
        try:
            return self.release.conclusion
        except ArtifactMissing:
            return "No release report yet."

    def __repr__(self) -> str:
        return f"Home({str(self.folder)!r}: {_span(self.logs.days)}; {len(self.policies)} candidates. {self._conclusion()})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{row['asset'].replace('_', ' ')}</td><td>{row['parts'] or 'not made yet'}</td>"
            f"<td>{row['made'] or ''}</td></tr>"
            for row in self.state().iter_rows(named=True)
        )
        return (
            f"<p><b>{html.escape(self._conclusion())}</b></p><p>{html.escape(str(self.folder))}: {_span(self.logs.days)}; "
            f"candidates: {html.escape(', '.join(self.policies))}</p>"
            f"<table><thead><tr><th>asset</th><th>parts</th><th>last made (UTC)</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def _span(days: Sequence[str]) -> str:
    return f"{len(days)} days of logs, {days[0]} to {days[-1]}" if days else "no days of logs yet"
