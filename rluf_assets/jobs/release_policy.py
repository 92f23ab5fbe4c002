"""Job: put a promoted candidate in force, with its model card and lineage.

The weights are not copied: `release.json` names the policy artifact and its content hash.
"""

from __future__ import annotations

import json

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced, read_json, write_json


def run(job: Job) -> Produced:
    """Write `release.json` and `MODEL_CARD.md` for the policy in `inputs["policy"]`."""
    policy, report = job.spec.inputs["policy"], job.spec.inputs["release_report"]
    manifest = read_json(f"{policy.uri}/manifest.json")
    training = manifest["spec"]
    candidate = job.config["candidate"]
    release = {
        "candidate": candidate,
        "policy": policy.model_dump(),
        "release_report": report.model_dump(),
        "previous_content_hash": job.config["previous_content_hash"],
        "lineage": {name: source["content_hash"] for name, source in sorted(training["inputs"].items())},
    }
    write_json(str(job.out / "release.json"), release)
    decisions = read_json(f"{report.uri}/summary.json")
    before = job.config["previous_content_hash"]
    (job.out / "MODEL_CARD.md").write_text(_card(candidate, training["config"], release["lineage"], decisions, before))
    return Produced(metrics={"candidate": candidate, "policy": policy.content_hash[:16]})


def _card(
    candidate: str,
    config: dict[str, object],
    lineage: dict[str, str],
    report: dict[str, object],
    before: str | None,
) -> str:
    inputs = "\n".join(f"- {name}: `{content}`" for name, content in lineage.items())
    previous = f"`{before}`; `rluf rollback` restores it" if before else "none"
    return f"""# Model card: {candidate}

A policy optimised with {config["optimiser"]} from user feedback, promoted by its release report.

- Objective weights: {json.dumps(config["weights"])}
- Sequence KL limit: {config["kl_max"]}; completions per prompt: {config["completions_per_prompt"]}
- Policy in force before this one: {previous}

## Trained from (content hashes)

{inputs}

## Release report

```json
{json.dumps(report, indent=1, sort_keys=True)}
```

## Limits

The love reward predicts a reaction, not a benefit. Its figures hold for traffic like the logs it was trained on; the
release report names the tripwires that were checked and the trust its offline figures deserve.
"""


if __name__ == "__main__":
    main(run)
