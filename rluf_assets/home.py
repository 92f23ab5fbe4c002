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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.chat import Message
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Artifact, Lake, read_json
from rluf_assets.objectives import REWARDS
from rluf_assets.playing import Panel, Policies, Rewards

if TYPE_CHECKING:
    from resources.profiles import Profile
    from rluf_assets.evaluation.backtest import Backtest
    from rluf_assets.evaluation.config import ReleaseConfig
    from rluf_assets.evaluation.frames import Evaluation
    from rluf_assets.evaluation.hacking import HackingAudit
    from rluf_assets.evaluation.offline import OfflineComparison
    from rluf_assets.evaluation.readout import Readout
    from rluf_assets.evaluation.release import Decisions
    from rluf_assets.evaluation.release_inputs import ReleaseFolders
    from rluf_assets.feedback.audit import SignalAudit

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
class Logs:
    """What users said and did: one row per assistant reply, message, or row set aside, of all days.

    home.logs.replies.select("use_case").collect()
    """

    lake: Lake

    @property
    def days(self) -> list[str]:
        """The days whose replies are validated."""
        return self.lake.partitions("validated_replies")

    @property
    def replies(self) -> pl.LazyFrame:
        """One row per assistant reply: labels per signal (null while pending), who, when, which policy."""
        return self._of_all_days("replies")

    @property
    def messages(self) -> pl.LazyFrame:
        """One row per accepted message."""
        return self._of_all_days("messages")

    @property
    def quarantine(self) -> pl.LazyFrame:
        """One row per row set aside, with the reason."""
        return self._of_all_days("quarantine")

    @property
    def signals(self) -> list[str]:
        """The signals that replies are labelled with."""
        from rluf_assets.feedback.splits import signals_of

        return signals_of(self.replies)

    @property
    def accounting(self) -> pl.DataFrame:
        """One row per day: rows in, accepted and quarantined per table, replies mature and pending, rates."""
        rows = [{"day": day, **self.lake.current("validated_replies", day).metrics} for day in self.days]
        return pl.DataFrame(rows, infer_schema_length=None)

    def _of_all_days(self, table: str) -> pl.LazyFrame:
        from rluf_assets.feedback.splits import scan_days

        if not self.days:
            raise ArtifactMissing(f"validated_replies: nothing published under {self.lake.root}. Materialise it first.")
        return scan_days([Path(self.lake.current("validated_replies", day).uri) for day in self.days], table)


@dataclass(frozen=True)
class Signals:
    """Which signal to trust, what is trained on, and what is held out.

    home.signals.audit.table.select("signal", "recommendation")
    """

    lake: Lake

    @property
    def audit(self) -> SignalAudit:
        """Per signal volume, correlation with returning, purity, adversarial share and a recommendation."""
        from rluf_assets.feedback.audit import SignalAudit

        return SignalAudit.read(Path(self.lake.current("signal_audit").uri))

    @property
    def train(self) -> pl.LazyFrame:
        """One row per training example of the signal, upsampled."""
        return pl.scan_parquet(self.lake.current("signal_set").path("train.parquet"))

    @property
    def holdout(self) -> pl.LazyFrame:
        """One row per later reply of other users, at the natural rate."""
        return pl.scan_parquet(self.lake.current("signal_set").path("holdout.parquet"))

    @property
    def funnel(self) -> pl.DataFrame:
        """From logs to training examples: one row per step with rows in, dropped and out, and why."""
        return _frame(self.lake, "signal_set", "funnel.parquet")

    @property
    def rates(self) -> dict[str, Any]:
        """The signal, its natural rate, the training rate, and what leads from one to the other."""
        return dict(read_json(self.lake.current("signal_set").path("rates.json")))

    def pairs(self, objective: str, split: str = "train") -> pl.LazyFrame:
        """One row per expert pair of an objective; split "train" or "eval"."""
        return pl.scan_parquet(self.lake.current("preference_pairs", objective).path(f"{split}.parquet"))

    def prompts(self, split: str = "evaluation") -> pl.DataFrame:
        """One row per fixed prompt of a split ("evaluation" or "optimisation")."""
        return _frame(self.lake, "evaluation_prompts", "prompts.parquet").filter(pl.col("split") == split)


