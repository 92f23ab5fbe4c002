"""From the folders of a release to its evidence, its page and its files: what the `release_report` job calls.

Anything but the offline evaluations may be missing (no A/B test yet, no past launches): the decision then counts it as
unknown, and the page leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.frames import Evaluation, read_evaluation, read_parquet
from rluf_assets.evaluation.hacking import TRIPWIRE_SCHEMA, HackingAudit
from rluf_assets.evaluation.offline import compare_offline
from rluf_assets.evaluation.phrases import PHRASE_SCHEMA
from rluf_assets.evaluation.rates import attribute_rates, love_rate_change
from rluf_assets.evaluation.readout import Readout, read_readout
from rluf_assets.evaluation.release import Decisions, Evidence, conclusion, decide
from rluf_assets.evaluation.reliability import reliability
from rluf_assets.evaluation.report import ReportData, farewell_rates, side_by_side
from rluf_assets.evaluation.second_reader import read_off_policy
from rluf_assets.evaluation.stats import finite
from rluf_assets.evaluation.transport import TRANSPORT
from rluf_assets.evaluation.trust import assess_trust
from rluf_assets.lake import read_json


@dataclass(frozen=True)
class ReleaseFolders:
    """Folders of the artifacts that a release rests on; candidates and objectives by name."""

    evaluations: Mapping[str, Path]
    exposures: Mapping[str, Path] = field(default_factory=dict)
    rewards: Mapping[str, Path] = field(default_factory=dict)
    audit: Path | None = None
    readout: Path | None = None
    backtest: Path | None = None
    signal_set: Path | None = None
    off_policy: Path | None = None


@dataclass(frozen=True)
class Release:
    """Decisions, the offline comparison behind them, what the page shows, and the summary."""

    decisions: Decisions
    data: ReportData
    summary: dict[str, Any]

    def _repr_html_(self) -> str:
        return f"<p><b>{self.summary['conclusion']}</b></p>{self.data.offline._repr_html_()}"


def make_release(folders: ReleaseFolders, config: ReleaseConfig, *, seed: int) -> Release:
    """Read the artifacts, decide, and collect what the page shows. Raises as `compare_offline` and the readers do."""
    evaluations = read_evaluations(folders)
    evidence = read_evidence(folders, config, seed=seed, evaluations=evaluations)
    offline, tripwires, phrases = evidence.offline, *_audit(folders.audit)
    backtest = None
    if folders.backtest is not None and evidence.backtest is not None:
        backtest = (read_parquet(folders.backtest / "backtest.parquet"), evidence.backtest)
    decisions = decide(evidence, config)
    logged = tripwires.filter((pl.col("tripwire") == "farewell") & pl.col("logged").is_not_null())["logged"]
    data = ReportData(
        decisions=decisions,
        offline=offline,
        tripwires=tripwires,
        phrases=phrases,
        farewells=farewell_rates(evaluations, config, seed=seed),
        logged_farewells=float(logged[0]) if len(logged) else None,
        replies=side_by_side(evaluations, config, seed=seed),
        candidates=offline.pareto["candidate"].to_list(),
        readout=evidence.readout,
        backtest=backtest,
        trust=evidence.trust,
        off_policy=evidence.off_policy,
        **_reward_figures(folders, config),
        simulation=simulated_truth(folders.exposures, config, seed=seed),
    )
    return Release(decisions, data, _summary(decisions, data, evaluations, config))


def read_evaluations(folders: ReleaseFolders) -> dict[str, Evaluation]:
    """Candidate -> its offline evaluation."""
    return {name: read_evaluation(name, folder) for name, folder in folders.evaluations.items()}


def read_evidence(
    folders: ReleaseFolders, config: ReleaseConfig, *, seed: int, evaluations: Mapping[str, Evaluation] | None = None
) -> Evidence:
    """All that a decision rests on, compared anew from the artifacts. Raises as `compare_offline` and the readers do."""
    found = read_evaluations(folders) if evaluations is None else evaluations
    return Evidence(
        offline=compare_offline(found, config.offline, seed=seed),
        tripwires=_audit(folders.audit)[0],
        backtest=None if folders.backtest is None else read_json(str(folders.backtest / "summary.json")),
        readout=_readout(folders.readout),
        trust=assess_trust(found, config.offline, seed=seed),
        exposed=frozenset(folders.exposures),
        transport=_transport(folders.backtest),
        off_policy=read_off_policy(folders.off_policy),
    )


def _audit(folder: Path | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    if folder is None:
        return pl.DataFrame(schema=TRIPWIRE_SCHEMA), pl.DataFrame(schema={"candidate": pl.String, **PHRASE_SCHEMA})
    audit = HackingAudit.read(folder)
    return audit.tripwires, audit.phrases


def _transport(backtest: Path | None) -> pl.DataFrame:
    path = None if backtest is None else backtest / "transport.parquet"
    return pl.DataFrame(schema=TRANSPORT) if path is None or not path.exists() else pl.read_parquet(path)


def _readout(folder: Path | None) -> Readout | None:
    readout = None if folder is None else read_readout(folder)
    return None if readout is None or (readout.metrics.is_empty() and readout.checks.is_empty()) else readout


def _reward_figures(folders: ReleaseFolders, config: ReleaseConfig) -> dict[str, Any]:
    """Reliability of the love reward, every reward model's metrics, and the data funnel, where they are recorded."""
    found: dict[str, Any] = {"rewards": {}}
    for objective, folder in folders.rewards.items():
        if (folder / "metrics.json").exists():
            found["rewards"][objective] = _plain(read_json(str(folder / "metrics.json")))
    love = folders.rewards.get(config.love_objective)
    if love is not None and (love / "holdout_scores.parquet").exists():
        found["reliability"] = reliability(
            pl.read_parquet(love / "holdout_scores.parquet"), confidence=config.confidence
        )
    if folders.signal_set is not None:
        found["funnel"] = read_parquet(folders.signal_set / "funnel.parquet")
        aside = folders.signal_set / "set_aside.parquet"
        found["set_aside"] = pl.read_parquet(aside).to_dicts() if aside.exists() else []
        found["rates"] = _plain(read_json(str(folders.signal_set / "rates.json")))
    return found


