"""Exact figures of an iteration: one pass of log-ratios, nothing dropped at random, figures named for what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from rluf_assets.errors import ConfigError
from rluf_assets.policy import codpo, crpg, crraft, raft
from rluf_assets.policy.batch import Batch, Reply
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.phases import SAMPLE_SCHEMA, judge_frame
from rluf_assets.policy.update import learn_without_dropout
from tests.policy.conftest import user
from tests.policy.test_loop import CONFIG, Scorers, changed, optimise, produced


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each call for log-probabilities had; the calls themselves are the real ones."""
    rows: list[int] = []
    plain = TransformersEngine.logprobs

    def counted(self: TransformersEngine, prompts, completions, **options):  # type: ignore[no-untyped-def]
        rows.append(len(completions))
        return plain(self, prompts, completions, **options)

    monkeypatch.setattr(TransformersEngine, "logprobs", counted)
    return rows


@pytest.mark.parametrize("optimiser", ["crraft", "crpg", "codpo"])
def test_an_iteration_makes_one_pass_of_log_ratios(
    optimiser: str, base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path, passes: list[int]
) -> None:
    config = changed(CONFIG, optimiser=optimiser, iterations=1, kl_max=1e9, judges=("length_bounds",))
    optimise(base, prompts_file, scorers, tmp_path, config)
    assert len(passes) == 1, passes
    rows = pl.read_parquet(tmp_path / "phases" / "000001" / "select.parquet")
    assert rows.filter(pl.col("role").is_not_null() | pl.col("kl_sample"))["log_ratio"].null_count() == 0


def test_where_best_replies_are_out_of_bounds_two_passes_do(
    base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path, passes: list[int]
) -> None:
    config = changed(CONFIG, kl_max=0.3, learning_rate=1e-2, iterations=3)
    optimise(base, prompts_file, scorers, tmp_path, config)
    # The completions' twice, and once the baseline replies of prompts that none survived.
    assert len(passes) <= 3 * config.iterations
    rows = pl.read_parquet(tmp_path / "phases" / "000003" / "select.parquet")
    assert rows.filter(pl.col("role").is_not_null())["log_ratio"].max() <= 0.3


def test_codpo_learns_from_the_reference_log_probabilities_of_the_select_phase(
    base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
) -> None:
    optimise(base, prompts_file, scorers, tmp_path, changed(CONFIG, optimiser="codpo", iterations=2))
    rows = pl.read_parquet(tmp_path / "phases" / "000002" / "select.parquet").filter(pl.col("role").is_not_null())
    reference = TransformersEngine(base)
    from rluf_assets.policy.selecting import completions_of

    expected = reference.logprobs(rows["prompt"].to_list(), completions_of(rows), max_new_tokens=CONFIG.max_new_tokens)
    np.testing.assert_allclose(rows["logprob"] - rows["log_ratio"], expected, atol=1e-3)


def test_dropout_is_off_while_learning_so_a_run_does_not_hang_on_a_random_state(
    base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
) -> None:
    dropping = tmp_path / "base"
    shutil.copytree(base, dropping)
    config = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    runs = []
    for seed, checkpointing in ((1, False), (2, False), (3, True)):
        torch.manual_seed(seed)
        root = tmp_path / str(seed)
        optimise(
            dropping, prompts_file, scorers, root, changed(CONFIG, iterations=1, gradient_checkpointing=checkpointing)
        )
        runs.append(produced(root))
    assert runs[0]["model.safetensors"] == runs[1]["model.safetensors"] == runs[2]["model.safetensors"]


def test_layers_are_still_computed_again_in_the_backward_pass(base: Path) -> None:
    engine = TransformersEngine(base)
    engine.model.gradient_checkpointing_enable()
    learn_without_dropout(engine.model)
    calls = []
    engine.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    engine.token_logprobs([([5, 6], [7, 8])]).sum().backward()
    assert len(calls) == 2 and not engine.model.training


def test_at_another_temperature_no_kl_and_no_entropy_is_claimed(
    base: Path, prompts_file: Path, scorers: Scorers, tmp_path: Path
) -> None:
    (hot,) = optimise(base, prompts_file, scorers, tmp_path / "a", changed(CONFIG, iterations=1, temperature=1.3))
    assert hot["kl_mean"] is None and hot["entropy"] is None
    assert hot["surprisal"] > 0 and hot["log_ratio_mean"] == pytest.approx(0, abs=1e-3)
    (plain,) = optimise(base, prompts_file, scorers, tmp_path / "b", changed(CONFIG, iterations=1))
    assert plain["kl_mean"] == plain["log_ratio_mean"] and plain["entropy"] == plain["surprisal"]
    with pytest.raises((ConfigError, ValueError), match="stop_kl_mean"):
        changed(CONFIG, temperature=1.3, stop_kl_mean=0.5)


def test_a_control_token_in_a_reply_fails_it_by_name_whatever_judges_there_are() -> None:
    row = {
        "prompt_id": "p", "group": "all", "use_case": "", "prompt": user("hi"), "completion": "fine",
        "token_ids": [5], "finished": True, "logprob": -1.0, "farewell": False,
    }  # fmt: skip
    sample = pl.DataFrame([{**row, "completion_id": k, "control": k == 1} for k in range(2)], schema=SAMPLE_SCHEMA)
    for judges in ((), ("length_bounds",)):
        frame = judge_frame(sample, sample, changed(CONFIG, judges=judges).prompt_groups(), {})
        assert frame["passed"].to_list() == frame["judge_control_token"].to_list() == [True, False]
        assert frame["reasons"].to_list() == ["", "control_token: control token in reply"]


@pytest.mark.parametrize("optimiser", [crraft, raft, crpg, codpo])
def test_no_optimiser_learns_from_a_reply_with_a_control_token(optimiser: object) -> None:
    reward = np.array([[-np.inf, 2.0, 1.0], [-np.inf, -np.inf, 0.5], [-np.inf] * 3])
    batch = Batch(
        reward=reward,
        passed=np.isfinite(reward),
        baseline_reward=np.zeros(3),
        baseline_passed=np.array([True, True, False]),
        kl_max=15.0,
        log_ratio=lambda replies: np.zeros(len(replies)),
        costly=lambda replies: np.ones(len(replies), dtype=bool),
    )
    found = optimiser.select(batch)  # type: ignore[attr-defined]
    learned = {example.reply for example in found.examples}
    assert learned and learned <= {Reply(0, 1), Reply(0, 2), Reply(1, 2)}
    assert all(np.isfinite(example.weight) for example in found.examples)
