"""All definitions of the graph as JSON: what a change to the graph changes shows in the diff of definitions.json.

python -m tests.core.snapshot           # print it
python -m tests.core.snapshot --write   # take it as the new definitions.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("definitions.json")
HEAVY = (
    "torch", "transformers", "accelerate", "vllm", "deepspeed", "great_expectations", "pandas", "scipy", "statsmodels",
    "sklearn", "plotly",
)  # fmt: skip


def definitions(home: Path) -> dict[str, Any]:
    """Assets, checks, jobs, sensors and schedules by name, with what people see of them and what they depend on."""
    import dagster as dg

    from rluf_assets.definitions import build_definitions

    defs = build_definitions(home)
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    repository = defs.get_repository_def()
    specs = sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key.to_user_string())
    return {
        "assets": {spec.key.to_user_string(): _asset(spec, graph.get(spec.key)) for spec in specs},
        "checks": {
            f"{key.asset_key.to_user_string()}/{key.name}": "blocks" if graph.get(key).blocking else "warns"
            for key in sorted(graph.asset_check_keys, key=str)
        },
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "resources": sorted(defs.resources or {}),
    }


def _asset(spec: Any, node: Any) -> dict[str, Any]:
    schema = spec.metadata.get("dagster/column_schema")
    freshness = spec.freshness_policy
    return {
        "description": spec.description,
        "group": spec.group_name,
        "kinds": sorted(spec.kinds),
        "owners": list(spec.owners),
        "versioned": spec.code_version is not None,  # which one is said by its stage's settings, once
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "partitions": type(spec.partitions_def).__name__ if spec.partitions_def else None,
        "pools": sorted(node.pools or ()),
        "late_after_h": freshness.fail_window.to_timedelta().total_seconds() / 3600 if freshness else None,
        "automated": spec.automation_condition is not None,
        "columns": [column.name for column in schema.columns] if schema else None,
    }


def main() -> None:
    """Print or write the snapshot, of a home that sets nothing; heavy packages that loading it imported go to stderr."""
    with tempfile.TemporaryDirectory() as empty:
        text = json.dumps(definitions(Path(empty)), indent=1, sort_keys=True) + "\n"
    if "--write" in sys.argv:
        SNAPSHOT.write_text(text)
    else:
        print(text, end="")
    heavy = [name for name in HEAVY if name in sys.modules]
    if heavy:
        sys.exit(f"loading the definitions imported {', '.join(heavy)}: import it inside the function that needs it")


if __name__ == "__main__":
    main()