def _plain(value: Any) -> Any:
    """JSON figures with those that are not finite as None."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return finite(value) if isinstance(value, float) else value


def simulated_truth(exposures: Mapping[str, Path], config: ReleaseConfig, *, seed: int) -> dict[str, dict[str, Any]]:
    """Per candidate: true love change against the baseline and attribute rates, where a simulation recorded them."""
    paths = {name: folder / "true_rates.parquet" for name, folder in exposures.items()}
    frames = {name: pl.read_parquet(path) for name, path in paths.items() if path.exists()}
    base = frames.get(config.baseline)
    if base is None:
        return {}
    known = {}
    options = {"seed": seed, "resamples": config.resamples, "confidence": config.confidence}
    for name, frame in frames.items():
        change = love_rate_change(frame, base, **options)  # type: ignore[arg-type]
        known[name] = {
            "love_rate_change": change.value,
            "love_rate_change_ci": [change.low, change.high],
            **attribute_rates(frame, **options),  # type: ignore[arg-type]
        }
    return known


def _summary(
    decisions: Decisions, data: ReportData, evaluations: Mapping[str, Evaluation], config: ReleaseConfig
) -> dict[str, Any]:
    """summary.json: the conclusion, and per candidate the decision and the figures people ask for."""
    farewells = {row["candidate"]: row for row in data.farewells.iter_rows(named=True)}
    candidates = {}
    for d in decisions:
        objectives = {o: data.offline.row(d.candidate, o) for o in evaluations[d.candidate].objectives}
        goal = data.readout.metrics if data.readout is not None else None
        if goal is not None:
            goal = goal.filter(
                (pl.col("candidate") == d.candidate) & (pl.col("role") == "goal") & (pl.col("segment") == "all")
            )
        ab = goal.row(0, named=True) if goal is not None and len(goal) else None
        candidates[d.candidate] = {
            "decision": str(d.decision),
            "reasons": d.reasons,
            "gates": {g.name: str(g.result) for g in d.gates},
            "measured_lift": d.measured_lift,
            "claim": str(d.claim),
            "predicted_love_change": d.love_change,
            "predicted_love_change_ci": [d.love_change_low, d.love_change_high],
            "win_rates": {o: row["win_rate"] for o, row in objectives.items()},
            "win_rates_ci": {o: [row["win_low"], row["win_high"]] for o, row in objectives.items()},
            "offline_farewell_rate": farewells[d.candidate]["value"],
            "ab_love_lift": ab["lift"] if ab else None,
            "ab_love_lift_ci": [ab["ci_low"], ab["ci_high"]] if ab else [None, None],
            **({"simulation": data.simulation[d.candidate]} if d.candidate in data.simulation else {}),
        }
    return {
        "conclusion": conclusion(decisions, config.baseline),
        "baseline": config.baseline,
        "plan": config.plan.hash,
        "candidates": candidates,
        "offline_online": data.backtest[1] if data.backtest is not None else None,
    }
