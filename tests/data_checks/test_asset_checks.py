"""The Dagster checks in real runs: a range of days in one call, blocking what lies downstream, warning where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from data_checks.checks import build_checks
from data_checks.metrics import partition_metrics
from rluf_assets.lake import Lake, Produced, publish
from tests.feedback.logs import SIGNALS, clean_logs, validated

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-06")


class LakeOf(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Like the toolkit's lake resource: an attribute `lake`."""

    root: str

    @property
    def lake(self) -> Lake:
        return Lake(self.root)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def _publish_day(lake: Lake, day: str, **figures: Any) -> None:
    messages, reactions = clean_logs(users_per_day=100, love_rate=0.003, seed=1)
    row = partition_metrics(validated(messages, reactions), SIGNALS, None)
    row = row.with_columns(pl.lit(value).cast(row.schema[name]).alias(name) for name, value in figures.items())
    folder = Path(lake.folder("validated_replies", day, day.replace("-", "") * 2))
    folder.mkdir(parents=True, exist_ok=True)
    row.with_columns(day=pl.lit(day).str.to_date()).write_parquet(folder / "metrics.parquet")
    lake.set_current("validated_replies", day, publish(str(folder), fingerprint="f", produced=Produced()))


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def validated_replies() -> None: ...


@dg.asset(deps=[validated_replies])
def signal_audit() -> None: ...


@dg.asset
def signal_set() -> None: ...


def _run(lake: Lake, days: tuple[str, str], *, names: set[str] | None = None) -> Any:
    checks = build_checks()
    wanted: dg.AssetSelection = dg.AssetSelection.assets(validated_replies) | dg.AssetSelection.checks(checks[0])
    if names is not None:
        keys = [dg.AssetCheckKey(dg.AssetKey("validated_replies"), name) for name in names]
        wanted = dg.AssetSelection.checks(*keys)
    job = dg.define_asset_job("days", selection=wanted)
    defs = dg.Definitions(
        assets=[validated_replies, signal_audit, signal_set], asset_checks=checks, jobs=[job],
        resources={"lake": LakeOf(root=lake.root)},
    )  # fmt: skip
    tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[1]}
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def("days").execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def test_a_range_of_days_is_judged_in_one_call(lake: Lake) -> None:
    for day in DAYS.get_partition_keys():
        _publish_day(lake, day, **({"replies_gap": 2} if day in ("2026-01-03", "2026-01-05") else {}))
    result = _run(lake, ("2026-01-01", "2026-01-04"))
    found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert len(found) == 21
    assert {name for name, one in found.items() if not one.passed} == {"replies_add_up"}
    broken = found["replies_add_up"]
    assert broken.severity == dg.AssetCheckSeverity.ERROR
    assert broken.metadata["observed"].value == "1 of 4 rows outside (2026-01-03: 2)"  # the 5th is not in the range
    assert broken.metadata["rows"].value == 4


def test_a_bad_day_stays_bad_until_it_is_mended(lake: Lake) -> None:
    """A good day after it opens nothing: what is downstream takes both."""
    _publish_day(lake, "2026-01-01", replies_gap=2, turns_mean=99.0)
    _publish_day(lake, "2026-01-02")
    found = {one.check_name: one for one in _run(lake, ("2026-01-02", "2026-01-02")).get_asset_check_evaluations()}
    assert {name for name, one in found.items() if not one.passed} == {
        "replies_add_up"
    }  # an old warning is not told again
    assert (
        found["replies_add_up"].metadata["observed"].value == "brought in before: 1 of 1 rows outside (2026-01-01: 2)"
    )
    _publish_day(lake, "2026-01-01")
    assert _run(lake, ("2026-01-01", "2026-01-01")).success


def test_warnings_do_not_fail_and_a_part_of_the_checks_can_run(lake: Lake) -> None:
    _publish_day(lake, "2026-01-02", turns_mean=99.0)
    result = _run(lake, ("2026-01-02", "2026-01-02"), names={"turns_plausible", "messages_add_up"})
    found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert set(found) == {"turns_plausible", "messages_add_up"} and result.success
    assert not found["turns_plausible"].passed
    assert found["turns_plausible"].severity == dg.AssetCheckSeverity.WARN


def test_contract_checks_block_and_bands_do_not() -> None:
    specs = {spec.name: spec for check in build_checks() for spec in check.check_specs}
    assert specs["replies_add_up"].blocking and specs["users_disjoint"].blocking and specs["target_rate_met"].blocking
    assert not specs["signal_rate_band"].blocking and not specs["enough_holdout_positives"].blocking
    assert all(spec.description for spec in specs.values())


def test_a_broken_contract_stops_what_lies_downstream(lake: Lake) -> None:
    ran = []

    @dg.asset(deps=[dg.AssetKey("validated_replies")], name="downstream")
    def downstream() -> None:
        ran.append("downstream")

    @dg.asset(name="validated_replies")
    def unpartitioned() -> None: ...

    _publish_day(lake, "2026-01-01", messages_gap=1)
    checks = build_checks()
    defs = dg.Definitions(
        assets=[unpartitioned, downstream], asset_checks=checks[:1], resources={"lake": LakeOf(root=lake.root)},
        jobs=[dg.define_asset_job("all_of_it", selection=dg.AssetSelection.all())],
    )  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("all_of_it").execute_in_process(instance=instance, raise_on_error=False)
    assert ran == [] and not result.success
