"""Prints a plan: one row per job, what it rests on, and the command its launcher would hand over."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resources.build import build_resources
from resources.launchers.spec import JobSpec
from resources.profiles import candidate_config, load_candidates, load_profile
from resources.profiles.plan import PlanSettings
from rluf_assets.plan_graph import estimates
from rluf_assets.plan_paper import on_paper
from rluf_assets.plan_shapes import placed
from rluf_assets.planning import Estimate, assumptions


def print_plan(home: Path, profile_name: str | None) -> bool:
    """Print the plan; False if something does not fit. Raises ConfigError for settings that are wrong."""
    # A pipe has no width; the table needs more than rich's 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    profile = placed(load_profile(home, profile_name), home)
    candidates = {name: candidate_config(home, name, profile.crraft_policy) for name in load_candidates(home)}
    rows = list(estimates(profile, candidates))
    table = Table("job", "asset", "nodes x GPUs", "GiB each", "tokens", "FLOPs", "GPU-hours", "hours", "fits", box=None)
    for row in rows:
        time = [f"{row.gpu_hours:.4g}", f"{row.hours:.3g}"] if row.seconds else ["-", "-"]
        fits = "NO" if row.problem(profile.plan) else "yes"
        figures = [f"{row.memory_total:.3g}", _large(row.tokens), _large(row.flops), *time, fits]
        size = f"{row.resources.nodes} x {row.resources.gpus_per_node}"
        table.add_row(row.job, escape(row.asset), size, *(figures if row.memory else []))
    console.print(table)
    total = sum(row.gpu_hours for row in rows)
    if total:
        console.print(f"GPU-hours together: {total:,.0f}")
    by_asset = {f"crraft_policy[{name}]": config for name, config in candidates.items()}
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in [row for row in rows if row.memory]:
        lines = list(_details(row, profile.plan))
        if row.problem(profile.plan) and row.asset in by_asset and row.gpus > 1:
            lines += on_paper(profile, by_asset[row.asset], row.gpus)
        alike.setdefault(tuple(lines), []).append(row.asset)
    for details, assets in alike.items():
        for line in (", ".join(assets), *(f"  {line}" for line in details)):
            console.print(line, markup=False, soft_wrap=True)
    console.print("\nAssumed:")
    for line in assumptions(profile):
        console.print(f"- {line}", markup=False, soft_wrap=True)
    stage = build_resources(profile, home)["stage"]
    console.print("\nCommands:")
    for row in rows:
        console.print(stage.launcher.render(spec_of(row, home, profile.seed)), markup=False, soft_wrap=True)
    return not any(row.problem(profile.plan) for row in rows)


def _details(row: Estimate, plan: PlanSettings) -> Iterator[str]:
    """What takes the memory and the time of a job, how often prompts are passed, and why it does not fit."""
    yield f"GiB: {_parts(row.memory)}"
    if row.seconds:
        yield f"hours: {_parts({name: seconds / 3600 for name, seconds in row.seconds.items()})}"
    if row.passes:
        yield f"passes: {row.passes}"
    if problem := row.problem(plan):
        yield f"does NOT fit: {problem}"


def _parts(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in parts.items() if value)


def _large(value: float) -> str:
    return f"{value:.2e}" if value else "-"


def spec_of(row: Estimate, home: Path, seed: int) -> JobSpec:
    """The job as it would be handed over; its inputs, and so its fingerprint, are known only once they exist."""
    folder = home.resolve() / "lake" / row.asset.replace("[", "/").rstrip("]") / "FINGERPRINT"
    return JobSpec(
        name=row.asset,
        entrypoint=f"rluf_assets.jobs.{row.job}",
        version="1",
        seed=seed,
        output_uri=str(folder),
        resources=row.resources,
    )