@dataclass(frozen=True)
class Evaluations:
    """What is predicted of the candidates, what users did when they met them, and how far predictions can be believed.

    home.evaluation.readout.metrics
    """

    lake: Lake
    policies: Policies

    @property
    def candidates(self) -> dict[str, Evaluation]:
        """Candidate -> its replies to the fixed prompts, with verdicts and scores."""
        return {name: policy.evaluation for name, policy in self.policies.items()}

    @property
    def offline(self) -> OfflineComparison:
        """The comparison of all candidates with the baseline on the fixed prompts."""
        from rluf_assets.evaluation.offline import OfflineComparison

        tables = (
            _frame(self.lake, "release_report", f"{name}.parquet") for name in ("offline", "pareto", "correlations")
        )
        return OfflineComparison(*tables)

    @property
    def hacking(self) -> HackingAudit:
        """Tripwires per candidate, and the phrases whose share grew."""
        from rluf_assets.evaluation.hacking import HackingAudit

        return HackingAudit.read(Path(self.lake.current("reward_hacking_audit").uri))

    @property
    def readout(self) -> Readout:
        """The A/B readout of all candidates: metrics, checks of the tests themselves, and goal metrics by day."""
        from rluf_assets.evaluation.readout import read_readout

        return read_readout(Path(self.lake.current("ab_test_readout").uri))

    @property
    def backtest(self) -> Backtest:
        """Predicted against observed change over past launches."""
        from rluf_assets.evaluation.backtest import Backtest

        artifact = self.lake.current("offline_online_backtest")
        policies = pl.read_parquet(artifact.path("backtest.parquet"))
        return Backtest(policies, dict(read_json(artifact.path("summary.json"))))

    @property
    def trust(self) -> pl.DataFrame:
        """One row per candidate: does P[signal]'s ensemble agree on its replies and its change, do spoilt ones score last."""
        return _frame(self.lake, "release_report", "trust.parquet")


@dataclass(frozen=True)
class Release:
    """What is decided, and what would be decided by other rules.

    home.release.decide(release_report={"non_inferior": {"helpfulness": 0.02}}, ab_plan={"alpha": 0.01})
    """

    home: Path
    lake: Lake
    candidates: tuple[str, ...]

    @property
    def decisions(self) -> pl.DataFrame:
        """One row per candidate: promote, hold or needs A/B, with reasons and gates; best first."""
        return _frame(self.lake, "release_report", "decisions.parquet")

    @property
    def gates(self) -> pl.DataFrame:
        """One row per candidate and gate: pass, fail, not shown or not measured, and why."""
        from rluf_assets.evaluation.release import gates_frame

        return gates_frame(self.decisions)

    @property
    def conclusion(self) -> str:
        """The release report in one sentence."""
        return str(read_json(self.lake.current("release_report").path("summary.json"))["conclusion"])

    @property
    def config(self) -> ReleaseConfig:
        """The rules of this home's settings: what a candidate must show, and the plan of its A/B tests."""
        return self._rules({})[0]

    def decide(
        self, *, release_report: Mapping[str, Any] | None = None, ab_plan: Mapping[str, Any] | None = None
    ) -> Decisions:
        """Decide on the evidence in force, with these settings laid over those of `rluf.yaml`, key by key.

        As the job `release_report` would; nothing is written. A plan that changed after users met a candidate promotes nothing,
        and its gate says so. Raises ConfigError for an unknown setting.
        """
        from rluf_assets.evaluation.release import decide
        from rluf_assets.evaluation.release_inputs import read_evidence

        changes = {"release_report": release_report or {}, "ab_plan": ab_plan or {}}
        config, seed = self._rules({name: dict(section) for name, section in changes.items() if section})
        return decide(read_evidence(self.folders, config, seed=seed), config)

    @property
    def folders(self) -> ReleaseFolders:
        """Folders of all that a decision rests on, of those that are made. Raises ArtifactMissing without any evaluation."""
        from rluf_assets.evaluation.release_inputs import ReleaseFolders

        evaluations = self._each("offline_evaluation")
        if not evaluations:
            raise ArtifactMissing(
                f"offline_evaluation: nothing published under {self.lake.root} for {', '.join(self.candidates)}. "
                "Materialise it for the baseline and at least one candidate."
            )
        return ReleaseFolders(
            evaluations=evaluations,
            exposures=self._each("ab_exposures"),
            rewards={o: folder for o, asset in REWARDS.items() if (folder := self._folder(asset)) is not None},
            audit=self._folder("reward_hacking_audit"),
            readout=self._folder("ab_test_readout"),
            backtest=self._folder("offline_online_backtest"),
            signal_set=self._folder("signal_set"),
            off_policy=self._folder("off_policy_evaluation"),
        )

    def _rules(self, changes: Mapping[str, Any]) -> tuple[ReleaseConfig, int]:
        """The rules with what the decision log says of these candidates, and the seed."""
        from resources.profiles import load_profile
        from rluf_assets.evaluation.decision_log import release_config

        profile = load_profile(self.home, changes=changes)
        config = release_config(profile.release_report, profile.ab_plan, self.lake, self.candidates, {})
        return config, profile.seed

    def _each(self, asset: str) -> dict[str, Path]:
        """Folder of each candidate's artifact, of those that have one."""
        return {name: folder for name in self.candidates if (folder := self._folder(asset, name)) is not None}

    def _folder(self, asset: str, partition: str | None = None) -> Path | None:
        try:
            return Path(self.lake.current(asset, partition).uri)
        except ArtifactMissing:
            return None


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
        return Evaluations(self.lake, self.policies)

    @property
    def release(self) -> Release:
        """The decision, and what it would be by other rules."""
        return Release(self.folder, self.lake, tuple(self.policies))

    @cached_property
    def panel(self) -> Panel:
        """All reward models and judges together."""
        return Panel(self.rewards, self.settings.release_report.baseline)

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


def _frame(lake: Lake, asset: str, file: str) -> pl.DataFrame:
    return pl.read_parquet(lake.current(asset).path(file))
