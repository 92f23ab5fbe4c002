"""A newly trained P[signal] and the one in force, with real tiny models: warm start, adopted, refused, left alone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from resources.launchers.local import LocalLauncher
from resources.launchers.spec import InputArtifact
from resources.stage import LakeResource, StageRunner, Work
from rluf_assets.assets.adoption import CHECK, adopted_check, train_and_compare
from rluf_assets.lake import Artifact, Lake, Produced, publish
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.tidy import find_waste
from tests.rewards.conftest import base, labelled_frame, small_config  # noqa: F401

CONFIG = small_config(epochs=2, evaluation={"negatives": 400, "bootstrap_resamples": 50}, replay_share=0.3)


@dataclass
class Home:
    """A lake with a base model, and the asset `p_love` on it."""

    lake: Lake
    base: Path
    instance: dg.DagsterInstance

    def bring(self, days: int, *, spoilt: bool = False) -> Artifact:
        """A signal set of so many days of 300 rows, in force; `spoilt`: its last day's labels are the wrong way round."""
        frames = [labelled_frame(300, seed=day).with_columns(created_at=_noon(day)) for day in range(days)]
        if spoilt:
            frames[-1] = frames[-1].with_columns(label=~pl.col("label"))
        folder = Path(self.lake.folder("signal_set", None, f"{days}{spoilt}".rjust(16, "0")))
        folder.mkdir(parents=True, exist_ok=True)
        pl.concat(frames).write_parquet(folder / "train.parquet")
        labelled_frame(800, seed=99).with_columns(created_at=_noon(40)).write_parquet(folder / "holdout.parquet")
        rates = {"signal": "love", "q_pos": 1.0, "q_neg": 1.0, "base_rate": 0.3}
        (folder / "rates.json").write_text(json.dumps(rates))
        made = publish(str(folder), fingerprint=str(days), produced=Produced())
        self.lake.set_current("signal_set", None, made)
        return made

    def run(self, config: RewardConfig = CONFIG) -> tuple[dg.AssetMaterialization, dg.AssetCheckEvaluation]:
        launcher = LocalLauncher(in_process=["rluf_assets.jobs.train_reward"])
        stage = StageRunner(store=LakeResource(root=self.lake.root), launcher=launcher, seed=0)
        start = InputArtifact(uri=str(self.base), content_hash="base")

        @dg.asset(check_specs=[adopted_check("p_love")])
        def p_love(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            inputs = {"base": start, "signal_set": stage.lake.current("signal_set")}
            return train_and_compare(context, stage, Work("train_reward", config, inputs))

        result = dg.materialize([p_love], instance=self.instance)
        assert result.success
        (event,), (check,) = result.asset_materializations_for_node("p_love"), result.get_asset_check_evaluations()
        assert check.check_name == CHECK and check.severity == dg.AssetCheckSeverity.WARN
        return event, check

    @property
    def trained(self) -> int:
        """How many models were ever trained in this lake."""
        return len(list(Path(self.lake.place("p_love", None)).glob("*/manifest.json")))


def _noon(day: int) -> pl.Expr:
    return pl.lit(datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=day)).cast(pl.Datetime("us", "UTC"))


def version(event: dg.AssetMaterialization) -> str:
    assert event.tags is not None
    return event.tags["dagster/data_version"]


@pytest.fixture
def home(base: Path, tmp_path: Path) -> Iterator[Home]:  # noqa: F811
    with dg.DagsterInstance.ephemeral() as instance:
        yield Home(Lake(str(tmp_path / "lake")), base, instance)


def test_the_same_rows_train_nothing_and_new_ones_start_from_the_model_in_force(home: Home) -> None:
    home.bring(2)
    first, check = home.run()
    assert check.passed and "first of its kind" in str(check.description)
    again, _ = home.run()
    assert version(again) == version(first) and home.trained == 1
    before = home.lake.current("p_love")
    home.bring(3)
    second, check = home.run()
    assert check.passed and str(check.description).startswith("adopted: "), check.description
    after = home.lake.current("p_love")
    assert version(second) == after.content_hash != version(first)
    assert after.manifest["spec"]["inputs"]["previous"]["content_hash"] == before.content_hash
    # The new day and 0.3 of old rows, less a validation share: not all 900 rows.
    assert after.rows["train"] < 500
    low, high = (after.metrics[f"auroc_change_ci_{side}"] for side in ("low", "high"))
    assert low <= after.metrics["auroc_change"] <= high
    # Its predecessor was an input of the comparison, not of the model: nobody needs it any more.
    assert before.uri in {entry.folder for entry in find_waste(home.lake)}


def test_a_worse_model_is_refused_and_its_predecessor_stays_in_force(home: Home) -> None:
    home.bring(2)
    first, _ = home.run()
    home.bring(3, spoilt=True)
    refused, check = home.run()
    assert not check.passed and str(check.description).startswith("refused: it "), check.description
    assert version(refused) == version(first) == home.lake.current("p_love").content_hash
    assert Path(str(refused.metadata["refused model"].value)).is_dir()
    assert home.trained == 2
    home.run()  # asked again, it is found, not trained again
    assert home.trained == 2
    home.bring(4)  # the next good day starts from the model in force
    _, check = home.run()
    assert check.passed, check.description


def test_better_asks_for_more_than_not_worse(home: Home) -> None:
    home.bring(2)
    home.run()
    in_force = home.lake.current("p_love").content_hash
    home.bring(3)
    strict = CONFIG.model_copy(update={"adoption": CONFIG.adoption.model_copy(update={"require": "better"})})
    _, check = home.run(strict)
    told_apart = "is better" in str(check.description)
    assert check.passed == told_apart
    assert (home.lake.current("p_love").content_hash == in_force) != told_apart


def test_other_settings_train_from_the_base_and_are_taken_at_their_word(home: Home) -> None:
    home.bring(2)
    home.run()
    _, check = home.run(CONFIG.model_copy(update={"epochs": 1}))
    assert "first of its kind" in str(check.description)
    assert "previous" not in home.lake.current("p_love").manifest["spec"]["inputs"]
