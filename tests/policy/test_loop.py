"""The optimisation loop on real models: it optimises, resumes at every phase to the same bytes, and fails clearly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from rluf_assets.chat import Message
from rluf_assets.distributed import Zero
from rluf_assets.errors import ConfigError, DataError, TrainingError
from rluf_assets.policy import loop
from rluf_assets.policy.batch import BASELINE
from rluf_assets.policy.config import OptimisationConfig
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.judges import Verdict
from rluf_assets.policy.loop import optimise_policy, prompt_schedule
from rluf_assets.policy.objectives import calibrated_reward
from rluf_assets.policy.phases import read_prompts
from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.model import load_network, save_network
from rluf_assets.rewards.scoring import RewardModel
from tests.policy.conftest import user

WEIGHTS = {"helpfulness": 0.7, "love": 0.3}
CONFIG = OptimisationConfig(
    weights=WEIGHTS,
    iterations=2,
    prompts_per_iteration=16,
    max_new_tokens=32,
    updates_per_iteration=2,
    judges=("repetition", "length_bounds"),
    kl_samples=16,
    learning_rate=3e-3,
    max_nan_share=0.1,
)
Scorers = dict[str, RewardModel]


def reject_all(prompt: Sequence[Message], completion: str) -> Verdict:
    return Verdict(False, "nothing is good enough")


def optimise(
    base: Path, prompts_file: Path, scorers: Scorers, root: Path, config: OptimisationConfig = CONFIG, **options: object
) -> list[dict[str, object]]:
    made = optimise_policy(base, prompts_file, scorers, config, out=root, **options)  # type: ignore[arg-type]
    return made.iterations.to_dicts()


@pytest.fixture(scope="module")
def finished(base: Path, prompts_file: Path, scorers: Scorers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations, never interrupted; its scratch folders kept."""
    root = tmp_path_factory.mktemp("finished") / "run"
    optimise(base, prompts_file, scorers, root)
    return root


def produced(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(root.iterdir()) if file.is_file()}


def changed(config: OptimisationConfig, **changes: object) -> OptimisationConfig:
    return OptimisationConfig.model_validate({**config.model_dump(), **changes})


