"""What is up to date, and what is not: a changed source, other settings, a check that failed, a record of something else."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from data_checks.suites import basis_of
from resources.build import build_resources
from resources.launchers.local import LocalLauncher
from resources.launchers.spec import InputArtifact
from resources.profiles import load_profile
from resources.stage import LakeResource, StageRunner, Work
from rluf_assets.errors import JobFailed
from rluf_assets.evaluation.decision_log import bind_plan, bound_plan
from rluf_assets.jobs.adopt_tables import AdoptConfig
from rluf_assets.lake import Lake, content_hash
from rluf_assets.materialise import RANGE_END, RANGE_START, Answer, Outcome, Unit, run_units
from rluf_assets.runs.current import Asker

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-04")
SPAN = ("2026-01-01", "2026-01-03")
ADOPTED, DAILY, LEFT_OUT = Unit(("adopted",)), Unit(("daily",), day_range=SPAN), Unit(("left_out",))
UP_TO_DATE = Answer()


class Home:
    """A home with three assets: one that copies a table, one that does so by the day, and one that is never made."""

    def __init__(self, home: Path) -> None:
        self.home, self.source, self.verdict = home, home / "source", dg.AssetCheckResult(passed=True)
        self.write("1")
        (home / "rluf.yaml").write_text("profile: tiny\n")
        self.lake = Lake(str(home / "lake"))
        launcher = LocalLauncher(in_process=["rluf_assets.jobs.adopt_tables"])
        stage = StageRunner(store=LakeResource(root=self.lake.root), launcher=launcher, seed=0)
        self.resources = {"stage": stage, "production": build_resources(load_profile(home), home)["production"]}
        self.instance = dg.DagsterInstance.ephemeral()
        self.settings: dict[str, Any] = {"tables": {"table.json": []}}

    def write(self, text: str) -> None:
        self.source.mkdir(exist_ok=True)
        (self.source / "table.json").write_text(text)

    def work(self) -> Work:
        source = InputArtifact(uri=str(self.source), content_hash=content_hash(str(self.source)))
        return Work("adopt_tables", AdoptConfig.model_validate(self.settings), {"source": source})

    @property
    def defs(self) -> dg.Definitions:
        @dg.asset
        def adopted(context: dg.AssetExecutionContext, stage: StageRunner) -> dg.MaterializeResult:
            return stage.run(context, self.work())

        @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
        def daily(context: dg.AssetExecutionContext, stage: StageRunner) -> Iterator[dg.MaterializeResult]:
            yield from stage.run_days(context, {day: self.work() for day in context.partition_keys})

        @dg.asset(output_required=False)
        def left_out(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
            context.log.info("nothing to make")
            yield from ()

        @dg.asset_check(asset=adopted, blocking=True)
        def sound() -> dg.AssetCheckResult:
            return self.verdict

        return dg.Definitions(assets=[adopted, daily, left_out], asset_checks=[sound], resources=self.resources)

    def run(self, unit: Unit) -> bool:
        tags = {RANGE_START: unit.day_range[0], RANGE_END: unit.day_range[1]} if unit.day_range else {}
        job = self.defs.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(asset) for asset in unit.assets]
        done = job.execute_in_process(instance=self.instance, asset_selection=keys, tags=tags, raise_on_error=False)
        return done.success

    def ask(self, unit: Unit) -> Answer:
        return Asker(self.defs, self.instance, self.home).unit(unit)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    basis = basis_of(tmp_path / "suites" / "adopted.json")
    made.verdict = dg.AssetCheckResult(passed=True, metadata={"basis": basis})
    return made


def test_what_was_made_is_up_to_date_until_its_source_or_its_settings_change(home: Home) -> None:
    assert home.ask(ADOPTED) == Answer("not made yet")
    assert home.run(ADOPTED)
    assert home.ask(ADOPTED) == UP_TO_DATE
    home.write("2")
    assert home.ask(ADOPTED) == Answer("new content of source")
    home.write("1")
    assert home.ask(ADOPTED) == UP_TO_DATE, "as it was, and still in force"
    home.settings = {"tables": {}}
    assert home.ask(ADOPTED) == Answer("other settings: tables")
    home.settings = {"tables": {"table.json": []}}
    home.source.joinpath("table.json").unlink()
    home.source.rmdir()
    assert home.ask(ADOPTED) == Answer("new content of source")


def test_a_record_of_something_else_is_not_enough(home: Home) -> None:
    assert home.run(ADOPTED)
    first = home.lake.current("adopted")
    home.write("2")
    assert home.run(ADOPTED)
    home.write("1")
    home.lake.set_current("adopted", None, first)  # what a run does, killed before Dagster hears of it
    assert home.ask(ADOPTED) == Answer("Dagster's last record is of another one")
    home.instance = dg.DagsterInstance.ephemeral()
    assert home.ask(ADOPTED) == Answer("Dagster has no record of it")


def test_checks_that_failed_or_are_others_now_are_run_again(home: Home, tmp_path: Path) -> None:
    well = home.verdict
    home.verdict = dg.AssetCheckResult(passed=False, metadata=well.metadata, description="3 of 10")
    assert not home.run(ADOPTED)
    assert home.ask(ADOPTED) == Answer("check sound failed")
    warned = {"severity": dg.AssetCheckSeverity.WARN, "metadata": well.metadata, "description": "3 of 10"}
    home.verdict = dg.AssetCheckResult(passed=False, **warned)
    assert home.run(ADOPTED)
    assert home.ask(ADOPTED) == Answer(warnings=("adopted/sound: 3 of 10",))
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "adopted.json").write_text("{}")
    assert home.ask(ADOPTED) == Answer("check sound is another one now")


def test_days_are_asked_one_by_one(home: Home) -> None:
    assert home.ask(DAILY) == Answer("not made yet")
    assert home.run(DAILY)
    assert home.ask(DAILY) == UP_TO_DATE
    day = Unit(("daily",), day_range=(SPAN[1], SPAN[1]))
    assert home.run(day)
    assert home.ask(DAILY) == UP_TO_DATE, "the range was made before, and one of its days again"
    home.write("2")
    assert home.run(day)
    assert home.ask(day) == UP_TO_DATE
    assert home.ask(DAILY) == Answer("new content of source")


def test_an_asset_that_leaves_itself_out_has_nothing_to_do(home: Home) -> None:
    assert home.ask(LEFT_OUT) == UP_TO_DATE


def test_who_asks_writes_nothing(home: Home) -> None:
    from rluf_assets.evaluation.plan import AbPlan

    lake = Asker(home.defs, home.instance, home.home)._resources["stage"].lake
    with pytest.raises(Exception, match="is not written yet"):
        bind_plan(lake, "moderate", "abc", AbPlan())
    assert bound_plan(home.lake, "moderate", "abc") is None
    assert bind_plan(home.lake, "moderate", "abc", AbPlan()) == bind_plan(lake, "moderate", "abc", AbPlan())


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_up_to_date_is_no_run(workers: int, tmp_path: Path) -> None:
    specs = [dg.AssetSpec("logs"), dg.AssetSpec("labels", deps=["logs"])]
    defs = dg.Definitions(assets=specs)
    units = [Unit(("logs",)), Unit(("labels",))]
    asked: list[Unit] = []

    def ask(unit: Unit) -> Answer:
        asked.append(unit)
        return Answer(warnings=("one stands",))

    done = run_units(defs, units, home=tmp_path, workers=workers, ask=ask)
    assert [outcome.state for outcome in done.values()] == ["up to date", "up to date"]
    assert done[units[1]].notes == ["one stands"] and asked == units


def test_a_worker_that_was_killed_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    defs, unit = dg.Definitions(assets=[dg.AssetSpec("logs")]), Unit(("logs",))
    states: list[str] = []

    def kill(outcomes: dict[Unit, Outcome]) -> None:
        states.append(outcomes[unit].state)
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(
        JobFailed, match="a worker process of this command was killed, most often because memory ran out"
    ):
        run_units(defs, [unit], home=tmp_path, workers=2, on_change=kill)
    assert states[-1] == "ended" and not multiprocessing.active_children()
