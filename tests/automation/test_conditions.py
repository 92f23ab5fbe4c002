"""What new content asks for, without a daemon: the real graph's conditions, evaluated after events that runs would leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import AutomationCondition as When

from rluf_assets.automation import AUTOMATION, LOOK_BACK_DAYS, fixed, follows, validates
from rluf_assets.definitions import build_definitions
from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.materialise import Unit
from rluf_assets.partitions import CANDIDATES, EXPERT_OBJECTIVES, HomeSettings
from rluf_assets.policy.config import BasePolicyConfig, OptimisationConfig
from rluf_assets.update import is_there

NO_HOME = Path("no-such-home")  # what a home that sets nothing has
DEFS = build_definitions(NO_HOME)
GRAPH = DEFS.resolve_asset_graph()
DAYS = HomeSettings.of(NO_HOME).days
ALL_DAYS = DAYS.get_partition_keys()
YESTERDAY, LAST = ALL_DAYS[-2:]
NAMES = ("baseline", "moderate")
PER_CANDIDATE = ("crraft_policy", "offline_evaluation", "ab_exposures")
COMPARISONS = (
    "reward_hacking_audit", "ab_test_readout", "off_policy_evaluation", "release_report", "released_policy",
)  # fmt: skip


@dataclass
class World:
    """An instance in which every asset was made once, and the automation's memory of it."""

    instance: dg.DagsterInstance
    cursor: object = None
    now: datetime = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
    versions: dict[tuple[str, str | None], str] = field(default_factory=dict)
    defs: dg.Definitions = DEFS

    def make(self, asset: str, version: str, *partitions: str | None) -> None:
        """What a run leaves: a materialisation with its data version, and the asset's checks passed."""
        for partition in partitions or (None,):
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": version})
            )
            self.versions[asset, partition] = version
        self.check(asset, passed=True)

    def check(self, asset: str, *, passed: bool) -> None:
        for key in GRAPH.get(dg.AssetKey(asset)).check_keys:
            if GRAPH.get(key).blocking:
                self.instance.report_runless_asset_event(dg.AssetCheckEvaluation(key.asset_key, key.name, passed, {}))

    def asks(self, minutes: int = 1) -> dict[str, set[str | None]]:
        """One tick: asset -> partitions that are asked for."""
        self.now += timedelta(minutes=minutes)
        result = dg.evaluate_automation_conditions(
            self.defs, self.instance, evaluation_time=self.now, cursor=self.cursor
        )
        self.cursor = result.cursor
        asked = {key: result.get_requested_partitions(key) for key in GRAPH.materializable_asset_keys}
        return {key.to_user_string(): set(partitions) for key, partitions in asked.items() if partitions}

    def settle(self, **content: str) -> list[dict[str, set[str | None]]]:
        """Ticks until nothing is asked for, each one's runs done; content as before, except of the assets named."""
        ticks = []
        while asked := self.asks():
            ticks.append(asked)
            assert len(ticks) < 20, ticks
            for asset, partitions in asked.items():
                for partition in partitions:
                    before = self.versions.get((asset, partition), "1")
                    self.make(asset, content.get(asset, before), partition)
        return ticks


@pytest.fixture
def world() -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("candidate", list(NAMES))
        found = World(instance)
        for key in GRAPH.toposorted_asset_keys:
            kind, name = GRAPH.get(key).partitions_def, key.to_user_string()
            keys = {type(DAYS): ALL_DAYS, type(CANDIDATES): NAMES, type(None): [None]}.get(
                type(kind), EXPERT_OBJECTIVES
            )
            found.make(name, "1", *keys)
        assert found.asks() == {}
        yield found


def ran(ticks: list[dict[str, set[str | None]]]) -> dict[str, set[str | None]]:
    return {asset: set().union(*(tick.get(asset, set()) for tick in ticks)) for tick in ticks for asset in tick}


def test_the_sensor_is_on_and_every_asset_but_those_that_people_make_is_under_it() -> None:
    assert AUTOMATION.default_status == dg.DefaultSensorStatus.RUNNING
    assert fixed(GRAPH) == {"base_policy", "evaluation_prompts", "preference_pairs"}


def test_the_same_content_asks_for_nothing(world: World) -> None:
    world.make("raw_messages", "1", LAST)
    world.make("raw_reactions", "1", *ALL_DAYS[-3:])
    world.make("signal_set", "1")
    world.make("p_love", "1")  # a refused model leaves its predecessor's version
    assert world.asks() == {}