def test_the_reward_it_optimises_rises(base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path) -> None:
    rows = optimise(base, prompts_file, scorers, tmp_path, changed(CONFIG, iterations=8, prompts_per_iteration=32))
    rewards = [row["reward"] for row in rows]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.3, rewards
    assert rows[-1]["kl_mean"] > rows[0]["kl_mean"]
    assert rows[0]["kl_mean"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("optimiser", ["raft", "crpg", "codpo"])
def test_the_rivals_run_through_the_same_loop(
    optimiser: str, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
) -> None:
    rows = optimise(base, prompts_file, scorers, tmp_path, changed(CONFIG, optimiser=optimiser))
    assert all(row["learned"] > 0 and row["steps"] == 2 for row in rows)
    before, after = TransformersEngine(base), TransformersEngine(tmp_path)
    still = [
        name for name, value in after.model.named_parameters() if torch.equal(value, before.model.get_parameter(name))
    ]
    assert still == []


class TestResume:
    def test_two_runs_give_the_same_bytes(
        self, base: Path, prompts_file: Path, scorers: Scorers, finished: Path, tmp_path: Path
    ) -> None:
        optimise(base, prompts_file, scorers, tmp_path / "run")
        assert produced(tmp_path / "run") == produced(finished)

    @pytest.mark.parametrize("lost", ["reference", "sample", "score", "judge", "select", "update", "policy"])
    def test_killed_before_a_phase_was_published(
        self, lost: str, base: Path, prompts_file: Path, scorers: Scorers, finished: Path, tmp_path: Path
    ) -> None:
        """What a kill in the second iteration leaves behind, phase by phase (in the first, for the reference replies)."""
        root = tmp_path / "run"
        shutil.copytree(finished, root)
        for file in root.iterdir():
            if file.is_file():
                file.unlink()
        if lost != "policy":
            (root / "checkpoints" / "000002.safetensors").unlink()
        if lost == "reference":
            shutil.rmtree(root / "checkpoints")
            shutil.rmtree(root / "phases")
        later = ["sample", "score", "judge", "select"]
        for name in later[later.index(lost) :] if lost in later else []:
            (root / "phases" / "000002" / f"{name}.parquet").unlink()
        # A half-written file of the killed process must not be taken for the phase's.
        if lost in later:
            (root / "phases" / "000002" / f".{lost}.parquet.999").write_bytes(b"half")
        optimise(base, prompts_file, scorers, root)
        assert produced(root) == produced(finished)

    def test_state_of_another_model_is_refused(
        self, base: Path, prompts_file: Path, scorers: Scorers, finished: Path, public_data: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
        with pytest.raises((DataError, RuntimeError)):
            optimise(public_data / "stories260K", prompts_file, scorers, tmp_path)


class TestRecord:
    def test_one_row_per_iteration_without_times(self, finished: Path) -> None:
        record = pl.read_parquet(finished / "iterations.parquet")
        assert record["iteration"].to_list() == [1, 2]
        assert {"logit_love", "value_love", "weighted_love", "learned_love", "judge_repetition"} <= set(record.columns)
        assert not [column for column in record.columns if "second" in column]
        np.testing.assert_allclose(
            record["reward"], record["weighted_love"] + record["weighted_helpfulness"], atol=1e-9
        )
        assert (record["learned"] + record["skipped"] + record["set_aside"] == record["prompts"]).all()

    def test_times_and_speed_are_in_the_log(self, finished: Path) -> None:
        lines = [json.loads(line) for line in (finished / "logs" / "metrics.jsonl").read_text().splitlines()]
        assert [line["iteration"] for line in lines] == [1, 2]
        assert all(line["seconds_sample"] > 0 and line["sampled_tokens_per_s"] > 0 for line in lines)

    def test_scales_are_stored_and_those_of_the_reference_replies(self, finished: Path) -> None:
        stored = json.loads((finished / "objectives.json").read_text())
        raw = pl.read_parquet(finished / "phases" / "reference" / "scale_raw_scores.parquet")
        assert stored["weights"] == WEIGHTS
        assert stored["mean"]["love"] == pytest.approx(raw["logit_love"].mean())
        # All 32 prompts seen get eight replies each of the 512 asked for; what differs between prompts is no scale.
        assert raw.group_by("prompt_id").len()["len"].to_list() == [8] * 32
        within = raw.group_by("prompt_id").agg(pl.col("logit_love").var())["logit_love"].mean()
        assert stored["std"]["love"] == pytest.approx(within**0.5)
        assert stored["std"]["love"] < raw["logit_love"].std()

    def test_a_person_can_follow_why_each_reply_was_chosen(self, finished: Path) -> None:
        """Recompute the choice from the select phase's file, by the method's own words."""
        rows = pl.read_parquet(finished / "phases" / "000002" / "select.parquet")
        for (_,), prompt in rows.group_by("prompt_id"):
            replies = prompt.filter(pl.col("completion_id") != BASELINE)
            baseline = prompt.filter(pl.col("completion_id") == BASELINE).row(0, named=True)
            learned = prompt.filter(pl.col("role").is_not_null())
            survivors = replies.filter("passed").filter(
                pl.col("log_ratio").is_null() | (pl.col("log_ratio") <= CONFIG.kl_max)
            )
            if survivors.height:
                best = survivors.sort("reward", "completion_id", descending=[True, False]).row(0, named=True)
                assert learned["completion_id"].to_list() == [best["completion_id"]]
                assert learned["weight"].item() == pytest.approx(
                    float(calibrated_reward(np.array(best["reward"]), np.array(baseline["reward"])))
                )
            else:
                assert set(learned["completion_id"].to_list()) <= {BASELINE}


class TestConstraints:
    def test_judges_that_reject_everything_stop_the_run(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        config = changed(CONFIG, judges=("tests.policy.test_loop:reject_all",), iterations=9, max_empty_iterations=2)
        with pytest.raises(TrainingError, match=r"iterations 1 to 2: no reply met every constraint .*reject_all"):
            optimise(base, prompts_file, scorers, tmp_path, config)

    def test_a_tight_kl_bound_is_kept_by_what_is_learned(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        optimise(base, prompts_file, scorers, tmp_path, changed(CONFIG, kl_max=1.0, learning_rate=1e-2, iterations=3))
        rows = pl.read_parquet(tmp_path / "phases" / "000003" / "select.parquet")
        learned = rows.filter(pl.col("role").is_not_null())
        assert learned["log_ratio"].null_count() == 0
        assert learned["log_ratio"].max() <= 1.0
        assert rows.filter("kl_sample")["log_ratio"].max() > 1.0

    def test_a_least_reward_is_one_more_judge(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        config = changed(CONFIG, minimum_rewards={"helpfulness": 0.0}, iterations=1)
        (row,) = optimise(base, prompts_file, scorers, tmp_path, config)
        rows = pl.read_parquet(tmp_path / "phases" / "000001" / "select.parquet")
        assert rows.filter(pl.col("role").is_not_null())["value_helpfulness"].min() >= 0.0
        assert 0 < row["judge_minimum_helpfulness"] < 1

    def test_a_slow_judge_is_asked_only_where_it_matters(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        asked: list[str] = []

        def short_only(prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> np.ndarray:
            asked.extend(completions)
            return np.array([len(completion) < 40 for completion in completions])

        config = changed(CONFIG, iterations=1)
        (row,) = optimise(base, prompts_file, scorers, tmp_path, config, slow_judge=short_only)
        rows = pl.read_parquet(tmp_path / "phases" / "000001" / "select.parquet")
        assert rows.filter(pl.col("role").is_not_null())["completion"].str.len_chars().max() < 40
        assert len(asked) < 16 * 4
        assert row["judge_slow"] > 0

    def test_early_stop_on_kl(self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path) -> None:
        config = changed(CONFIG, iterations=6, learning_rate=2e-2, stop_kl_mean=0.5)
        rows = optimise(base, prompts_file, scorers, tmp_path, config)
        assert len(rows) < 6
        assert "kl_mean" in json.loads((tmp_path / "objectives.json").read_text())["stopped"]


class Broken:
    """A reward model that answers NaN, or infinity by turns, for replies it does not like the look of."""

    def __init__(self, model: RewardModel, share: float) -> None:
        self.model, self.share = model, share

    def score(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> pl.DataFrame:
        scores = self.model.score(prompts, completions)
        looks = self.looks(completions)
        broken = pl.when(looks % 3 == 0).then(float("nan")).when(looks % 3 == 1).then(float("inf"))
        broken = broken.otherwise(-float("inf"))
        return scores.with_columns(logit=pl.when(looks < 1000 * self.share).then(broken).otherwise("logit"))

    @staticmethod
    def looks(completions: Iterable[str]) -> pl.Series:
        return pl.Series([sum(completion.encode()) % 1000 for completion in completions], dtype=pl.Int64)


def test_under_zero2_the_reference_policy_keeps_the_precision_of_passes(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rluf_assets.policy.sampler.pass_dtype", lambda wanted: wanted)  # as where a device has it
    states: list[torch.dtype] = []
    for zero in (None, Zero(2, {})):
        engine = loop._reference_engine(base, changed(CONFIG, dtype="bfloat16"), zero)
        engine.model.lm_head.register_forward_hook(lambda module, given, made: states.append(made.dtype))
        engine.logprobs([user("hello")], [engine.sample([user("hello")], n=1, max_new_tokens=4, seed=0)[0][0]])
        assert engine.model.dtype == torch.float32
    assert set(states) == {torch.bfloat16}


class TestBadInput:
    def test_a_few_rewards_that_are_no_numbers_set_their_prompts_aside(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        broken = {**scorers, "love": Broken(scorers["love"], 0.15)}
        (row,) = optimise(base, prompts_file, broken, tmp_path, changed(CONFIG, iterations=1, max_nan_share=1.0))
        rows = pl.read_parquet(tmp_path / "phases" / "000001" / "select.parquet")
        aside = rows.filter(pl.col("outcome").str.starts_with("set aside"))
        assert row["set_aside"] == aside["prompt_id"].n_unique() > 0
        assert aside["role"].null_count() == aside.height
        assert row["learned"] > 0
        # Every prompt with such a reply is set aside, whichever way it is no number.
        broken_rows = rows.filter(Broken.looks(rows["completion"]) < 150)
        assert {0, 1} <= set(Broken.looks(broken_rows["completion"]) % 3)
        assert set(broken_rows["prompt_id"]) == set(aside["prompt_id"])

    def test_more_than_the_allowed_share_fails(
        self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
    ) -> None:
        broken = {**scorers, "love": Broken(scorers["love"], 0.5)}
        with pytest.raises(TrainingError, match=r"of 16 prompts are NaN or infinite, more than 1.0%"):
            optimise(base, prompts_file, broken, tmp_path, changed(CONFIG, max_nan_share=0.01))

    def test_unknown_objective(self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no reward model for objective \['safety'\]"):
            optimise(base, prompts_file, scorers, tmp_path, changed(CONFIG, weights={"safety": 1.0}))

    def test_no_prompts(self, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path) -> None:
        pl.read_parquet(prompts_file).clear().write_parquet(tmp_path / "prompts.parquet")
        with pytest.raises(DataError, match="0 prompts of split 'optimisation'"):
            optimise(base, tmp_path / "prompts.parquet", scorers, tmp_path)

    def test_repeated_prompt_ids(self, prompts_file: Path, tmp_path: Path) -> None:
        prompts = pl.read_parquet(prompts_file)
        pl.concat([prompts, prompts.head(2)]).write_parquet(tmp_path / "prompts.parquet")
        with pytest.raises(DataError, match="2 prompt ids"):
            read_prompts(tmp_path / "prompts.parquet", "optimisation", CONFIG.prompt_groups())

    def test_another_tokenizer_in_the_reward_model(
        self, base: Path, prompts_file: Path, scorers: Scorers, public_data: Path, tmp_path: Path
    ) -> None:
        """Text crosses, not ids: a reward model with another vocabulary and template works."""
        torch.manual_seed(0)
        network = load_network(public_data / "stories260K")
        network.tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        folder = tmp_path / "reward"
        folder.mkdir()
        save_network(network.model, network.tokenizer, folder)
        Calibration(objective="bce", signal="love", temperature=1.0, shift=0.0, max_length=512).save(folder)
        other = {**scorers, "love": RewardModel.load(folder)}
        (row,) = optimise(base, prompts_file, other, tmp_path / "run", changed(CONFIG, iterations=1))
        assert row["learned"] > 0


def test_no_optimiser_copies_the_base_policy(base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path) -> None:
    assert optimise(base, prompts_file, {}, tmp_path, OptimisationConfig(optimiser="none")) == []
    assert (tmp_path / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert pl.read_parquet(tmp_path / "iterations.parquet").height == 0
    assert TransformersEngine(tmp_path).max_positions > 0


def test_schedule_passes_over_all_prompts_before_it_repeats_one(prompts_file: Path) -> None:
    prompts = read_prompts(prompts_file, "optimisation", CONFIG.prompt_groups())
    config = changed(CONFIG, prompts_per_iteration=12, iterations=10)
    schedule = [[p.prompt_id for p in step] for step in prompt_schedule(prompts, config, 0)]
    assert all(len(step) == len(set(step)) == 12 for step in schedule)
    assert len({id_ for step in schedule[:4] for id_ in step}) == 40
    assert schedule != [[p.prompt_id for p in step] for step in prompt_schedule(prompts, config, 1)]
    everything = prompt_schedule(prompts, changed(config, prompts_per_iteration=100), 0)
    assert all(len(step) == 40 for step in everything)
