"""Whether a unit has anything to do, asked before Dagster is: what is up to date is skipped, and `rluf status` tells it.

An asset's own function is called, with a stage runner that makes nothing: it compares the job that would be asked for with
the artifact in force. Up to date is what has that fingerprint, is Dagster's last record of the asset, and passed its checks
as they are now. Whatever is in doubt is not up to date.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg

from data_checks.suites import basis_of, suite_path
from resources.launchers.spec import JobResult, JobSpec
from resources.profiles import load_profile
from resources.stage import StageRunner, Work
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Artifact, Lake, read_artifact
from rluf_assets.materialise import Answer, Unit

VERSION_TAG = "dagster/data_version"
SHOWN = 4


class _Stale(Exception):
    """Something would be made or changed; says why."""


class _Settled(Exception):
    """Nothing would be made: these are in force already, by partition."""

    def __init__(self, made: Mapping[str | None, Artifact]) -> None:
        super().__init__()
        self.made = made


class _AskedLake(Lake):
    """The lake as it is: whoever would write to it learns that something is to be done."""

    def write(self, uri: str, value: Any) -> None:
        raise _Stale(f"{uri} is not written yet")

    def set_current(self, asset: str, partition: str | None, artifact: Artifact) -> None:
        if self.current(asset, partition).uri != artifact.uri:
            raise _Stale("another one is to be put in force")
        raise _Settled({partition: artifact})

    def withdraw(self, asset: str, partition: str | None = None) -> None:
        raise _Stale("the one in force is to be withdrawn")

    def check(self, asset: str, partition: str | None, spec: JobSpec) -> Artifact:
        """The artifact in force, if it is what this job would make."""
        try:
            current = self.current(asset, partition)
        except ArtifactMissing:
            raise _Stale("not made yet") from None
        if current.fingerprint != spec.fingerprint:
            raise _Stale(_difference(spec, current.manifest.get("spec", {})))
        return current


class AskedStage(StageRunner):
    """A stage runner that raises `_Stale` or `_Settled` where the real one would do the work."""

    @property
    def lake(self) -> _AskedLake:
        store: Any = self.store
        return _AskedLake(store.root)

    def run(self, context: dg.AssetExecutionContext, work: Work) -> NoReturn:
        asset, partition = self._place(context)
        raise _Settled({partition: self.lake.check(asset, partition, self.spec(asset, partition, work))})

    def result(self, context: dg.AssetExecutionContext, work: Work) -> JobResult:
        place = self._place(context)
        spec = self.spec(*place, work)
        return JobResult(read_artifact(spec.output_uri) or self.lake.check(*place, spec), reused=True)

    def run_days(
        self,
        context: dg.AssetExecutionContext,
        works: Mapping[str, Work],
        *,
        kept: Mapping[str, Artifact] | None = None,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        asset = context.asset_key.to_user_string()
        raise _Settled({day: self.lake.check(asset, day, self.spec(asset, day, work)) for day, work in works.items()})

    def run_aside(self, context: dg.AssetExecutionContext | None, name: str, work: Work) -> Artifact:
        return self.lake.check(name, None, self.spec(name, None, work))


@dataclass(frozen=True)
class _Context:
    """What an asset's function asks of Dagster's context before it hands its work over."""

    asset_key: dg.AssetKey
    partition_key: str | None
    partition_keys: list[str]
    run_id: str = ""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger(__name__))

    @property
    def has_partition_key(self) -> bool:
        return self.partition_key is not None


class Asker:
    """Answers for one home, as its definitions, its lake and its Dagster instance are now."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, home: Path) -> None:
        self._graph, self._instance, self._home = defs.resolve_asset_graph(), instance, home
        given = dict(defs.resources or {})
        stage = _like(given["stage"], AskedStage)
        self._resources = {"stage": stage, "production": _like(given["production"], stage=stage)}

    def unit(self, unit: Unit) -> Answer:
        """Whether all assets of a unit are up to date."""
        warnings: list[str] = []
        for asset in unit.assets:
            answer = self.asset(asset, unit)
            if answer.stale is not None:
                return Answer(answer.stale if len(unit.assets) == 1 else f"{asset}: {answer.stale}")
            warnings += answer.warnings
        return Answer(warnings=tuple(warnings))

    def asset(self, asset: str, unit: Unit) -> Answer:
        """Whether an asset is up to date in the unit's partitions, so long as what is upstream of it is."""
        try:
            made = self._made(asset, unit)
            return Answer(warnings=tuple(self._checked(asset, self._recorded(asset, made)))) if made else Answer()
        except _Stale as told:
            return Answer(str(told))
        except ArtifactMissing as error:
            return Answer(f"something it is made from is missing ({error})")
        except Exception as error:  # what is wrong is told by the run
            return Answer(f"cannot be told before it runs ({str(error).splitlines()[0] if str(error) else error!r})")

    def _made(self, asset: str, unit: Unit) -> Mapping[str | None, Artifact]:
        """What is in force and would not be made again; nothing where the asset is left out by its own word."""
        node = self._graph.get(dg.AssetKey(asset))
        days: list[str] = []
        if unit.day_range is not None and node.partitions_def is not None:
            days = list(node.partitions_def.get_partition_keys_in_range(dg.PartitionKeyRange(*unit.day_range)))
        decorated: Any = node.assets_def.op.compute_fn
        function: Callable[..., Any] = decorated.decorated_fn
        wanted = [name for name in inspect.signature(function).parameters if name in self._resources]
        context = _Context(node.key, days[0] if len(days) == 1 else unit.partition, days)
        try:
            result = function(context, **{name: self._resources[name] for name in wanted})
            if inspect.isgenerator(result):
                for _ in result:
                    pass
        except _Settled as settled:
            return settled.made
        return {}

    def _recorded(self, asset: str, made: Mapping[str | None, Artifact]) -> float:
        """When Dagster last recorded one of these; raises _Stale unless its last record of each is of this very content."""
        records = self._latest(self._instance.fetch_materializations, asset, made)
        observed: dict[str | None, Any] | None = None
        for partition, artifact in made.items():
            record = records.get(partition)
            if record is None:
                raise _Stale("Dagster has no record of it")
            told = record.asset_materialization
            fingerprint = told.metadata.get("fingerprint")
            if fingerprint is None or fingerprint.value != artifact.fingerprint[:16]:
                raise _Stale("Dagster's last record is of another one")
            if told.tags.get(VERSION_TAG) == artifact.content_hash:
                continue
            if observed is None:  # the days of a range are observed one by one
                observed = self._latest(self._instance.fetch_observations, asset, made)
            seen = observed.get(partition)
            if (
                seen is None
                or seen.storage_id < record.storage_id
                or seen.asset_observation.tags.get(VERSION_TAG) != artifact.content_hash
            ):
                raise _Stale("Dagster's last record is of other content")
        return max(float(record.timestamp) for record in records.values())

    @staticmethod
    def _latest(fetch: Callable[..., Any], asset: str, made: Mapping[str | None, Artifact]) -> dict[str | None, Any]:
        """Partition -> its newest record."""
        days = [partition for partition in made if partition is not None]
        wanted: Any = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=days) if days else dg.AssetKey(asset)
        found: dict[str | None, Any] = {}
        cursor: str | None = None
        while len(found) < len(made):
            page = fetch(wanted, limit=2 * len(made), cursor=cursor)
            for record in page.records:
                found.setdefault(record.partition_key, record)
            if not page.has_more:
                break
            cursor = page.cursor
        return found

    def _checked(self, asset: str, since: float) -> list[str]:
        """Warnings that stand; raises _Stale unless every check was run on this, by its suite as it is now, and passed."""
        node = self._graph.get(dg.AssetKey(asset))
        records = self._instance.event_log_storage.get_latest_asset_check_execution_by_key(list(node.check_keys))
        suite = suite_path(asset, self._home / "suites")
        basis = basis_of(suite, load_profile(self._home).signal_set.signal)
        warnings = []
        for key in sorted(node.check_keys, key=lambda key: key.name):
            record = records.get(key)
            told = record.evaluation if record is not None else None
            when = record.event.timestamp if record is not None and record.event is not None else 0.0
            if not isinstance(told, dg.AssetCheckEvaluation) or when < since:
                raise _Stale(f"check {key.name} has not been run on it")
            written = told.metadata.get("basis")
            if key not in node.assets_def.check_keys and (written is None or written.value != basis):
                raise _Stale(f"check {key.name} is another one now")
            if told.passed:
                continue
            if told.severity == dg.AssetCheckSeverity.ERROR:
                raise _Stale(f"check {key.name} failed")
            warnings.append(f"{asset}/{key.name}: {told.description}")
        return warnings


def _like(resource: Any, kind: type[Any] | None = None, **other: Any) -> Any:
    """A resource with the same settings, of another kind or with another part in it."""
    made = kind or type(resource)
    return made(**({name: getattr(resource, name) for name in type(resource).model_fields} | other))


def _difference(spec: JobSpec, was: Mapping[str, Any]) -> str:
    """What is asked for now, beside what the one in force was made by."""
    told = []
    inputs = {name: entry["content_hash"] for name, entry in was.get("inputs", {}).items()}
    now = {name: entry.content_hash for name, entry in spec.inputs.items()}
    changed = [name for name in {**now, **inputs} if now.get(name) != inputs.get(name)]
    if names := list(dict.fromkeys(name.split("/")[0] for name in changed)):
        told.append(f"new content of {some(names)}")
    config = was.get("config", {})
    if settings := [name for name in {**spec.config, **config} if spec.config.get(name) != config.get(name)]:
        told.append(f"other settings: {some(settings)}")
    if (spec.entrypoint, spec.version) != (was.get("entrypoint"), was.get("version")):
        told.append("its code changed")
    if spec.seed != was.get("seed"):
        told.append("another seed")
    return "; ".join(told) or "asked for otherwise"


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
