"""One home's settings, and the partitions of the graph that follow from them: days, expert objectives, candidates.

Days come from the production's period, candidates from `candidates.yaml`. Nothing is read when this module is imported:
`HomeSettings.of(folder)` reads the settings, `build_definitions` makes the graph of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg

from resources.profiles import Profile, load_candidates, load_profile
from rluf_assets.errors import ConfigError
from rluf_assets.lake import Lake
from rluf_assets.objectives import REWARDS
from rluf_assets.retention import carry_out, horizon_of, plan_removal

EXPERT_OBJECTIVES = tuple(objective for objective in REWARDS if objective != "love")
OBJECTIVES = dg.StaticPartitionsDefinition(list(EXPERT_OBJECTIVES))
CANDIDATES = dg.DynamicPartitionsDefinition(name="candidate")


@dataclass(frozen=True)
class HomeSettings:
    """A home folder with its settings as they were when it was read: later edits are in the next one."""

    folder: Path
    profile: Profile

    @classmethod
    def of(cls, folder: Path) -> HomeSettings:
        """Read the settings of a folder: a packaged profile with the folder's own file laid over it.

        Raises ConfigError naming the setting that is wrong.
        """
        return cls(folder.resolve(), load_profile(folder.resolve()))

    @cached_property
    def days(self) -> dg.DailyPartitionsDefinition:
        """One partition per day of the production's period; where it has no end, one more every day."""
        return dg.DailyPartitionsDefinition(start_date=self.profile.first_day, end_date=self.profile.end_day)

    @property
    def candidates(self) -> list[str]:
        """Every candidate of `candidates.yaml` as it is now, in its order."""
        return list(load_candidates(self.folder))

    @property
    def lake(self) -> Lake:
        """The lake of the home."""
        return Lake(str(self.folder / "lake"))

    def kept_days(self) -> list[str]:
        """The days whose raw rows were not removed (`retention.raw_days`). Raises ConfigError before the first is over."""
        days, raw_from = self.days.get_partition_keys(), horizon_of(self.lake).raw_from
        if not days:
            raise ConfigError(
                f"home folder {self.folder}: the logs' first day, {self.profile.first_day}, is not over yet. Come back "
                "tomorrow, or correct production.first_day."
            )
        return [day for day in days if day >= raw_from]


def register_candidates(home: Path, instance: dg.DagsterInstance) -> None:
    """Make the candidates of `candidates.yaml` partitions of this instance, and drop those no longer in it."""
    known, wanted = set(instance.get_dynamic_partitions("candidate")), list(load_candidates(home))
    for stale in known - set(wanted):
        instance.delete_dynamic_partition("candidate", stale)
    instance.add_dynamic_partitions("candidate", wanted)


def retain(home: Path, *, dry_run: bool = False) -> str | None:
    """Remove what `retention` asks to remove (`dry_run`: nothing); what that is, in a line, or None."""
    settings = HomeSettings.of(home)
    asked, window = settings.profile.retention, settings.profile.validated_replies.window_days
    removal = plan_removal(settings.lake, asked, settings.days.get_partition_keys(), window)
    if removal is not None and not dry_run:
        carry_out(settings.lake, removal, asked)
    return None if removal is None else str(removal)
