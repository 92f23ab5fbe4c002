"""StageRunner: the one thing every asset calls. It turns a piece of work into a job, runs it, and tells Dagster.

Work in, artifact in force out: spec with fingerprint -> launcher -> `current.json` -> MaterializeResult with the
content hash as data version, counts and figures as metadata, and the folder's path.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from resources.launchers.base import Launcher
from resources.launchers.spec import InputArtifact, JobResources, JobResult, JobSpec
from resources.metadata import describe
from resources.profiles import PAGES_URL
from resources.profiles.launchers import JobSettings
from rluf_assets.errors import JobFailed, JobRefused, SchedulerDown
from rluf_assets.lake import Artifact, Lake, make_fingerprint
from rluf_assets.storage import named_storage

RETRIES, RETRY_WAIT_S = 2, 10


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake as a Dagster resource; checks and assets read artifacts through `.lake`."""

    root: str

    @property
    def lake(self) -> Lake:
        return Lake(self.root)


@dataclass(frozen=True)
class Work:
    """What a stage has to do: a job, its semantic config and the artifacts it reads."""

    job: str
    config: BaseModel
    inputs: Mapping[str, Artifact | InputArtifact] = field(default_factory=dict)
    resources: JobResources = field(default_factory=JobResources)


class StageRunner(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs an asset's work through the launcher and puts the result in force."""

    store: LakeResource
    launcher: Launcher
    seed: int
    jobs: dict[str, Any] = Field(default_factory=dict, description="job -> the profile's JobSettings")
    pages_url: str = Field(PAGES_URL, description="where the lake's HTML pages are served")

    @property
    def lake(self) -> Lake:
        return self.store.lake

    def spec(self, asset: str, partition: str | None, work: Work) -> JobSpec:
        """The job for this work; its folder in the lake follows from its fingerprint."""
        inputs = {k: v if isinstance(v, InputArtifact) else InputArtifact.of(v) for k, v in work.inputs.items()}
        draft = JobSpec(
            name=asset if partition is None else f"{asset}[{partition}]",
            entrypoint=f"rluf_assets.jobs.{work.job}",
            version=str(getattr(work.config, "version", "1")),
            seed=self.seed,
            output_uri="",
            config=work.config.model_dump(mode="json"),
            inputs=inputs,
            resources=JobSettings.model_validate(self.jobs.get(work.job, {})).resources(work.resources),
        )
        return draft.model_copy(update={"output_uri": self.lake.folder(asset, partition, draft.fingerprint)})

    def run(self, context: dg.AssetExecutionContext, work: Work) -> dg.MaterializeResult[Any]:
        """Do the work of the asset (and partition) being materialised."""
        asset, partition = self._place(context)
        result = self._finish(asset, partition, self.result(context, work))
        return dg.MaterializeResult(
            metadata=describe(result, self.pages_url), data_version=dg.DataVersion(result.artifact.content_hash)
        )

    def result(self, context: dg.AssetExecutionContext, work: Work) -> JobResult:
        """Do the work, and put nothing in force."""
        return self._launch(context, [self.spec(*self._place(context), work)])[0]

    def run_days(
        self,
        context: dg.AssetExecutionContext,
        works: Mapping[str, Work],
        *,
        kept: Mapping[str, Artifact] | None = None,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Do the work of a range of days in one run; every day gets its own artifact, metadata and data version.

        `kept`: days of the range that stay as they are in force.
        """
        asset = context.asset_key.to_user_string()
        specs = [self.spec(asset, day, work) for day, work in works.items()]
        results = self._launch(context, specs) if specs else []
        for day, result in zip(works, results, strict=True):
            self._finish(asset, day, result)
            context.add_asset_metadata(describe(result, self.pages_url), partition_key=day)
        made = zip(works, (result.artifact for result in results), strict=True)
        hashes = {day: artifact.content_hash for day, artifact in sorted([*(kept or {}).items(), *made])}
        if len(hashes) == 1:
            yield dg.MaterializeResult(data_version=dg.DataVersion(*hashes.values()))
            return
        # Dagster takes one data version per step. Each day's own is observed right after: what is downstream then asks
        # for the days whose content changed, and for nothing where a range was only read again.
        yield dg.MaterializeResult(data_version=dg.DataVersion(make_fingerprint("days", None, hashes, 0)))
        for day, content in hashes.items():
            tags = {"dagster/data_version": content}
            context.log_event(dg.AssetObservation(context.asset_key, partition=day, tags=tags))

    def run_aside(self, context: dg.AssetExecutionContext | None, name: str, work: Work) -> Artifact:
        """Run a job that is not an asset's own work (playing the production), under its own name in the lake."""
        result = self.launcher.run(context, self.spec(name, None, work))
        return self._finish(name, None, result).artifact

    def _launch(self, context: dg.AssetExecutionContext, specs: list[JobSpec]) -> list[JobResult]:
        """Run the jobs; one that died (killed, out of memory, its scheduler away) is tried again and resumes.

        A job that ended by an error of its own would end so again: that is not retried.
        """
        try:
            with named_storage(specs[0].output_uri):
                return self.launcher.run_many(context, specs)
        except JobRefused:
            raise
        except (JobFailed, SchedulerDown) as error:
            raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_WAIT_S) from error

    @staticmethod
    def _place(context: dg.AssetExecutionContext) -> tuple[str, str | None]:
        return context.asset_key.to_user_string(), context.partition_key if context.has_partition_key else None

    def _finish(self, asset: str, partition: str | None, result: JobResult) -> JobResult:
        with named_storage(self.lake.place(asset, partition)):
            self.lake.set_current(asset, partition, result.artifact)
        return result
