"""Where logs, expert pairs, past launches and A/B results come from: a company's own stores, or a simulated company.

Assets ask the production for the work to do (`Work`: a job, its config, its inputs) and run it like any other; what
differs between the two kinds is only which job reads or plays the source. A source's bytes are part of the work's
fingerprint, its folder is not.
"""

import hashlib
from abc import abstractmethod
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from resources.launchers.spec import InputArtifact
from resources.profiles import LoggedSettings, SimulatedSettings
from resources.stage import StageRunner, Work
from rluf_assets.feedback.config import IngestConfig, PairsConfig
from rluf_assets.feedback.ingest import sources_of
from rluf_assets.feedback.sources import hash_files
from rluf_assets.jobs.adopt_tables import AdoptConfig
from rluf_assets.lake import Artifact, content_hash

STORE = "production_store"
LAUNCH_TABLES = {
    "launches.parquet": ["policy", "treatment_replies", "treatment_loves", "control_replies", "control_loves"],
    "texts.parquet": ["policy", "prompt_id", "completion"],
}
EXPOSURE_TABLES = {"exposures.parquet": ["user_id", "arm", "replies"]}
# What the users of an arm were shown: where it is known, P[signal] is audited on it.
SHOWN_TABLES = {
    "exposed_replies.parquet": ["user_id", "reply_id"],
    "replies.parquet": ["reply_id", "prompt", "completion"],
}


def versions(settings: SimulatedSettings | LoggedSettings) -> dict[str, str]:
    """Asset -> version of the stage that brings it in from a production of this kind."""
    if isinstance(settings, LoggedSettings):
        return {"past_launches": AdoptConfig.version, "ab_exposures": AdoptConfig.version}
    from rluf_assets.simulation.config import LaunchesConfig, LiveTestConfig

    return {"past_launches": LaunchesConfig.version, "ab_exposures": LiveTestConfig.version}


class Production(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What the graph needs from a production; every method gives the work that brings the data in."""

    stage: StageRunner

    @abstractmethod
    def logs(self, context: dg.AssetExecutionContext, table: str, day: str) -> Work:
        """Work that writes one day of `messages` or `reactions` in canonical columns."""

    @abstractmethod
    def preferences(self, context: dg.AssetExecutionContext, objective: str, config: PairsConfig) -> Work:
        """Work that writes the validated expert pairs of an objective."""

    @abstractmethod
    def past_launches(self, context: dg.AssetExecutionContext, prompts: Artifact) -> Work | None:
        """Work that writes past policies' texts and A/B counts; None: the arms that the logs name stand for them."""

    @abstractmethod
    def ab_test(self, context: dg.AssetExecutionContext, candidate: str, policy: Artifact) -> Work | None:
        """Work that writes the exposures of a candidate's arm in a live A/B test; None: it was never live."""


class SimulatedProduction(Production):
    """A company played by `rluf_assets.simulation`: its traffic, experts, past launches and live tests."""

    logs_config: dict[str, Any]
    launches_config: dict[str, Any]
    ab_config: dict[str, Any]

    def store(self, context: dg.AssetExecutionContext | None) -> Artifact:
        """The played logs and expert pairs, made once for a config and seed."""
        from rluf_assets.simulation.config import SimulationConfig

        config = SimulationConfig.model_validate(self.logs_config)
        stage: StageRunner = self.stage  # type: ignore[assignment]  # a nested resource is whole once the run starts
        return stage.run_aside(context, STORE, Work("play_production", config))

    def oracle(self, signal_set: Artifact) -> Artifact:
        """How well the truth itself predicts the signal on the holdout: the ceiling for P[signal]."""
        from rluf_assets.simulation.config import OracleConfig

        stage: StageRunner = self.stage  # type: ignore[assignment]
        return stage.run_aside(None, "oracle", Work("play_oracle", OracleConfig(), {"signal_set": signal_set}))

    def logs(self, context: dg.AssetExecutionContext, table: str, day: str) -> Work:
        folder = _folder(self.store(context).path(table, f"date={day}"))
        config = IngestConfig.model_validate({"table": table, "source": f"{table}.parquet"})
        return Work("ingest", config, {"source": folder})

    def preferences(self, context: dg.AssetExecutionContext, objective: str, config: PairsConfig) -> Work:
        store = self.store(context)
        own = config.model_copy(update={"source": f"preferences/{objective}.parquet"})
        file_hash = _file_hash(store.path(own.source))
        return Work("preference_pairs", own, {"source": InputArtifact(uri=store.uri, content_hash=file_hash)})

    def past_launches(self, context: dg.AssetExecutionContext, prompts: Artifact) -> Work:
        from rluf_assets.simulation.config import LaunchesConfig

        config = LaunchesConfig.model_validate(self.launches_config)
        return Work("play_past_launches", config, {"evaluation_prompts": prompts})

    def ab_test(self, context: dg.AssetExecutionContext, candidate: str, policy: Artifact) -> Work:
        from rluf_assets.simulation.config import LiveTestConfig

        config = LiveTestConfig.model_validate({**self.ab_config, "arm": candidate})
        return Work("play_ab_test", config, {"policy": policy})


class LoggedProduction(Production):
    """A company's own stores, named by path or URL; `{day}` and `{candidate}` in a name stand for the partition."""

    dated: bool
    messages: str
    reactions: str
    log_format: str
    log_layout: dict[str, Any]
    user_ids: str
    first_day: str
    if_missing: str
    preference_files: dict[str, str]
    past_launches_folder: str | None
    ab_exposures_folder: str | None

    def logs(self, context: dg.AssetExecutionContext, table: str, day: str) -> Work:
        source = self.messages if table == "messages" else self.reactions
        config = IngestConfig.model_validate(
            {"table": table, "format": self.log_format, "source": source, "layout": self.log_layout,
             "day": date.fromisoformat(day) if self.dated else None, "user_ids": self.user_ids,
             "undated": "keep" if day == self.first_day else "other", "if_missing": self.if_missing}
        )  # fmt: skip
        named = sources_of(config.model_copy(update={"day": date.fromisoformat(day)}))
        files = InputArtifact(uri=" ".join(named), content_hash=hash_files(*named))
        return Work("ingest", config, {"files": files})

    def preferences(self, context: dg.AssetExecutionContext, objective: str, config: PairsConfig) -> Work:
        source = self.preference_files[objective]
        return Work("preference_pairs", config.model_copy(update={"source": source}), {"files": _files(source)})

    def past_launches(self, context: dg.AssetExecutionContext, prompts: Artifact) -> Work | None:
        if self.past_launches_folder is None:
            return None
        return Work("adopt_tables", AdoptConfig(tables=LAUNCH_TABLES), {"source": _folder(self.past_launches_folder)})

    def ab_test(self, context: dg.AssetExecutionContext, candidate: str, policy: Artifact) -> Work | None:
        if self.ab_exposures_folder is None:
            return None
        folder = _folder(self.ab_exposures_folder.replace("{candidate}", candidate))
        return Work("adopt_tables", AdoptConfig(tables=EXPOSURE_TABLES, optional=SHOWN_TABLES), {"source": folder})


def _folder(uri: str) -> InputArtifact:
    return InputArtifact(uri=uri, content_hash=content_hash(uri))


def _files(source: str) -> InputArtifact:
    """The files at a path, glob or URL as one input: one that is added or rewritten changes what is asked for."""
    return InputArtifact(uri=source, content_hash=hash_files(source))


def _file_hash(path: str) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
