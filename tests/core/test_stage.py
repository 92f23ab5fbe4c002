"""What an asset's run tells Dagster, and which failed jobs it tries again."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from resources import stage
from resources.launchers.base import Request
from resources.launchers.local import LocalLauncher
from resources.launchers.spec import InputArtifact, JobResult
from resources.metadata import describe
from resources.stage import LakeResource, StageRunner, Work
from rluf_assets.jobs.adopt_tables import AdoptConfig
from rluf_assets.lake import Lake


class OnceKilled(LocalLauncher):
    """Its first job dies of SIGKILL, as one does that the kernel ends for its memory."""

    def _run_process(self, request: Request, pipes: Mapping[str, str]) -> int:
        killed = Path(request.spec.output_uri).parents[3] / "killed"
        if killed.exists():
            return super()._run_process(request, pipes)
        killed.touch()
        victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        victim.send_signal(signal.SIGKILL)
        return victim.wait()


def adopt(tmp_path: Path, table: str) -> dg.ExecuteInProcessResult:
    """Materialise an asset whose work copies one table of a folder that holds table.json alone."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "table.json").write_text(json.dumps({"rows": []}))
    work = Work(
        "adopt_tables", AdoptConfig(tables={table: []}), {"source": InputArtifact(uri=str(source), content_hash="1")}
    )
    runner = StageRunner(store=LakeResource(root=str(tmp_path / "lake")), launcher=OnceKilled(), seed=0)

    @dg.asset
    def adopted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return runner.run(context, work)

    return dg.materialize([adopted], raise_on_error=False)


def attempts(result: dg.ExecuteInProcessResult) -> int:
    return 1 + sum(event.is_step_restarted for event in result.all_events)


def test_a_killed_job_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "RETRY_WAIT_S", 0)
    result = adopt(tmp_path, "table.json")
    assert result.success
    assert attempts(result) == 2
    assert Lake(str(tmp_path / "lake")).current("adopted").path("table.json")


def test_a_job_that_refused_its_input_is_not(tmp_path: Path) -> None:
    (tmp_path / "killed").touch()
    result = adopt(tmp_path, "absent.json")
    assert not result.success
    assert attempts(result) == 1
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    while error.cause is not None:
        error = error.cause
    assert "absent.json" in error.message


def test_a_materialisation_is_read_without_opening_the_lake(tiny_home: Path) -> None:
    lake = Lake(str(tiny_home / "lake"))
    day = lake.partitions("validated_replies")[0]
    told = describe(JobResult(lake.current("validated_replies", day), reused=False), "http://127.0.0.1:4001/")
    columns = {column.name: column for column in told["dagster/column_schema"].columns}
    assert columns["label_love"].type == "Int8"
    assert "gave a love" in columns["label_love"].description
    assert told["dagster/row_count"] == told["rows: replies"] == told["mature"] + told["pending"]
    examples = told["examples"].records
    assert len(examples) == 5
    assert all(set(row.data) == set(columns) for row in examples)
    assert all(len(str(value)) <= 160 for row in examples for value in row.data.values())
    for raw in ("raw_messages", "raw_reactions"):  # as users wrote it: no row of it in Dagster's database
        assert "examples" not in describe(JobResult(lake.current(raw, day), reused=False))
    page = told["page: quarantine"].url
    assert page.startswith(f"http://127.0.0.1:4001/lake/validated_replies/{day}/")
    assert (tiny_home / page.removeprefix("http://127.0.0.1:4001/")).exists()
    assert set(told["made from"].data) == {
        "messages",
        "reactions",
        "next_messages/2026-01-02",
        "next_reactions/2026-01-02",
    }
    many = describe(JobResult(lake.current("signal_set"), reused=True))
    assert set(many["made from"].data) == {"validated_replies", "evaluation_prompts"}
    assert {name: said for name, said in many["made from"].data.items() if name != "evaluation_prompts"} == {
        "validated_replies": "20: validated_replies/2026-01-01 .. validated_replies/2026-01-20"
    }
    assert many["examples"].records[0].data["prompt"].startswith("user ")
