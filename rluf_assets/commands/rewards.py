"""`rluf train-reward` and `rluf score`: reward models from files of your own, without Dagster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()

FORMATS = "JSON lines or Parquet: prompt, completion, label (love) or prompt, chosen, rejected (expert pairs)."


@app.command("train-reward")
def train_reward(
    objective: Annotated[str, typer.Option(help="What is learned: love, helpfulness, safety or a name of your own.")],
    train: Annotated[Path, typer.Option(help=FORMATS)],
    evaluation: Annotated[Path, typer.Option("--eval", help="Held-out rows, in the format of --train.")],
    base: Annotated[str, typer.Option(help="Model to start from: a folder, or a hub id.")],
    out: Annotated[Path, typer.Option(help="New folder for the model, its calibration and its report.")],
    config: Annotated[Path | None, typer.Option(help="YAML of settings (RewardConfig); defaults where absent.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling, splits and initial weights.")] = 0,
) -> None:
    """Train, calibrate and evaluate one reward model. Killed, the same command continues where it was."""
    _limit_threads()
    from rluf_assets.rewards.files import train_reward_files

    def show(step: int, steps: int, message: str, **figures: float) -> None:
        shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        typer.echo(f"{message} {step}/{steps} {shown}".rstrip(), err=True)

    settings = _settings(config) if config else {}
    typer.echo(train_reward_files(objective, train, evaluation, base, out, config=settings, seed=seed, progress=show))
    typer.echo(f"Model: {out}\nReport: {out / 'report.html'}")


@app.command("score")
def score(
    model: Annotated[Path, typer.Option(help="Folder of a reward model.")],
    source: Annotated[Path, typer.Option("--input", help="JSON lines or Parquet with prompt and completion.")],
    output: Annotated[Path, typer.Option(help="File to write (.jsonl or .parquet): the input's columns and scores.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    max_set_aside_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that may be unusable; beyond, nothing is scored.")
    ] = 0.05,
) -> None:
    """Score replies: adds score (raw logit), probability (training rate) and live_probability.

    Rows that cannot be scored go into set_aside.jsonl beside the output, with the reason.
    """
    _limit_threads()
    from rluf_assets.rewards.files import score_files

    rows, told = score_files(model, source, output, device=device, max_set_aside_share=max_set_aside_share)
    typer.echo(f"{rows} rows scored: {output}\n{told}")


def _settings(path: Path) -> dict[str, Any]:
    """The YAML file's settings. Raises ConfigError if it is not there or holds no settings."""
    import yaml

    from rluf_assets.errors import ConfigError

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a YAML file of settings, found: {error}.") from error
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected settings `name: value`, found a {type(settings).__name__}.")
    return settings or {}


def _limit_threads() -> None:
    """The tokenizers library forks threads of its own beside PyTorch's; more than the cores only wait for each other."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
