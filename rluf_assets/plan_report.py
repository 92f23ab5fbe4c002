"""Prints a plan: one row per job, what it rests on, and the command its launcher would hand over."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resources.build import build_resources
from resources.launchers.spec import JobSpec
from resources.profiles import candidate_config, load_candidates, load_profile
from rluf_assets.plan_graph import estimates
from rluf_assets.planning import Estimate, assumptions


def print_plan(home: Path, profile_name: str | None) -> bool:
    """Print the plan; False if something does not fit. Raises ConfigError for settings that are wrong."""
    # A pipe has no width; the table needs more than rich's 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    profile = load_profile(home, profile_name)
    candidates = {name: candidate_config(home, name, profile.crraft_policy) for name in load_candidates(home)}
    rows = list(estimates(profile, candidates))
    table = Table("job", "asset", "nodes x GPUs", "GiB each", "tokens", "FLOPs", "GPU-hours", "hours", "fits", box=None)
    for row in rows:
        figures = [
            f"{row.memory_total:.3g}", f"{row.tokens:.2e}", f"{row.flops:.2e}", f"{row.gpu_hours:.4g}", f"{row.hours:.3g}",
            "yes" if row.fits(profile.plan) else "NO",
        ]  # fmt: skip
        size = f"{row.resources.nodes} x {row.resources.gpus_per_node}"
        table.add_row(row.job, escape(row.asset), size, *(figures if row.memory else []))
    console.print(table)
    total = sum(row.gpu_hours for row in rows)
    if total:
        console.print(f"GPU-hours together: {total:,.0f}")
    for row in [row for row in rows if row.memory]:
        parts = ", ".join(f"{name} {value:.3g}" for name, value in row.memory.items() if value)
        console.print(f"memory of {row.asset}: {parts}", markup=False, soft_wrap=True)
    console.print("\nAssumed:")
    for line in assumptions(profile):
        console.print(f"- {line}", markup=False, soft_wrap=True)
    stage = build_resources(profile, home)["stage"]
    console.print("\nCommands:")
    for row in rows:
        console.print(stage.launcher.render(spec_of(row, home, profile.seed)), markup=False, soft_wrap=True)
    return all(row.fits(profile.plan) for row in rows)


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
