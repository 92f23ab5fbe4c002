"""The decision log of a lake: which plan a candidate's exposures were first read under, and every decision there was.

Append-only. A decision is a line of a file that is written once and never again (a bucket cannot append), one file for each
report, named by its time; each names the hash of the one before it, so that a line taken out or changed shows. A line is
written when something in it is new: the same evidence decided the same way again is no new decision.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from rluf_assets.errors import ArtifactMissing, DataError
from rluf_assets.evaluation.config import BoundPlan, PastDecision, ReleaseConfig
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.lake import Artifact, Lake, read_json

FOLDER = "decision_log"
SHOWN = 10
FIELDS = {"at", "candidate", "verdict", "plan", "because", "policy", "evidence_hash", "asked_by", "previous"}


def bind_plan(lake: Lake, candidate: str, policy_hash: str, plan: AbPlan) -> BoundPlan:
    """Write down the plan for these weights unless one is on record; returns the one on record.

    Called before exposures are read: what is decided on them later is held against this.
    """
    place = _bound_place(lake, candidate, policy_hash)
    known = bound_plan(lake, candidate, policy_hash)
    if known is not None:
        return known
    now = _now()
    record = {"candidate": candidate, "policy": policy_hash, "plan": plan.hash, "at": now}
    lake.write(place, {**record, "settings": plan.model_dump(mode="json")})
    return BoundPlan(plan=plan.hash, at=now)


def bound_plan(lake: Lake, candidate: str, policy_hash: str) -> BoundPlan | None:
    """The plan on record for these weights, if their exposures were ever read."""
    try:
        record = read_json(_bound_place(lake, candidate, policy_hash))
    except FileNotFoundError:
        return None
    if not isinstance(record, dict) or not {"plan", "at"} <= record.keys():
        place = _bound_place(lake, candidate, policy_hash)
        raise DataError(f"{place}: expected a plan and when it was recorded, found {record}. Restore it from a backup.")
    return BoundPlan(plan=record["plan"], at=record["at"])


def release_config(
    config: ReleaseConfig, plan: AbPlan, lake: Lake, candidates: Iterable[str], evidence: Mapping[str, str]
) -> ReleaseConfig:
    """The report's settings with the plan, what the log says of these candidates' weights, and the decisions before."""
    records = {name: bound_plan(lake, name, weights) for name, weights in policy_hashes(lake, candidates).items()}
    # When a plan was put on record matters only where it was changed: else the same evidence is the same report anywhere.
    bound = {
        name: record if record.plan != plan.hash else BoundPlan(plan=record.plan)
        for name, record in records.items()
        if record is not None
    }
    stale = {name: told for name in policy_hashes(lake, bound) if (told := stale_evidence(lake, name))}
    update = {"plan": plan, "bound": bound, "past": past_decisions(lake, evidence), "stale": stale}
    return config.model_copy(update=update)


def stale_evidence(lake: Lake, candidate: str) -> tuple[str, ...]:
    """Artifacts that speak of other weights of a candidate, or of other exposures or replies, than those in force."""
    policy, evaluated, exposed = (
        _there(lake, asset, candidate) for asset in ("crraft_policy", "offline_evaluation", "ab_exposures")
    )
    links = (
        ("offline_evaluation", evaluated, "policy", policy),
        ("ab_exposures", exposed, "policy", policy),
        ("reward_hacking_audit", _there(lake, "reward_hacking_audit"), f"offline_evaluation/{candidate}", evaluated),
        ("ab_test_readout", _there(lake, "ab_test_readout"), f"ab_exposures/{candidate}", exposed),
    )
    return tuple(name for name, made, source, now in links if made and now and not made_from(made, source, now))


def made_from(made: Artifact, source: str, now: Artifact) -> bool:
    """Whether an artifact's input of this name, if it had one, is this artifact."""
    was = made.manifest.get("spec", {}).get("inputs", {}).get(source)
    return was is None or was["content_hash"] == now.content_hash


def _there(lake: Lake, asset: str, partition: str | None = None) -> Artifact | None:
    try:
        return lake.current(asset, partition)
    except ArtifactMissing:
        return None


def policy_hashes(lake: Lake, candidates: Iterable[str]) -> dict[str, str]:
    """Candidate -> content hash of its weights, of those that are trained."""
    there = set(lake.partitions("crraft_policy"))
    return {name: lake.current("crraft_policy", name).content_hash for name in candidates if name in there}


