"""Which candidate a release report promotes, and the work of putting it in force. No assets here."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict

from resources.stage import Work
from rluf_assets.errors import ArtifactMissing
from rluf_assets.evaluation.decision_log import made_from, stale_evidence
from rluf_assets.lake import Artifact, Lake, read_json
from rluf_assets.rollback import rolled_back


class ReleaseRecord(BaseModel):
    """What a release says besides its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[str] = "2"
    candidate: str
    previous_content_hash: str | None = None


def chosen_candidate(report: Artifact, lake: Lake) -> str | None:
    """The promoted candidate with the largest measured lift (they are listed best first), or None on hold.

    Weights that `rluf rollback` withdrew are passed over, and those that the report does not speak of: trained, evaluated
    or tested anew since it was made.
    """
    decisions = pl.read_parquet(report.path("decisions.parquet"))
    promoted = decisions.filter(pl.col("decision") == "promote")["candidate"].to_list()
    withdrawn = rolled_back(lake)
    there = [c for c in promoted if lake.current("crraft_policy", c).content_hash not in withdrawn]
    return next((c for c in there if not stale_evidence(lake, c) and _speaks_of(report, lake, c)), None)


def _speaks_of(report: Artifact, lake: Lake, candidate: str) -> bool:
    """Whether what the report was made from is what is in force."""
    inputs = report.manifest.get("spec", {}).get("inputs", {})
    own = [(f"{asset}/{candidate}", asset, candidate) for asset in ("offline_evaluation", "ab_exposures")]
    common = [(asset, asset, None) for asset in ("reward_hacking_audit", "ab_test_readout")]
    return all(
        made_from(report, name, lake.current(asset, of)) for name, asset, of in (*own, *common) if name in inputs
    )


def release_work(lake: Lake, report: Artifact, candidate: str) -> Work:
    """The job that writes the model card and lineage of a promoted candidate."""
    policy = lake.current("crraft_policy", candidate)
    record = ReleaseRecord(candidate=candidate, previous_content_hash=_previous(lake, policy))
    return Work("release_policy", record, {"release_report": report, "policy": policy})


def _previous(lake: Lake, policy: Artifact) -> str | None:
    """Policy in force before this one: releasing the same weights again does not make them their own predecessor."""
    try:
        in_force = read_json(lake.current("released_policy").path("release.json"))
    except ArtifactMissing:
        return None
    if in_force["policy"]["content_hash"] != policy.content_hash:
        return str(in_force["policy"]["content_hash"])
    before = in_force["previous_content_hash"]
    return None if before is None else str(before)
