"""A run's result in three forms: `reports/summary.json`, one table on the terminal, and the page `index.html`.

Figures come from the artifacts' manifests and files; only `true_rates.parquet` and the oracle are the simulation's own
knowledge, used to show what really happened, never by a model, a judge or a decision. A production of one's own has
neither: there the summary holds what was predicted, and what was set aside of the logs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from resources.build import build_resources
from resources.production import Production, SimulatedProduction
from resources.profiles import Profile, candidate_config, load_candidates, load_profile
from rluf_assets.evaluation.rates import attribute_rates, love_rate_change
from rluf_assets.evaluation.words import percent
from rluf_assets.feedback.defects import ANOTHER_DAYS
from rluf_assets.lake import Artifact, Lake, read_json, write_json
from rluf_assets.objectives import REWARDS

RATES = ("farewell_rate", "helpful_rate", "harmful_compliance_rate", "false_refusal_rate")


def write_summary(home: Path) -> Path:
    """Write `reports/summary.json` and put the release page beside it as `index.html`; returns the summary's path."""
    profile, names, lake = load_profile(home), list(load_candidates(home)), Lake(str(home / "lake"))
    report = lake.current("release_report")
    production = build_resources(profile, home)["production"]
    simulated = isinstance(production, SimulatedProduction)
    rates = read_json(lake.current("signal_set").path("rates.json"))
    figures: dict[str, Any] = {
        "seed": profile.seed,
        "profile": profile.profile,
        "signal": rates["signal"],
        "natural_love_rate": rates["base_rate"],
        "signal_set": _signal_set(lake),
        "set_aside": _set_aside(lake),
        "reward_models": _reward_models(lake, production),
        "candidates": _candidates(home, profile, report, names, simulated=simulated),
        "offline_online": _backtest(lake),
    }
    untouched = profile.release_report.control
    if simulated and untouched in names:
        figures["base_policy"] = _rates(lake.current("ab_exposures", untouched))
    reports = home / "reports"
    for page in Path(report.uri).glob("*.html"):
        shutil.copyfile(page, reports / ("index.html" if page.stem == "report" else page.name))
    write_json(str(reports / "summary.json"), figures)
    return reports / "summary.json"


def _signal_set(lake: Lake) -> dict[str, Any]:
    days = [lake.current("validated_replies", day).metrics for day in lake.partitions("validated_replies")]

    def total(*names: str) -> int:
        return sum(int(day[name]) for day in days for name in names)

    totals = {
        "rows_in": total("messages_in", "reactions_in"),
        "accepted": total("messages_accepted", "reactions_accepted"),
        "quarantined": total("messages_quarantined", "reactions_quarantined"),
        **{name: total(name) for name in ("replies", "mature", "pending")},
    }
    artifact = lake.current("signal_set")
    rates = read_json(artifact.path("rates.json"))
    return {
        **totals,
        "train": artifact.rows["train"],
        "train_positive_rate": rates["train_positive_rate"],
        "holdout": artifact.rows["holdout"],
        "holdout_positives": rates["holdout_positives"],
        "holdout_positive_rate": rates["holdout_positives"] / max(artifact.rows["holdout"], 1),
    }


def _set_aside(lake: Lake) -> dict[str, dict[str, int]]:
    """Rows in the quarantine by table and defect, of all days and of the expert pairs; not what counts on another day."""
    days = [lake.current("validated_replies", day) for day in lake.partitions("validated_replies")]
    pairs = [lake.current("preference_pairs", objective) for objective in lake.partitions("preference_pairs")]
    tables = [pl.scan_parquet(found.path("quarantine.parquet"), hive_partitioning=False) for found in (*days, *pairs)]
    counts = pl.concat([table.group_by("table", "defect").len() for table in tables])
    summed = counts.group_by("table", "defect").agg(pl.col("len").sum()).sort("table", "defect").collect()
    found: dict[str, dict[str, int]] = {}
    for table, defect, rows in summed.filter(pl.col("defect") != ANOTHER_DAYS).iter_rows():
        found.setdefault(table, {})[defect] = rows
    return found


