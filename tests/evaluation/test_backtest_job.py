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
from rluf_assets.feedback.splits import kept_out_of_training
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
    names = ("past_launches", "evaluation_prompts", "reward", "signal_set", "ab_exposures/new")
    folders = {n: root / n for n in names}
    for folder in folders.values():
        folder.mkdir(parents=True)
    launches = launches_of(5, seed=0)
    texts = [
        completions_of(PROMPTS, seed=i, per_prompt=1).select("prompt_id", "completion", pl.lit(name).alias("policy"))
        for i, name in enumerate([*launches["policy"], "control"])
    ]
    launches.write_parquet(folders["past_launches"] / "launches.parquet")
    pl.concat(texts).write_parquet(folders["past_launches"] / "texts.parquet")
    PROMPTS.write_parquet(folders["evaluation_prompts"] / "prompts.parquet")
    save_reward_model(folders["reward"])
    train_of(["u-old"]).write_parquet(folders["signal_set"] / "train.parquet")
    write_live_slice(folders["ab_exposures/new"])
    return folders


def train_of(users: list[str]) -> pl.DataFrame:
    """Training rows of some users, none of the evaluation prompts."""
    prompt = [{"role": "user", "content": "elsewhere"}]
    return pl.DataFrame({"message_id": [f"m{i}" for i in range(len(users))], "user_id": users,
                         "prompt": [prompt] * len(users), "completion": ["said"] * len(users)})  # fmt: skip


def write_live_slice(folder: Path) -> None:
    """Thirty users who met three replies each of a bank of thirty."""
    texts = completions_of(PROMPTS, seed=9, per_prompt=1).select(
        pl.col("prompt_id").alias("reply_id"), "prompt", "completion"
    )
    texts.write_parquet(folder / "replies.parquet")
    shown = [(f"u{i}", texts["reply_id"][(i + k) % 30], int(k == 0 and i < 12)) for i in range(30) for k in range(3)]
    pl.DataFrame(shown, schema=["user_id", "reply_id", "love"], orient="row").write_parquet(
        folder / "exposed_replies.parquet"
    )


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
    assert artifact.rows == {"backtest": 5, "texts_scored": 6 * 30, "transport": 1}
    policies = pl.read_parquet(artifact.path("backtest.parquet"))
    assert policies["predicted_change"].is_finite().all()
    summary = json.loads(Path(artifact.path("summary.json")).read_text())
    assert (summary["policies"], summary["pairs"], summary["left_out"]) == (5, 10, 0)
    slice_ = pl.read_parquet(artifact.path("transport.parquet")).row(0, named=True)
    assert (slice_["candidate"], slice_["users"], slice_["replies"], slice_["left_out"]) == ("new", 30, 90, 0)
    assert slice_["observed"] == pytest.approx(12 / 90)
    assert slice_["ci_low"] < slice_["residual"] < slice_["ci_high"]


def test_what_was_trained_on_is_left_out_and_counted(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Trained on: two prompts, a reply to a third word for word, and a user of the live slice, hence all but those kept out."""
    texts = pl.read_parquet(inputs["past_launches"] / "texts.parquet")
    copied = texts.filter(pl.col("prompt_id") == "p00007").row(0, named=True)
    rows = train_of(["a", "b", "c", "u3"]).with_columns(
        message_id=pl.Series(["p00000", "p00001", "m2", "m3"]),
        completion=pl.Series(["said", "said", copied["completion"], "said"]),
        prompt=pl.Series(
            [*[PROMPTS["prompt"][0].to_list()] * 2, PROMPTS["prompt"][7].to_list(), PROMPTS["prompt"][0].to_list()]
        ),
    )
    folder = tmp_path / "signal_set"
    folder.mkdir()
    rows.write_parquet(folder / "train.parquet")
    artifact, _ = run_job(spec(tmp_path / "out", {**inputs, "signal_set": folder}), offline_online_backtest.run)
    assert json.loads(Path(artifact.path("summary.json")).read_text())["left_out"] == 3 * 6
    assert artifact.rows["texts_scored"] == 27 * 6
    slice_ = pl.read_parquet(artifact.path("transport.parquet")).row(0, named=True)
    kept = (
        pl.DataFrame({"user_id": [f"u{i}" for i in range(30)]}).filter(kept_out_of_training(0.05))["user_id"].to_list()
    )
    assert "u3" not in kept
    assert (slice_["users"], slice_["left_out"]) == (len(kept), 30 - len(kept))
    pl.concat([rows.head(1).with_columns(message_id=pl.lit(p)) for p in PROMPTS["prompt_id"]]).write_parquet(
        folder / "train.parquet"
    )
    artifact, _ = run_job(spec(tmp_path / "none", {**inputs, "signal_set": folder}), offline_online_backtest.run)
    assert "180 replies were left out" in json.loads(Path(artifact.path("summary.json")).read_text())["sentence"]


def test_texts_of_other_prompts_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    newer = tmp_path / "evaluation_prompts"
    newer.mkdir()
    PROMPTS.head(20).write_parquet(newer / "prompts.parquet")
    with pytest.raises(DataError, match="60 texts whose prompt is not in evaluation_prompts"):
        run_job(spec(tmp_path / "out", {**inputs, "evaluation_prompts": newer}), offline_online_backtest.run)


def test_adversarial_users_of_a_live_slice_are_left_out_and_a_flag_that_cannot_be_read_is_an_error(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    write_live_slice(folder)
    users = pl.DataFrame({"user_id": [f"u{i}" for i in range(30)], "adversarial": [int(i < 5) for i in range(30)]})
    given = {**inputs, "ab_exposures/new": folder}
    for said in (pl.col("adversarial").cast(pl.String), pl.when(pl.col("adversarial") == 0).then("adversarial")):
        users.with_columns(adversarial=said).write_parquet(folder / "exposures.parquet")
        with pytest.raises(DataError, match="values of 'adversarial' other than true and false"):
            run_job(spec(tmp_path / "refused", given), offline_online_backtest.run)
    users.write_parquet(folder / "exposures.parquet")
    artifact, _ = run_job(spec(tmp_path / "out", given), offline_online_backtest.run)
    slice_ = pl.read_parquet(artifact.path("transport.parquet")).row(0, named=True)
    assert (slice_["users"], slice_["observed"]) == (25, pytest.approx(7 / 75))
