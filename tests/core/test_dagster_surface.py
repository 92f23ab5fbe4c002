"""What is used of Dagster beyond its public API still is what it was; and it is used in one module alone."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import dagster as dg

from rluf_assets.dagster_surface import (
    CheckRunHealthResult,
    ConfigurableClassData,
    DefaultRunLauncher,
    WorkerStatus,
    evaluate_conditions,
    read_cursor,
    write_cursor,
)

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"\bdagster(?:_shared)?\.(?:_\w+|serdes)|evaluate_automation_conditions|AssetDaemonCursor")


def test_it_is_used_in_one_module_alone() -> None:
    files = [file for folder in ("rluf_assets", "resources", "data_checks") for file in (ROOT / folder).rglob("*.py")]
    users = [str(file.relative_to(ROOT)) for file in files if PRIVATE.search(file.read_text(encoding="utf-8"))]
    assert users == ["rluf_assets/dagster_surface.py"]


def test_a_launcher_may_say_whether_a_run_is_alive() -> None:
    assert list(inspect.signature(DefaultRunLauncher.__init__).parameters) == ["self", "inst_data"]
    assert list(inspect.signature(DefaultRunLauncher.check_run_worker_health).parameters) == ["self", "run"]
    assert isinstance(DefaultRunLauncher.supports_check_run_worker_health, property)
    assert CheckRunHealthResult(WorkerStatus.FAILED, "gone").msg == "gone" and WorkerStatus.RUNNING
    data = ConfigurableClassData("rluf_assets.alive", "RunLauncher", "{}")
    assert type(data.rehydrate(as_type=DefaultRunLauncher)).__name__ == "RunLauncher"


def test_conditions_remember_what_they_asked_for_in_text() -> None:
    eager = dg.AutomationCondition.missing() & dg.AutomationCondition.missing().newly_true()

    @dg.asset(automation_condition=eager)
    def wanted() -> None: ...

    @dg.asset(automation_condition=eager)
    def left_out() -> None: ...

    defs, instance = dg.Definitions(assets=[wanted, left_out]), dg.DagsterInstance.ephemeral()
    asked, cursor = evaluate_conditions(defs, instance, leave_out=["left_out"], cursor=None)
    assert asked == {"wanted": {None}}
    again, _ = evaluate_conditions(defs, instance, leave_out=["left_out"], cursor=read_cursor(write_cursor(cursor)))
    assert again == {}
