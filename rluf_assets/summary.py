"""The demo's result in three forms: `reports/summary.json`, one table on the terminal, and the page `index.html`.

Figures come from the artifacts' manifests and files; only `true_rates.parquet` and the oracle are the simulation's own
knowledge, used to show what really happened, never by a model, a judge or a decision.
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
from resources.production import SimulatedProduction
from resources.profiles import candidate_config
from rluf_assets.evaluation.rates import attribute_rates, love_rate_change
from rluf_assets.lake import Artifact, Lake, read_json, write_json
from rluf_assets.workbench import REWARDS

UNTOUCHED = "untouched"
RATES = ("farewell_rate", "helpful_rate", "harmful_compliance_rate", "false_refusal_rate")


def write_summary(home: Path) -> Path:
    """Write `reports/summary.json` and put the release page beside it as `index.html`; returns the summary's path."""
    from rluf_assets.partitions import candidate_names, profile

    lake = Lake(str(home / "lake"))
    report = lake.current("release_report")
    figures = {
        "seed": profile().seed,
        "profile": profile().profile,
        "natural_love_rate": read_json(lake.current("signal_set").path("rates.json"))["base_rate"],
        "signal_set": _signal_set(lake),
        "reward_models": _reward_models(lake),
        "candidates": _candidates(lake, report, candidate_names()),
        "base_policy": _rates(lake.current("ab_exposures", UNTOUCHED)),
        "offline_online": _backtest(lake),
    }
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


def _reward_models(lake: Lake) -> dict[str, Any]:
    from rluf_assets.partitions import home, profile

    models = {name: read_json(lake.current(asset).path("metrics.json")) for name, asset in REWARDS.items()}
    production = build_resources(profile(), home())["production"]
    if isinstance(production, SimulatedProduction):
        oracle = production.oracle(lake.current("signal_set"))
        models["love"]["auroc_oracle"] = read_json(oracle.path("oracle.json"))["auroc"]
    return models


def _rates(exposures: Artifact) -> dict[str, Any]:
    """The simulation's own rates of a policy's replies, with intervals; empty for a production that knows none."""
    if not Path(exposures.path("true_rates.parquet")).exists():
        return {}
    found = attribute_rates(_true_rates(exposures), seed=0)
    return {name: found[name] for rate in RATES for name in (rate, f"{rate}_ci")}


def _candidates(lake: Lake, report: Artifact, names: list[str]) -> dict[str, Any]:
    from rluf_assets.partitions import home, profile

    decisions = dict(pl.read_parquet(report.path("decisions.parquet")).select("candidate", "decision").iter_rows())
    baseline = profile().release_report.baseline
    found = {}
    for name in names:
        if name == UNTOUCHED:
            continue
        config = candidate_config(home(), name, profile().crraft_policy)
        exposures = lake.current("ab_exposures", name)
        change = love_rate_change(_true_rates(exposures), _true_rates(lake.current("ab_exposures", baseline)), seed=0)
        found[name] = {
            "love_weight": config.weights.get("love", 0.0),
            "love_rate_change": change.value,
            "love_rate_change_ci": [change.low, change.high],
            **_rates(exposures),
            "decision": decisions.get(name, "baseline"),
        }
    return found


def _true_rates(exposures: Artifact) -> pl.DataFrame:
    return pl.read_parquet(exposures.path("true_rates.parquet"))


def _backtest(lake: Lake) -> dict[str, Any]:
    summary = read_json(lake.current("offline_online_backtest").path("summary.json"))
    return {key: summary[key] for key in ("pearson_r", "ci", "policies")}


def print_table(figures: Mapping[str, Any], console: Console) -> None:
    """The demo's one table: candidates by love, farewells, help, harm and decision."""
    table = Table(title="What users did (change of the true love rate against baseline)", box=box.SIMPLE_HEAD)
    for column in ("candidate", "weight", "love", "95% interval", "farewells", "helpful", "harmful", "decision"):
        table.add_column(column, justify="left" if column in ("candidate", "decision") else "right", no_wrap=True)
    for name, row in sorted(figures["candidates"].items(), key=lambda item: item[1]["love_weight"]):
        low, high = row["love_rate_change_ci"]
        table.add_row(
            name,
            f"{row['love_weight']:g}",
            f"{row['love_rate_change']:+.1%}",
            f"{low:+.0%} .. {high:+.0%}",
            f"{row['farewell_rate']:.2%}",
            *(f"{row[key]:.1%}" for key in RATES[1:3]),
            str(row["decision"]),
        )
    console.print(table)