def test_a_new_day_asks_for_exactly_what_is_downstream(world: World) -> None:
    world.make("raw_messages", "2", LAST)
    world.make("raw_reactions", "2", LAST)
    ticks = world.settle(validated_replies="2", signal_set="2", p_love="2", crraft_policy="2", offline_evaluation="2",
                         offline_online_backtest="2", reward_hacking_audit="2", ab_exposures="2", ab_test_readout="2",
                         off_policy_evaluation="2", release_report="2", signal_audit="2")  # fmt: skip
    assert ticks[0] == {"validated_replies": {YESTERDAY, LAST}}
    assert ticks[1] == {"signal_audit": {None}, "signal_set": {None}}
    assert ticks[2] == {"p_love": {None}}
    assert ticks[3] == {"crraft_policy": set(NAMES), "offline_online_backtest": {None}}
    found = ran(ticks)
    assert set(found) == {"validated_replies", "signal_audit", "signal_set", "p_love", "offline_online_backtest",
                          *PER_CANDIDATE, *COMPARISONS}  # fmt: skip
    assert all(found[asset] == set(NAMES) for asset in PER_CANDIDATE)
    # Each comparison once, when everything that it compares is there.
    # The backtest twice: with the new model, and with the arms whose users tell whether the model's level holds for them.
    assert {asset for asset in found if sum(asset in tick for tick in ticks) > 1} == {"offline_online_backtest"}
    assert "offline_online_backtest" in next(tick for tick in ticks if "ab_test_readout" in tick)


def test_a_day_that_changes_no_training_row_trains_nothing(world: World) -> None:
    world.make("raw_messages", "2", LAST)
    found = ran(world.settle(validated_replies="2"))
    assert set(found) == {"validated_replies", "signal_audit", "signal_set"}


def test_another_version_of_a_stage_makes_again_what_it_made_and_what_its_content_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SignalSetConfig, "version", "next")
    monkeypatch.setattr(OptimisationConfig, "version", "next")
    monkeypatch.setattr(BasePolicyConfig, "version", "next")  # people alone
    world.defs = build_definitions(NO_HOME)
    assert world.asks() == {"signal_set": {None}, "crraft_policy": set(NAMES)}
    world.make("signal_set", "1")
    world.make("crraft_policy", "1", *NAMES)
    assert world.asks() == {}


def test_a_refused_model_leaves_the_candidates_alone(world: World) -> None:
    world.make("raw_messages", "2", LAST)
    found = ran(world.settle(validated_replies="2", signal_set="2"))  # p_love: as before
    assert set(found) == {"validated_replies", "signal_audit", "signal_set", "p_love"}


def test_a_failed_check_stops_exactly_its_downstream(world: World) -> None:
    world.make("raw_messages", "2", LAST)
    assert world.asks() == {"validated_replies": {LAST}}
    world.make("validated_replies", "2", LAST)
    world.check("validated_replies", passed=False)
    world.make("preference_pairs", "2", "safety")  # another branch
    found = ran(world.settle())
    # Dagster maps a pair's partition to both models; the one whose pairs are the same finds its artifact again.
    assert set(found) == {"helpfulness_reward", "safety_reward"}
    world.make("validated_replies", "3", LAST)  # mended
    assert set(world.asks()) == {"signal_audit", "signal_set"}


def test_a_failed_check_of_the_signal_set_stops_the_models(world: World) -> None:
    world.make("signal_set", "2")
    world.check("signal_set", passed=False)
    assert world.asks() == {}


def test_late_reactions_rebuild_the_days_whose_window_they_fall_into(world: World) -> None:
    world.make("raw_reactions", "2", ALL_DAYS[10])
    assert world.asks() == {"validated_replies": {ALL_DAYS[9], ALL_DAYS[10]}}
    world.make("validated_replies", "2", ALL_DAYS[9])
    world.make("validated_replies", "1", ALL_DAYS[10])
    assert world.asks() == {"signal_audit": {None}, "signal_set": {None}}


