"""The lake for notebooks: every table and result of the graph as a frame, and the models to play with.

    from rluf_assets import open_lake
    lake = open_lake()                      # the home that RLUF_HOME names, else ./rluf-demo
    lake.signal_set().head().collect()      # big tables are LazyFrames, results are DataFrames
    lake.score(["Try the blue one."], "Which one?")   # needs the extra `train`

Nothing here computes what an asset computed: results are read from the artifacts in force.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Artifact, Lake, read_json

if TYPE_CHECKING:
    from rluf_assets.evaluation.backtest import Backtest
    from rluf_assets.evaluation.frames import Evaluation
    from rluf_assets.evaluation.hacking import Audit as HackingAudit
    from rluf_assets.evaluation.offline import OfflineComparison
    from rluf_assets.evaluation.readout import Readout
    from rluf_assets.feedback.audit import Audit as SignalAudit
    from rluf_assets.playing import Player

HOME_VARIABLE, DEFAULT_HOME = "RLUF_HOME", "rluf-demo"
# Objectives by name -> the asset that scores them. "love" stands for the configured signal's reward model.
REWARDS = {"love": "p_love", "helpfulness": "helpfulness_reward", "safety": "safety_reward"}


def open_lake(home: str | Path | None = None) -> Workbench:
    """The lake of a home folder; without one, of the folder that RLUF_HOME names, else of `rluf-demo` here or above.

    Raises ArtifactMissing where there is no lake.
    """
    folder = Path(home or os.environ.get(HOME_VARIABLE) or _default_home()).expanduser().resolve()
    if not (folder / "lake").is_dir():
        raise ArtifactMissing(
            f"home folder {folder}: holds no lake. Make one with `rluf demo --home {folder}`, or name another folder: "
            f"open_lake(FOLDER), or the environment variable {HOME_VARIABLE}."
        )
    return Workbench(folder)


def _default_home() -> Path:
    here = Path.cwd()
    homes = [folder / DEFAULT_HOME for folder in (here, *here.parents)]
    return next((home for home in homes if (home / "lake").is_dir()), homes[0])


@dataclass(frozen=True)
class Workbench:
    """One home folder's artifacts in force. Every method raises ArtifactMissing naming the asset to materialise."""

    home: Path

    @property
    def lake(self) -> Lake:
        """The lake itself: artifacts with their manifests, e.g. `lake.lake.current("p_love").metrics`."""
        return Lake(str(self.home / "lake"))

    @property
    def candidates(self) -> pl.DataFrame:
        """One row per candidate of candidates.yaml: its name and the weight of each objective (0 where absent)."""
        from resources.profiles import load_candidates

        rows = [
            {"candidate": name, **{o: float(entry.get("weights", {}).get(o, 0.0)) for o in REWARDS}}
            for name, entry in load_candidates(self.home).items()
        ]
        return pl.DataFrame(rows)

    # Story 1: logs

    def replies(self) -> pl.LazyFrame:
        """One row per assistant reply of all days: labels per signal (null while pending), who, when, which policy."""
        return self._days("replies")

    def messages(self) -> pl.LazyFrame:
        """One row per accepted message of all days."""
        return self._days("messages")

    def quarantine(self) -> pl.LazyFrame:
        """One row per row set aside, with the reason."""
        return self._days("quarantine")

    def accounting(self) -> pl.DataFrame:
        """One row per day: rows in, accepted and quarantined per table, replies mature and pending, rates."""
        days = self.lake.partitions("validated_replies")
        rows = [{"day": day, **self.lake.current("validated_replies", day).metrics} for day in days]
        return pl.DataFrame(rows, infer_schema_length=None)

    # Story 2: signals

    def signal_audit(self) -> SignalAudit:
        """Per signal volume, correlation with returning, purity, adversarial share and a recommendation."""
        from rluf_assets.feedback.audit import Audit

        names = ("audit", "by_use_case", "by_day")
        return Audit(*(self._frame("signal_audit", f"{name}.parquet") for name in names))

    def signal_set(self, split: str = "train") -> pl.LazyFrame:
        """One row per training example ("train", upsampled) or per later reply at the natural rate ("holdout")."""
        return pl.scan_parquet(self.lake.current("signal_set").path(f"{split}.parquet"))

    def funnel(self) -> pl.DataFrame:
        """From logs to training examples: one row per step with rows in, dropped and out, and why."""
        return self._frame("signal_set", "funnel.parquet")

    def rates(self) -> dict[str, Any]:
        """The signal's natural rate, the training rate, and what leads from one to the other."""
        return dict(read_json(self.lake.current("signal_set").path("rates.json")))

    def pairs(self, objective: str, split: str = "train") -> pl.LazyFrame:
        """One row per expert pair of "helpfulness" or "safety"."""
        return pl.scan_parquet(self.lake.current("preference_pairs", objective).path(f"{split}.parquet"))

    def prompts(self, split: str = "evaluation") -> pl.DataFrame:
        """One row per fixed prompt of a split ("evaluation" or "optimisation")."""
        return self._frame("evaluation_prompts", "prompts.parquet").filter(pl.col("split") == split)

    # Story 3: reward models

    def reward_metrics(self, objective: str = "love") -> dict[str, Any]:
        """A reward model's figures on held-out rows, each with its interval under `<name>_ci`."""
        return dict(read_json(self.reward(objective).path("metrics.json")))

    def holdout_scores(self) -> pl.DataFrame:
        """One row per scored holdout reply of P[signal]: label, weight, logit, live_probability, who and what."""
        return pl.read_parquet(self.reward("love").path("holdout_scores.parquet"))

    def reward(self, objective: str) -> Artifact:
        """The reward model of an objective, a Hugging Face folder. Raises ArtifactMissing for an unknown name."""
        if objective not in REWARDS:
            raise ArtifactMissing(f"objective {objective!r}: no reward model; expected one of {sorted(REWARDS)}.")
        return self.lake.current(REWARDS[objective])

    # Stories 4 and 5: evaluation

    def evaluation(self, candidate: str) -> Evaluation:
        """A candidate's completions on the fixed prompts, with verdicts, and their scores."""
        from rluf_assets.evaluation.frames import read_evaluation

        return read_evaluation(candidate, Path(self.lake.current("offline_evaluation", candidate).uri))

    def evaluations(self) -> dict[str, Evaluation]:
        """Candidate -> its offline evaluation, for every candidate of candidates.yaml."""
        return {name: self.evaluation(name) for name in self.candidates["candidate"]}

    def offline(self) -> OfflineComparison:
        """The comparison of all candidates with the baseline on the fixed prompts."""
        from rluf_assets.evaluation.offline import OfflineComparison

        return OfflineComparison(
            *(self._frame("release_report", f"{name}.parquet") for name in ("offline", "pareto", "correlations"))
        )

    def hacking_audit(self) -> HackingAudit:
        """Tripwires per candidate, and the phrases whose share grew."""
        from rluf_assets.evaluation.hacking import Audit

        return Audit(*(self._frame("reward_hacking_audit", f"{name}.parquet") for name in ("tripwires", "phrases")))

    def exposures(self, candidate: str) -> pl.DataFrame:
        """One row per user exposed to a candidate's arm."""
        return pl.read_parquet(self.lake.current("ab_exposures", candidate).path("exposures.parquet"))

    def readout(self) -> Readout:
        """The A/B readout of all candidates: metrics, checks of the tests themselves, and goal metrics by day."""
        from rluf_assets.evaluation.readout import read_readout

        return read_readout(Path(self.lake.current("ab_test_readout").uri))

    def backtest(self) -> Backtest:
        """Predicted against observed change over past launches."""
        from rluf_assets.evaluation.backtest import Backtest

        artifact = self.lake.current("offline_online_backtest")
        policies = pl.read_parquet(artifact.path("backtest.parquet"))
        return Backtest(policies, dict(read_json(artifact.path("summary.json"))))

    def trust(self) -> pl.DataFrame:
        """One row per candidate: does P[signal]'s ensemble agree on its replies and its change, do spoilt ones score last."""
        return self._frame("release_report", "trust.parquet")

    def decisions(self) -> pl.DataFrame:
        """One row per candidate: promote, hold or needs A/B, with reasons and gates; best first."""
        return self._frame("release_report", "decisions.parquet")

    def conclusion(self) -> str:
        """The release report in one sentence."""
        return str(read_json(self.lake.current("release_report").path("summary.json"))["conclusion"])

    # Playing

    def score(self, texts: Sequence[str], prompt: str | Sequence[Message]) -> pl.DataFrame:
        """Scores and verdicts of replies to one prompt: a column per objective, `failed` judges, and their reasons.

        Love is the live probability, the others are logits; `<objective>_rank` is the share of the baseline's own
        replies that score lower. Raises MissingExtra without torch.
        """
        return self.player.score(texts, prompt)

    def reply(self, candidate: str, prompt: str | Sequence[Message], *, n: int = 1, seed: int = 0) -> pl.DataFrame:
        """What a candidate answers, n times, with scores and verdicts as `score` gives them."""
        return self.player.reply(candidate, prompt, n=n, seed=seed)

    @cached_property
    def player(self) -> Player:
        """The models behind `score` and `reply`, loaded once. Raises MissingExtra without torch."""
        from rluf_assets.playing import Player

        return Player(self)

    def _days(self, table: str) -> pl.LazyFrame:
        from rluf_assets.feedback.splits import scan_days

        days = self.lake.partitions("validated_replies")
        if not days:
            raise ArtifactMissing(f"validated_replies: nothing published under {self.lake.root}. Materialise it first.")
        return scan_days([Path(self.lake.current("validated_replies", day).uri) for day in days], table)

    def _frame(self, asset: str, file: str) -> pl.DataFrame:
        return pl.read_parquet(self.lake.current(asset).path(file))
