"""The backtest job on a real (untrained, tiny) reward model: texts in, one row per past policy out."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from rluf_assets.errors import DataError
from rluf_assets.evaluation.config import BacktestConfig
from rluf_assets.jobs import offline_online_backtest
from rluf_assets.jobs.runner import run_job
from tests.evaluation.world import completions_of, launches_of, prompt_frame

PROMPTS = prompt_frame(30)


def save_reward_model(folder: Path) -> Path:
    """A whole reward-model folder with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    from rluf_assets.rewards.calibration import Calibration

    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate([*SPECIAL_TOKENS, "?", *"abcdefghij"])}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token="?", chat_template=CHAT_TEMPLATE,
        extra_special_tokens=[t for t in SPECIAL_TOKENS if t not in (PAD, END)],
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, max_position_embeddings=512, pad_token_id=wrapped.pad_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    Calibration(objective="bce", signal="love", temperature=1.0, shift=4.7, max_length=512).save(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backtest")
    folders = {n: root / n for n in ("past_launches", "evaluation_prompts", "reward")}
    for folder in folders.values():
        folder.mkdir()
    launches = launches_of(5, seed=0)
    texts = [
        completions_of(PROMPTS, seed=i, per_prompt=1).select("prompt_id", "completion", pl.lit(name).alias("policy"))
        for i, name in enumerate([*launches["policy"], "control"])
    ]
    launches.write_parquet(folders["past_launches"] / "launches.parquet")
    pl.concat(texts).write_parquet(folders["past_launches"] / "texts.parquet")
    PROMPTS.write_parquet(folders["evaluation_prompts"] / "prompts.parquet")
    save_reward_model(folders["reward"])
    return folders


def spec(out: Path, inputs: dict[str, Path]) -> JobSpec:
    return JobSpec(
        name="backtest", entrypoint="rluf_assets.jobs.offline_online_backtest", version="1", seed=0,
        output_uri=str(out),
        config=BacktestConfig(resamples=200).model_dump(mode="json"),
        inputs={k: InputArtifact(uri=str(v), content_hash="x") for k, v in inputs.items()},
    )  # fmt: skip


def test_texts_are_scored_and_set_against_outcomes(inputs: dict[str, Path], tmp_path: Path) -> None:
    artifact, _ = run_job(spec(tmp_path / "a", inputs), offline_online_backtest.run)
    again, _ = run_job(spec(tmp_path / "b", inputs), offline_online_backtest.run)
    assert artifact.content_hash == again.content_hash
    assert artifact.rows == {"backtest": 5, "texts_scored": 6 * 30}
    policies = pl.read_parquet(artifact.path("backtest.parquet"))
    assert policies["predicted_change"].is_finite().all()
    summary = json.loads(Path(artifact.path("summary.json")).read_text())
    assert (summary["policies"], summary["pairs"]) == (5, 10)


def test_texts_of_other_prompts_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    newer = tmp_path / "evaluation_prompts"
    newer.mkdir()
    PROMPTS.head(20).write_parquet(newer / "prompts.parquet")
    with pytest.raises(DataError, match="60 texts whose prompt is not in evaluation_prompts"):
        run_job(spec(tmp_path / "out", {**inputs, "evaluation_prompts": newer}), offline_online_backtest.run)
