"""Playing with what the graph made: score any reply, let a candidate answer, and see the judges' verdicts.

Behind `home.rewards`, `home.policies` and `home.score` in notebooks and `rluf chat` in a terminal. Models load on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rluf_assets.chat import Message, as_messages
from rluf_assets.errors import ArtifactMissing
from rluf_assets.evaluation.frames import Evaluation, read_evaluation
from rluf_assets.lake import Artifact, Lake
from rluf_assets.objectives import REWARDS
from rluf_assets.policy.optimised import OptimisedPolicy
from rluf_assets.rewards.reward import Reward, quietly

if TYPE_CHECKING:
    from rluf_assets.policy.engine import TransformersEngine


@dataclass(frozen=True)
class Rewards(Mapping[str, Reward]):
    """The reward models in force, by objective: those that are made.

    home.rewards["love"].score(["Try the blue one."], "Which one?")
    """

    lake: Lake
    _loaded: dict[str, Reward] = field(default_factory=dict, repr=False)

    def __getitem__(self, objective: str) -> Reward:
        """Raises ArtifactMissing for an objective that is unknown, or not trained yet."""
        if objective not in REWARDS:
            raise ArtifactMissing(f"objective {objective!r}: no reward model; expected one of {sorted(REWARDS)}.")
        folder = self.lake.current(REWARDS[objective]).uri
        return self._loaded.setdefault(folder, Reward(objective, Path(folder)))

    def __iter__(self) -> Iterator[str]:
        return (objective for objective, asset in REWARDS.items() if self.lake.partitions(asset))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, objective: object) -> bool:
        return objective in list(self)


@dataclass(frozen=True)
class Panel:
    """All reward models and judges at once, of the home in `folder`."""

    rewards: Rewards
    folder: Path

    @cached_property
    def baseline(self) -> str:
        """The candidate with whose replies a score is compared."""
        from resources.profiles import load_profile

        return load_profile(self.folder).release_report.baseline

    def score(self, texts: Sequence[str], prompt: str | Sequence[Message]) -> pl.DataFrame:
        """One row per reply: `reply`, score and rank per objective, `failed` judges, `reasons`.

        `<objective>_rank` is the share of the baseline's own replies that score lower. Raises DataError for an empty
        prompt or no replies.
        """
        columns: dict[str, pl.Series] = {}
        for objective in REWARDS:
            scored = self.rewards[objective].score(texts, prompt)
            columns |= {name: scored[name] for name in ("reply", objective)}
            usual = self._usual[objective]
            columns[f"{objective}_rank"] = pl.Series(np.searchsorted(usual, scored[objective].to_numpy()) / len(usual))
        verdicts = [_verdicts(as_messages(prompt), text) for text in texts]
        columns["failed"] = pl.Series([list(v) for v in verdicts], dtype=pl.List(pl.String))
        columns["reasons"] = pl.Series(["; ".join(v.values()) for v in verdicts], dtype=pl.String)
        return pl.DataFrame(columns)

    def check(self) -> None:
        """Load everything. Raises ArtifactMissing or MissingExtra before anybody is asked."""
        for objective in REWARDS:
            _ = self.rewards[objective].model
        _ = self._usual

    @cached_property
    def _usual(self) -> dict[str, np.ndarray]:
        """Sorted scores of the baseline's own replies per objective: what a score is compared with."""
        scores = self.evaluation(self.baseline).scores
        return {o: np.sort(scores.filter(pl.col("objective") == o)[self.rewards[o].column].to_numpy()) for o in REWARDS}

    def evaluation(self, candidate: str) -> Evaluation:
        """A candidate's completions on the fixed prompts, with verdicts, and their scores."""
        return read_evaluation(candidate, Path(self.rewards.lake.current("offline_evaluation", candidate).uri))


@dataclass(frozen=True)
class Policy:
    """One candidate of `candidates.yaml`: its weights, what it says, and what users did with it.

    home.policies["moderate"].reply("Which one is better?", n=3)
    """

    name: str
    weights: Mapping[str, float]
    panel: Panel = field(repr=False)

    @property
    def artifact(self) -> Artifact:
        """The policy in force, a Hugging Face folder. Raises ArtifactMissing where it is not made."""
        made = self._lake.partitions("crraft_policy")
        if self.name not in made:
            raise ArtifactMissing(
                f"crraft_policy[{self.name}]: this home has {', '.join(made) or 'no candidates yet'}. "
                "Name one of them, or materialise it first."
            )
        return self._lake.current("crraft_policy", self.name)

    @property
    def evaluation(self) -> Evaluation:
        """Its completions on the fixed prompts, with the judges' verdicts, and their scores."""
        return self.panel.evaluation(self.name)

    @property
    def exposures(self) -> pl.DataFrame:
        """One row per user exposed to its arm of the A/B test."""
        return pl.read_parquet(self._lake.current("ab_exposures", self.name).path("exposures.parquet"))

    @property
    def optimised(self) -> OptimisedPolicy:
        """How it was made: a row per iteration, and their plot."""
        return OptimisedPolicy(Path(self.artifact.uri))

    def check(self) -> None:
        """Load all that answering takes. Raises ArtifactMissing or MissingExtra before anybody is asked."""
        _ = self.engine
        self.panel.check()

    def reply(self, prompt: str | Sequence[Message], *, n: int = 1, seed: int = 0) -> pl.DataFrame:
        """What it answers, sampled n times at temperature 1, scored and judged as `home.score` does it."""
        messages = as_messages(prompt)
        evaluated = self._lake.current("offline_evaluation", self.name).manifest["spec"]["config"]
        room = int(evaluated["max_new_tokens"])
        sampled = self.engine.sample([messages], n=n, max_new_tokens=room, temperature=1.0, seed=seed)[0]
        return self.panel.score([completion.text for completion in sampled], messages)

    @cached_property
    def engine(self) -> TransformersEngine:
        """What it answers with, loaded once. Raises MissingExtra without torch."""
        folder = self.artifact.uri

        def load() -> TransformersEngine:
            from rluf_assets.policy.engine import TransformersEngine

            return TransformersEngine(folder)

        return quietly(load)

    @property
    def _lake(self) -> Lake:
        return self.panel.rewards.lake


@dataclass(frozen=True)
class Policies(Mapping[str, Policy]):
    """The candidates, by name, in the order of `candidates.yaml`.

    home.policies["moderate"].evaluation.completions
    """

    weights: Mapping[str, Mapping[str, float]]
    panel: Panel = field(repr=False)
    _loaded: dict[str, Policy] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Policy:
        """Raises ArtifactMissing for a name that is not in candidates.yaml."""
        policy = self._loaded.get(name) or Policy(name, self.weights.get(name, {}), self.panel)
        if name not in self.weights:
            _ = policy.artifact
        return self._loaded.setdefault(name, policy)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __contains__(self, name: object) -> bool:
        return name in self.weights


def _verdicts(prompt: Sequence[Message], text: str) -> dict[str, str]:
    """Judge -> reason, of those that fail the reply."""
    from rluf_assets.policy.judges import JUDGES, judge_all

    return {name: v.reason for name, v in judge_all(prompt, text, tuple(JUDGES)).items() if not v.passed}
