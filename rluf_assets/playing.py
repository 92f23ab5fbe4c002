"""Playing with what the graph made: score any reply, let a candidate answer, and see the judges' verdicts.

Behind `lake.score(...)` and `lake.reply(...)` in notebooks and `rluf chat` in a terminal. Models load on first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import ArtifactMissing, DataError, MissingExtra
from rluf_assets.workbench import REWARDS, Workbench

if TYPE_CHECKING:
    from rluf_assets.policy.engine import TransformersEngine
    from rluf_assets.rewards.scoring import RewardModel

T = TypeVar("T")
LOVE = "love"


@dataclass(frozen=True)
class Player:
    """The reward models, policies and judges of one lake, loaded once."""

    bench: Workbench

    @cached_property
    def rewards(self) -> dict[str, RewardModel]:
        """Objective -> its reward model."""

        def load() -> dict[str, RewardModel]:
            from rluf_assets.rewards.scoring import RewardModel

            return {objective: RewardModel.load(self.bench.reward(objective).uri) for objective in REWARDS}

        return _needs_torch(load)

    @cached_property
    def engines(self) -> dict[str, TransformersEngine]:
        """Candidate -> its engine, filled as candidates are asked."""
        return {}

    def score(self, texts: Sequence[str], prompt: str | Sequence[Message]) -> pl.DataFrame:
        """One row per reply: `reply`, score and rank per objective, `failed` judges, `reasons`.

        Raises DataError for an empty prompt or no replies.
        """
        messages = as_messages(prompt)
        if not texts or isinstance(texts, str):
            raise DataError(f"replies: found {texts!r}, expected a list of at least one text.")
        columns: dict[str, pl.Series] = {"reply": pl.Series(list(texts), dtype=pl.String)}
        for objective, model in self.rewards.items():
            scored = model.score([messages] * len(texts), list(texts))[_column(objective)]
            columns[objective] = scored.alias(objective)
            lower = np.searchsorted(self._usual[objective], scored.to_numpy()) / len(self._usual[objective])
            columns[f"{objective}_rank"] = pl.Series(lower)
        verdicts = [_verdicts(messages, text) for text in texts]
        columns["failed"] = pl.Series([list(v) for v in verdicts], dtype=pl.List(pl.String))
        columns["reasons"] = pl.Series(["; ".join(v.values()) for v in verdicts], dtype=pl.String)
        return pl.DataFrame(columns)

    def reply(self, candidate: str, prompt: str | Sequence[Message], *, n: int = 1, seed: int = 0) -> pl.DataFrame:
        """What a candidate answers, sampled n times at temperature 1, scored and judged as `score` does."""
        messages = as_messages(prompt)
        engine = self._engine(candidate)
        room = int(
            self.bench.lake.current("offline_evaluation", candidate).manifest["spec"]["config"]["max_new_tokens"]
        )
        sampled = engine.sample([messages], n=n, max_new_tokens=room, temperature=1.0, seed=seed)[0]
        return self.score([completion.text for completion in sampled], messages)

    def check(self, candidate: str) -> None:
        """Load what answering as a candidate takes. Raises ArtifactMissing or MissingExtra before anybody is asked."""
        self._engine(candidate)
        _ = self.rewards, self._usual

    def _engine(self, candidate: str) -> TransformersEngine:
        if candidate not in self.engines:
            made = self.bench.lake.partitions("crraft_policy")
            if candidate not in made:
                raise ArtifactMissing(
                    f"crraft_policy[{candidate}]: this home has {', '.join(made) or 'no candidates yet'}. "
                    "Name one of them, or materialise it first."
                )
            folder = self.bench.lake.current("crraft_policy", candidate).uri

            def load() -> TransformersEngine:
                from rluf_assets.policy.engine import TransformersEngine

                return TransformersEngine(folder)

            self.engines[candidate] = _needs_torch(load)
        return self.engines[candidate]

    @cached_property
    def _usual(self) -> dict[str, np.ndarray]:
        """Sorted scores of the baseline's own replies per objective: what a score is held against."""
        baseline = self.bench.lake.current("release_report").manifest["spec"]["config"]["baseline"]
        scores = self.bench.evaluation(baseline).scores
        return {o: np.sort(scores.filter(pl.col("objective") == o)[_column(o)].to_numpy()) for o in REWARDS}


def as_messages(prompt: str | Sequence[Message]) -> list[Message]:
    """A prompt as messages; a text is one user message. Raises DataError unless it ends with a user's words."""
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise DataError(f"prompt: found {prompt!r}, expected a text, or messages that end with a user's.")
    return messages


def _verdicts(prompt: Sequence[Message], text: str) -> dict[str, str]:
    """Judge -> reason, of those that fail the reply."""
    from rluf_assets.policy.judges import JUDGES, judge_all

    return {name: v.reason for name, v in judge_all(prompt, text, tuple(JUDGES)).items() if not v.passed}


def _column(objective: str) -> str:
    return "live_probability" if objective == LOVE else "logit"


def _needs_torch(load: Callable[[], T]) -> T:
    """Load models quietly: no progress bars, nor the notice that notebooks could have prettier ones."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")
            from transformers.utils import logging

            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            return load()
    except ModuleNotFoundError as error:
        from rluf_assets.jobs.runner import EXTRA_OF

        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise MissingExtra(
            f"the package {error.name!r} is not installed: scoring and sampling need the extra {extra!r}. "
            f"Install it: pip install 'rluf[{extra}]'"
        ) from error
