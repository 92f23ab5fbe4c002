"""An edited candidates.yaml: what the sensor makes of it, tick by tick, on a lake with policies that were made before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from rluf_assets.assets.policy import candidate_settings, candidates_sensor
from rluf_assets.errors import ConfigError
from rluf_assets.lake import Produced, make_fingerprint, publish
from rluf_assets.partitions import HomeSettings

LOW, HIGH = {"weights": {"love": 0.1}}, {"weights": {"love": 0.3}}


@dataclass
class Home:
    folder: Path
    instance: dg.DagsterInstance
    cursor: str | None = None

    def write(self, **candidates: dict[str, object]) -> None:
        (self.folder / "candidates.yaml").write_text(yaml.safe_dump({"candidates": candidates}))

    def optimise(self, name: str, *, without: str | None = None) -> None:
        """A policy made with the candidate's settings as they are; `without` one that its version did not have yet."""
        settings = HomeSettings.of(self.folder)
        config = candidate_settings(settings, name).model_dump(mode="json")
        config.pop(without, None)
        fingerprint = make_fingerprint("1", config, {}, 0)
        made = Path(settings.lake.folder("crraft_policy", name, fingerprint))
        made.mkdir(parents=True)
        artifact = publish(str(made), fingerprint=fingerprint, produced=Produced(), spec={"config": config})
        settings.lake.set_current("crraft_policy", name, artifact)

    def tick(self) -> list[str | None]:
        """One tick of the sensor in a server that was started before any edit; the candidates it asks to optimise."""
        context = dg.build_sensor_context(self.instance, cursor=self.cursor)
        result = candidates_sensor(HomeSettings.of(self.folder))(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions("candidate", list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition("candidate", key)
        assert all(one.asset_selection == [dg.AssetKey("crraft_policy")] for one in result.run_requests or [])
        return [one.partition_key for one in result.run_requests or []]

    @property
    def partitions(self) -> set[str]:
        return set(self.instance.get_dynamic_partitions("candidate"))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Two candidates, both optimised."""
    with dg.DagsterInstance.ephemeral() as instance:
        found = Home(tmp_path, instance)
        found.write(baseline=LOW, bold=HIGH)
        for name in ("baseline", "bold"):
            found.optimise(name)
        yield found


def test_new_names_become_partitions_and_those_that_went_go(home: Home) -> None:
    assert home.tick() == []
    assert home.partitions == {"baseline", "bold"}
    home.write(baseline=LOW, other=HIGH)
    assert home.tick() == []  # the automation makes what is new
    assert home.partitions == {"baseline", "other"}


def test_an_edit_is_asked_for_once_and_alone(home: Home) -> None:
    home.write(baseline=LOW, bold={"weights": {"love": 0.4}})  # before the first tick of all
    assert home.tick() == ["bold"]
    assert home.tick() == []  # under way, or failed: a person looks
    home.write(baseline=LOW, bold=HIGH)
    assert home.tick() == []  # as it was made
    home.write(baseline=LOW, bold={"weights": {"love": 0.4}})
    assert home.tick() == ["bold"]
    home.optimise("bold")
    assert home.tick() == []
    (home.folder / "rluf.yaml").write_text("profile: laptop\ncrraft_policy: {kl_max: 1.5}\n")  # what all share
    assert home.tick() == ["baseline", "bold"]


def test_a_policy_of_an_older_version_was_not_edited(home: Home) -> None:
    """A setting that came since has its default: nobody changed it."""
    home.optimise("bold", without="dtype")
    assert home.tick() == []


def test_a_broken_file_changes_nothing_and_is_told(home: Home) -> None:
    home.tick()
    home.write(baseline=LOW, bold={"weight": {"love": 0.4}})
    with pytest.raises(ConfigError, match="did you mean 'weights'"):
        home.tick()
    assert home.partitions == {"baseline", "bold"}