def test_the_days_of_the_look_back_are_read_again_each_night(world: World) -> None:
    midnight = datetime(2030, 1, 2, 3, 34, tzinfo=UTC)
    world.asks(minutes=int((midnight - world.now).total_seconds() // 60))
    again = world.asks(minutes=2)
    assert again == {key: set(ALL_DAYS[-LOOK_BACK_DAYS:]) for key in ("raw_messages", "raw_reactions")}
    assert world.asks() == {}


def test_a_backfill_of_thirty_days_is_one_run(world: World) -> None:
    days = ALL_DAYS[-30:]
    for asset in ("raw_messages", "raw_reactions"):
        world.make(asset, "2", *days)
    asked = world.asks()
    assert asked == {"validated_replies": set(ALL_DAYS[-31:])}
    node = GRAPH.get(dg.AssetKey("validated_replies"))
    assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_a_new_candidate_is_made_and_nobody_elses(world: World) -> None:
    world.instance.add_dynamic_partitions("candidate", ["bold"])
    found = ran(world.settle(reward_hacking_audit="2"))
    assert {asset: found[asset] for asset in ("crraft_policy", "offline_evaluation")} == {
        "crraft_policy": {"bold"}, "offline_evaluation": {"bold"}
    }  # fmt: skip


def test_what_an_update_still_owes_is_dropped_with_its_day_or_candidate(world: World) -> None:
    owed = [Unit(("raw_messages", "raw_reactions"), day_range=(ALL_DAYS[0], LAST)), Unit(("crraft_policy",), "moderate"),
            Unit(("signal_set",))]  # fmt: skip
    gone = [Unit(("raw_messages",), day_range=(LAST, "2031-01-01")), Unit(("crraft_policy",), "withdrawn")]
    assert [unit for unit in owed + gone if is_there(GRAPH, world.instance, unit)] == owed


def test_a_period_that_grows_by_a_day_carries_that_day_on() -> None:
    """Days come by the settings: the next load of the graph has one more, and the automation remembers the graph before it."""

    def graph(last: str) -> dg.Definitions:
        days = dg.DailyPartitionsDefinition("2026-01-01", end_date=last)

        @dg.asset(partitions_def=days)
        def raw_messages() -> None: ...

        @dg.asset(partitions_def=days, deps=[raw_messages], automation_condition=validates())
        def validated_replies() -> None: ...

        @dg.asset(deps=[validated_replies], automation_condition=follows())
        def signal_set() -> None: ...

        return dg.Definitions([raw_messages, validated_replies, signal_set])

    def make(asset: str, day: str | None = None, version: str = "1") -> None:
        tags = {"dagster/data_version": version}
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=day, tags=tags))

    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2026-01-01", "2026-01-02"):
            make("raw_messages", day)
            make("validated_replies", day)
        make("signal_set")
        seen = dg.evaluate_automation_conditions(graph("2026-01-03"), instance)
        assert seen.total_requested == 0
        make("raw_messages", "2026-01-03")
        seen = dg.evaluate_automation_conditions(graph("2026-01-04"), instance, cursor=seen.cursor)
        assert seen.get_requested_partitions(dg.AssetKey("validated_replies")) == {"2026-01-03"}
        make("validated_replies", "2026-01-03")
        seen = dg.evaluate_automation_conditions(graph("2026-01-05"), instance, cursor=seen.cursor)  # and another
        assert seen.get_requested_partitions(dg.AssetKey("validated_replies")) == set()
        assert seen.get_requested_partitions(dg.AssetKey("signal_set")) == {None}


def test_a_memory_of_before_versions_were_told_asks_for_nothing_and_of_after_for_what_changed() -> None:
    """Every asset said "1" then. What it was made by is not known to have changed: the artifacts' fingerprints know."""
    by_other_code = When.code_version_changed() & ~When.missing()
    as_it_was = follows().replace(by_other_code, When.code_version_changed())
    assert as_it_was != follows()

    def graph(version: str, condition: dg.AutomationCondition) -> dg.Definitions:
        @dg.asset
        def signal_set() -> None: ...

        @dg.asset(deps=[signal_set], code_version=version, automation_condition=condition)
        def p_love() -> None: ...

        return dg.Definitions([signal_set, p_love])

    def make(asset: str, content: str) -> None:
        tags = {"dagster/data_version": content}
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, tags=tags))

    with dg.DagsterInstance.ephemeral() as instance:
        make("signal_set", "1")
        make("p_love", "1")
        seen = dg.evaluate_automation_conditions(graph("1", as_it_was), instance)
        for version, content, asked in (("6", "1", 0), ("7", "1", 1), ("7", "1", 0), ("7", "2", 1)):
            make("signal_set", content)
            seen = dg.evaluate_automation_conditions(graph(version, follows()), instance, cursor=seen.cursor)
            assert seen.total_requested == asked, (version, content)
            if asked:
                make("p_love", content)