def _reward_models(lake: Lake, production: Production) -> dict[str, Any]:
    models = {name: read_json(lake.current(asset).path("metrics.json")) for name, asset in REWARDS.items()}
    if isinstance(production, SimulatedProduction):
        oracle = production.oracle(lake.current("signal_set"))
        models["love"]["auroc_oracle"] = read_json(oracle.path("oracle.json"))["auroc"]
    return models


def _rates(exposures: Artifact) -> dict[str, Any]:
    """The simulation's own rates of a policy's replies, with intervals."""
    found = attribute_rates(_true_rates(exposures), seed=0)
    return {name: found[name] for rate in RATES for name in (rate, f"{rate}_ci")}


def _candidates(home: Path, profile: Profile, report: Artifact, names: list[str], *, simulated: bool) -> dict[str, Any]:
    """Per candidate its weight, its decision, and the change of love: the true one where it is known, else predicted."""
    lake = Lake(str(home / "lake"))
    decided = pl.read_parquet(report.path("decisions.parquet"))
    decisions = {row["candidate"]: row for row in decided.iter_rows(named=True)}
    baseline = profile.release_report.baseline
    found = {}
    for name in names:
        if name == profile.release_report.control:
            continue
        config = candidate_config(home, name, profile.crraft_policy)
        shown = _true_change(lake, name, baseline) if simulated else _predicted_change(decisions[name])
        decision = "baseline" if name == baseline else decisions[name]["decision"]
        found[name] = {"love_weight": config.weights.get("love", 0.0), **shown, "decision": decision}
    return found


def _true_change(lake: Lake, name: str, baseline: str) -> dict[str, Any]:
    exposures = lake.current("ab_exposures", name)
    change = love_rate_change(_true_rates(exposures), _true_rates(lake.current("ab_exposures", baseline)), seed=0)
    return {
        "love_rate_change": change.value,
        "love_rate_change_ci": [change.low, change.high],
        **_rates(exposures),
    }


def _predicted_change(decision: Mapping[str, Any]) -> dict[str, Any]:
    low, high = decision["predicted_love_change_low"], decision["predicted_love_change_high"]
    return {"predicted_love_change": decision["predicted_love_change"], "predicted_love_change_ci": [low, high]}


def _true_rates(exposures: Artifact) -> pl.DataFrame:
    return pl.read_parquet(exposures.path("true_rates.parquet"))


def _backtest(lake: Lake) -> dict[str, Any]:
    summary = read_json(lake.current("offline_online_backtest").path("summary.json"))
    return {key: summary[key] for key in ("pearson_r", "ci", "policies")}


def print_table(figures: Mapping[str, Any], console: Console) -> None:
    """The run's one table: candidates by love and decision; of a simulation by farewells, help and harm too."""
    rows = sorted(figures["candidates"].items(), key=lambda item: item[1]["love_weight"])
    simulated = any("love_rate_change" in row for _, row in rows)
    change = "love_rate_change" if simulated else "predicted_love_change"
    title = (
        "What users did (change of the true love rate against baseline)"
        if simulated
        else f"What P[signal] scores (change of {figures['signal']} against baseline; no candidate was live)"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD)
    attributes = {"farewells": "farewell_rate", "helpful": "helpful_rate", "harmful": "harmful_compliance_rate"}
    known = attributes if simulated else {}
    for column in ("candidate", "weight", "love", "95% interval", *known, "decision"):
        table.add_column(column, justify="left" if column in ("candidate", "decision") else "right", no_wrap=True)
    for name, row in rows:
        low, high = row[f"{change}_ci"]
        table.add_row(
            name,
            f"{row['love_weight']:g}",
            percent(row[change], signed=True),
            "?" if low is None or high is None else f"{low:+.0%} .. {high:+.0%}",
            *(f"{row[rate]:.2%}" if rate == "farewell_rate" else f"{row[rate]:.1%}" for rate in known.values()),
            str(row["decision"]),
        )
    console.print(table)
    if not simulated:
        aside = "; ".join(
            f"{table} {', '.join(f'{defect} {n}' for defect, n in defects.items())}"
            for table, defects in figures["set_aside"].items()
        )
        console.print(f"Set aside: {aside or 'nothing'}.")
