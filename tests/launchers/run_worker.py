"""A Dagster run worker for the tests: `python -m tests.launchers.run_worker` materialises one asset; a code location, too.

The variable RLUF_TEST_ORDER names a file with a launcher's settings and a job's spec. SIGINT is what a cancel in the UI
sends to a run worker.
"""

import json
import os
import sys
from pathlib import Path

import dagster as dg

from resources.launchers.profile import DEFAULT, ProfileLauncher
from resources.launchers.spec import JobSpec
from resources.metadata import describe

order = json.loads(Path(os.environ["RLUF_TEST_ORDER"]).read_text())
spec = JobSpec.model_validate(order["spec"])
launcher = ProfileLauncher(launchers={DEFAULT: order["launcher"]})


@dg.asset(name="worked")
def worked(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    result = launcher.run(context, spec)
    return dg.MaterializeResult(metadata=describe(result), data_version=dg.DataVersion(result.artifact.content_hash))


defs = dg.Definitions([worked], jobs=[dg.define_asset_job("work", "worked")])

if __name__ == "__main__":
    result = dg.materialize([worked], raise_on_error=False)
    for event in result.get_step_failure_events():
        cause = event.step_failure_data.error
        while cause.cause is not None:
            cause = cause.cause
        print("FAILED:", cause.message, flush=True)
    for event in result.get_asset_materialization_events():
        metadata = event.step_materialization_data.materialization.metadata
        print("METADATA:", json.dumps({key: str(value.value) for key, value in metadata.items()}), flush=True)
    sys.exit(0 if result.success else 1)