def read_decisions(lake: Lake) -> list[dict[str, Any]]:
    """Every line, oldest first. Raises DataError where a file is not what the next one says that it was."""
    filesystem, place = url_to_fs(posixpath.join(lake.root, FOLDER, "decisions"))
    lines: list[dict[str, Any]] = []
    before: str | None = None
    for path in sorted(str(name) for name in filesystem.glob(posixpath.join(place, "*.jsonl"))):
        text = filesystem.cat_file(path)
        found = _lines(path, text)
        if found[0]["previous"] != before:
            raise DataError(
                f"{path}: it follows a file with the hash {found[0]['previous']}, found {before} before it: a decision was "
                "changed or taken out. Restore the folder from a backup."
            )
        lines += found
        before = hashlib.sha256(text).hexdigest()[:16]
    return lines


def _lines(path: str, text: bytes) -> list[dict[str, Any]]:
    """The decisions of one file. Raises DataError where it holds none, or something else."""
    try:
        found = [json.loads(line) for line in text.decode().splitlines()]
        whole = bool(found) and all(line.keys() >= FIELDS for line in found)
    except (ValueError, AttributeError):
        whole = False
    if not whole:
        raise DataError(
            f"{path}: expected lines of JSON with {', '.join(sorted(FIELDS))}, found {text[:60]!r}: a decision was changed. "
            "Restore the folder from a backup."
        )
    return found


def record_decisions(
    lake: Lake,
    summary: Mapping[str, Any],
    policies: Mapping[str, str],
    evidence: Mapping[str, str],
    *,
    asked_by: str = "",
) -> list[dict[str, Any]]:
    """Append a line per judged candidate whose decision, plan or evidence is new; returns the lines written.

    policies: candidate -> content hash of its weights; evidence: input -> content hash.
    """
    known = read_decisions(lake)
    seen = {(r["candidate"], r["policy"], r["plan"], r["verdict"], r["evidence_hash"]) for r in known}
    common = {
        "at": _now(), "asked_by": asked_by or whoever(), "plan": summary["plan"],
        "evidence_hash": evidence_hash(evidence), "evidence": dict(sorted(evidence.items())), "previous": _last_hash(lake),
    }  # fmt: skip
    new = []
    for name, row in summary["candidates"].items():
        if row["decision"] == "reference":
            continue
        line = {
            **common, "candidate": name, "policy": policies.get(name, ""), "verdict": row["decision"],
            "because": (row["reasons"] or [""])[0], "gates": row["gates"], "measured_lift": row["measured_lift"],
        }  # fmt: skip
        if (name, line["policy"], line["plan"], line["verdict"], line["evidence_hash"]) not in seen:
            new.append(line)
    if new:
        name = f"{common['at'].replace(':', '').replace('-', '')}-{common['evidence_hash']}.jsonl"
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in new)
        place = posixpath.join(lake.root, FOLDER, "decisions", name)
        filesystem, path = url_to_fs(place)
        filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
        with fsspec.open(place, "wb") as stream:
            stream.write(text.encode())
    return new


def past_decisions(lake: Lake, evidence: Mapping[str, str]) -> tuple[PastDecision, ...]:
    """The latest lines that rest on other evidence than this, newest first: what a page shows as earlier decisions."""
    now = evidence_hash(evidence)
    lines = [line for line in read_decisions(lake) if line["evidence_hash"] != now]
    fields = ("at", "candidate", "verdict", "plan", "because")
    return tuple(PastDecision(**{k: line[k] for k in fields}) for line in reversed(lines[-SHOWN:]))


def evidence_hash(evidence: Mapping[str, str]) -> str:
    """Of the names and content hashes of all that a decision rests on."""
    return hashlib.sha256(json.dumps(sorted(evidence.items())).encode()).hexdigest()[:16]


def whoever() -> str:
    """Who or what asks: the Dagster run's launcher says so in RLUF_ASKED_BY, else the user of this process."""
    try:
        return os.environ.get("RLUF_ASKED_BY") or getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _last_hash(lake: Lake) -> str | None:
    filesystem, place = url_to_fs(posixpath.join(lake.root, FOLDER, "decisions"))
    files = sorted(str(name) for name in filesystem.glob(posixpath.join(place, "*.jsonl")))
    return hashlib.sha256(filesystem.cat_file(files[-1])).hexdigest()[:16] if files else None


def _bound_place(lake: Lake, candidate: str, policy_hash: str) -> str:
    return posixpath.join(lake.root, FOLDER, "plans", f"{candidate}-{policy_hash[:16]}.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
