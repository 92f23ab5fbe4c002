"""`rluf demo --days N --then-day`: a simulated period of its first days only, and one more day that arrives.

Days are partitions, read from the home's settings when the graph loads: a period grows by writing them.
"""

from __future__ import annotations

import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from resources.profiles import SETTINGS_FILE, SimulatedSettings, load_profile
from rluf_assets.errors import ConfigError, JobFailed
from rluf_assets.runs.ending import run_command

LEAST_REPLIES = 180_000  # of all days together: at one love in a thousand, what models this small need


def set_days(home: Path, days: int) -> None:
    """Let the simulated period be its first days; short ones get a shorter holdout, and traffic enough to learn from.

    Raises ConfigError for fewer days than a training period and a holdout take.
    """
    if days < 3:  # replies of the last day are pending still: with the day before it they make the shortest holdout
        raise ConfigError(f"--days {days}: expected at least 3, one to train on and two to hold out.")
    simulated, profile = _simulated(home), load_profile(home)
    own = yaml.safe_load((home / SETTINGS_FILE).read_text())
    traffic = max(simulated.logs.get("replies_per_day", 0), LEAST_REPLIES // days)
    production = own.get("production", {})
    logs = {**production.get("logs", {}), "replies_per_day": traffic}
    own["production"] = {**production, "kind": "simulated", "days": days, "logs": logs}
    for stage, had in (("signal_set", profile.signal_set), ("evaluation_prompts", profile.evaluation_prompts)):
        own[stage] = {**own.get(stage, {}), "holdout_days": min(had.holdout_days, max(2, days // 3))}
    _save(home, own)


def one_more_day(home: Path, console: Console) -> None:
    """Lengthen the simulated period by a day and update, in a process of its own: days are read when the graph loads."""
    own = yaml.safe_load((home / SETTINGS_FILE).read_text())
    own["production"] = {**own.get("production", {}), "kind": "simulated", "days": _simulated(home).days + 1}
    _save(home, own)
    day = (date.fromisoformat(str(load_profile(home).end_day)) - timedelta(days=1)).isoformat()
    console.print(f"\n[bold]One more day arrives: {day}[/bold]  (rluf update --home {home} --day {day})")
    command = [sys.executable, "-m", "rluf_assets.cli", "update", "--home", str(home), "--day", day]
    if run_command(command):
        raise JobFailed(
            f"the update with {day} stopped, see above. Run it again: rluf update --home {home} --day {day}"
        )


def _save(home: Path, settings: dict[str, Any]) -> None:
    (home / SETTINGS_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
    load_profile(home)


def _simulated(home: Path) -> SimulatedSettings:
    production = load_profile(home).production
    if not isinstance(production, SimulatedSettings):
        raise ConfigError(
            f"home folder {home}: its logs are its own; --days and --then-day are for a simulated production."
        )
    return production
