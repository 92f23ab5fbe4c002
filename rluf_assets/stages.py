"""What a home holds, stage by stage: logs, signals, evaluation and release. `home.logs`, `home.signals`, ... give them.

Everything is read from the artifacts in force; what is not made yet raises ArtifactMissing, naming the asset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Lake, read_json
from rluf_assets.objectives import REWARDS
from rluf_assets.playing import Policies

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from rluf_assets.evaluation.backtest import Backtest
    from rluf_assets.evaluation.config import ReadoutConfig, ReleaseConfig
    from rluf_assets.evaluation.frames import Evaluation
    from rluf_assets.evaluation.hacking import HackingAudit
    from rluf_assets.evaluation.offline import OfflineComparison
    from rluf_assets.evaluation.readout import Readout
    from rluf_assets.evaluation.release import Decisions
    from rluf_assets.evaluation.release_inputs import ReleaseFolders
    from rluf_assets.feedback.audit_report import SignalAudit
    from rluf_assets.feedback.config import SignalAuditConfig


@dataclass(frozen=True)
class Conversations:
    """A few replies to read, shown as text: `table` has a row per reply with `about`, `asked` and `reply`."""

    table: pl.DataFrame

    def _repr_markdown_(self) -> str:
        told = [
            f"*{row['about']}*  \n> **User:** {row['asked']}\n>\n> **Assistant:** {row['reply']}"
            for row in self.table.iter_rows(named=True)
        ]
        return "\n\n".join(told) or "There are none."


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
    def rates(self) -> pl.DataFrame:
        """One row per signal, rarest first: the share of replies that got it, with its interval."""
        from rluf_assets.feedback.log_plots import signal_rates

        return signal_rates(self.replies)

    def plot_rates(self) -> go.Figure:
        """How rare each signal is."""
        from rluf_assets.feedback.log_plots import plot_rates

        return plot_rates(self.replies)

    def plot_concentration(self) -> go.Figure:
        """The share of each signal that its most eager users gave."""
        from rluf_assets.feedback.log_plots import plot_concentration

        return plot_concentration(self.replies)

    def read_some(self, signal: str, *, use_case: str | None = None, count: int = 3, seed: int = 0) -> Conversations:
        """A few replies that got this signal, each with what the user had said; shown as text in a notebook."""
        got = self.replies.filter(pl.col(f"label_{signal}") == 1)
        if use_case is not None:
            got = got.filter(pl.col("use_case") == use_case)
        rows = got.select("conversation_id", "turn_index", about="use_case", reply="content").collect()
        rows = rows.sample(min(count, len(rows)), seed=seed)
        said = self.messages.filter(
            pl.col("role") == "user", pl.col("conversation_id").is_in(rows["conversation_id"].to_list())
        )
        asked = said.select("conversation_id", "turn_index", asked="content").collect()
        return Conversations(rows.join(asked, on=["conversation_id", "turn_index"], how="left", maintain_order="left"))

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
        from rluf_assets.feedback.audit_report import SignalAudit

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

    def plot_funnel(self) -> go.Figure:
        """Rows left after each step from logs to training examples, and why the others went."""
        from rluf_assets.feedback.log_plots import plot_funnel

        return plot_funnel(self.funnel, self.rates["signal"])

    @property
    def audit_config(self) -> SignalAuditConfig:
        """What the audit in force was made with."""
        from rluf_assets.feedback.config import SignalAuditConfig

        return SignalAuditConfig.model_validate(self.lake.current("signal_audit").manifest["spec"]["config"])

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
    rules: ReleaseConfig

    @property
    def candidates(self) -> dict[str, Evaluation]:
        """Candidate -> its replies to the fixed prompts, with verdicts and scores."""
        return {name: policy.evaluation for name, policy in self.policies.items()}

    @property
    def offline(self) -> OfflineComparison:
        """The comparison of all candidates with the baseline on the fixed prompts."""
        from rluf_assets.evaluation.offline import OfflineComparison

        objectives, pareto, correlations = (
            _frame(self.lake, "release_report", f"{name}.parquet") for name in ("offline", "pareto", "correlations")
        )
        references = (self.rules.baseline, self.rules.control)
        return OfflineComparison(objectives, pareto, correlations, self.rules.love_objective, references)

    @property
    def hacking(self) -> HackingAudit:
        """Tripwires per candidate, and the phrases whose share grew."""
        from rluf_assets.evaluation.hacking import HackingAudit

        return HackingAudit.read(Path(self.lake.current("reward_hacking_audit").uri))

    def farewells(self, replies: Mapping[str, Evaluation] | None = None) -> pl.DataFrame:
        """Share of replies that say goodbye, of each candidate (or of others, by name), with its interval over prompts."""
        from rluf_assets.evaluation.report import farewell_rates

        return farewell_rates(replies or self.candidates, self.rules, seed=0)

    def plot_farewells(self) -> go.Figure:
        """Share of each candidate's replies that say goodbye, with the logs' own as a line."""
        from rluf_assets.evaluation.plots import rates_plot

        tripwires = self.hacking.tripwires
        logged = tripwires.filter(pl.col("tripwire") == "farewell", pl.col("logged").is_not_null())["logged"]
        known = float(logged[0]) if len(logged) else None
        plot = rates_plot(
            "farewells", self.farewells(), self.offline.styles, known, "Share of replies that say goodbye"
        )
        return plot.figure

    def choose(self, weights: Mapping[str, float], *, judges: Sequence[str] = ()) -> Evaluation:
        """What if other weights chose? Of all replies already given to each prompt, the one that these weights like best.

        home.evaluation.choose({"helpfulness": 0.7, "love": 0.2})

        A choice among replies, not a trained policy: training goes further the same way. Replies that one of `judges` fails
        are left out where another one passes.
        """
        from rluf_assets.evaluation.selection import best_of

        return best_of(self.candidates, weights, judges=judges)

    def compare(self, replies: Mapping[str, Evaluation], *, seed: int = 0) -> OfflineComparison:
        """Compare evaluations, by name, with the first of them on the same prompts."""
        from rluf_assets.evaluation.config import OfflineConfig
        from rluf_assets.evaluation.offline import compare_offline

        config = OfflineConfig(baseline=next(iter(replies)), love_objective=self.rules.love_objective)
        return compare_offline(replies, config, seed=seed)

    @property
    def readout(self) -> Readout:
        """The A/B readout of all candidates: metrics, checks of the tests themselves, and goal metrics by day."""
        from rluf_assets.evaluation.readout import read_readout

        return read_readout(Path(self.lake.current("ab_test_readout").uri))

    @property
    def readout_config(self) -> ReadoutConfig:
        """What the readout in force was made with."""
        from rluf_assets.evaluation.config import ReadoutConfig

        return ReadoutConfig.model_validate(self.lake.current("ab_test_readout").manifest["spec"]["config"])

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


def _frame(lake: Lake, asset: str, file: str) -> pl.DataFrame:
    return pl.read_parquet(lake.current(asset).path(file))
