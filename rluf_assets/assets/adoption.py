"""The reward model in force and its successor: what is trained from what, and which of the two stays. No assets here.

The asset's data version is the content of the model *in force*: a refused model changes nothing downstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg

from resources.launchers.spec import JobResult, JobSpec
from resources.metadata import describe
from resources.stage import StageRunner, Work
from rluf_assets.errors import ArtifactMissing
from rluf_assets.lake import Artifact, Lake

CHECK = "adopted"


def adopted_check(asset: str) -> dg.AssetCheckSpec:
    """The check that says whether the last model trained is in force; it warns, the predecessor serves on."""
    return dg.AssetCheckSpec(
        CHECK,
        asset=asset,
        description="The last model trained is not worse than the one before it on the same later holdout.",
    )


def train_and_compare(context: dg.AssetExecutionContext, stage: StageRunner, work: Work) -> dg.MaterializeResult[Any]:
    """Train on new rows from the model in force, and put in force whichever of the two the holdout prefers.

    With the rows of the model in force nothing is trained. Other settings, seed or base are a person's decision: the
    model is then trained from its base and put in force without a comparison.
    """
    asset = context.asset_key.to_user_string()
    in_force = _in_force(stage.lake, asset)
    spec = stage.spec(asset, None, work)
    if in_force is None or not _same_question(spec, in_force):
        kind = "first of its kind: trained from its base, compared with none"
        return _told(stage, asset, stage.result(context, work), kind)
    if _rows(spec.model_dump(mode="json")) == _rows(in_force.manifest["spec"]):
        kind = str(in_force.metrics.get("verdict", "in force: trained on these rows already"))
        return _told(stage, asset, JobResult(in_force, reused=True), kind)
    result = stage.result(context, replace(work, inputs={**work.inputs, "previous": in_force}))
    verdict = str(result.artifact.metrics["verdict"])
    context.log.info(f"{asset}: {verdict}")
    if result.artifact.metrics["adopted"]:
        return _told(stage, asset, result, verdict)
    refused = {
        "refused model": dg.MetadataValue.path(result.artifact.uri),
        **{f"refused: {name}": value for name, value in result.artifact.metrics.items() if "_change" in name},
    }
    return _told(stage, asset, JobResult(in_force, reused=True), verdict, refused)


def _told(
    stage: StageRunner, asset: str, result: JobResult, verdict: str, refused: Mapping[str, Any] | None = None
) -> dg.MaterializeResult[Any]:
    stage.lake.set_current(asset, None, result.artifact)
    check = dg.AssetCheckResult(
        passed=refused is None, check_name=CHECK, severity=dg.AssetCheckSeverity.WARN, description=verdict
    )
    return dg.MaterializeResult(
        metadata={**describe(result, stage.pages_url), "verdict": verdict, **(refused or {})},
        data_version=dg.DataVersion(result.artifact.content_hash),
        check_results=[check],
    )


def _in_force(lake: Lake, asset: str) -> Artifact | None:
    try:
        return lake.current(asset)
    except ArtifactMissing:
        return None


def _same_question(spec: JobSpec, in_force: Artifact) -> bool:
    """Whether the two differ at most in the rows: same stage version, seed, settings (of training) and base."""
    return _asked(spec.model_dump(mode="json")) == _asked(in_force.manifest["spec"])


def _asked(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    config = {name: value for name, value in spec["config"].items() if name != "adoption"}
    return spec["version"], spec["seed"], config, spec["inputs"]["base"]["content_hash"]


def _rows(spec: Mapping[str, Any]) -> str:
    return str(spec["inputs"]["signal_set"]["content_hash"])
