"""The event log that keeps its files open: Dagster's own storage reads from it what was written."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from rluf_assets import event_log
from rluf_assets.demo import DAGSTER_YAML

DAYS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=DAYS)
def table(context: dg.AssetExecutionContext) -> dg.MaterializeResult[object]:
    context.log_event(dg.AssetObservation("table", partition=context.partition_key))
    return dg.MaterializeResult(data_version=dg.DataVersion(context.partition_key), tags={"team": "one"})


def test_dagsters_own_storage_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "RUNS_KEPT", 1)
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    runs = []
    with dg.DagsterInstance.get() as instance:
        log = instance.event_log_storage
        assert isinstance(log, event_log.EventLog)
        for key in DAYS.get_partition_keys():
            runs.append(dg.materialize([table], partition_key=key, instance=instance).run_id)
            assert len(log._engines) == 2
        written = {run: [record.storage_id for record in log.get_records_for_run(run).records] for run in runs}
        assert all(written.values())
    own = SqliteEventLogStorage(str(tmp_path / "history" / "runs"))
    assert {run: [record.storage_id for record in own.get_records_for_run(run).records] for run in runs} == written
    kept = own.get_materialized_partitions(dg.AssetKey("table"))
    assert kept == {"a", "b"}
