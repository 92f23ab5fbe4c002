"""Reward models for people with files and no Dagster: what `rluf train-reward` and `rluf score` do.

Files are Parquet, JSON or CSV in TRL's conversational formats, read as logs are. Outputs appear whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.progress import Progress, silent
from rluf_assets.rewards.calibration import strata_of
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.data import read_table, scorable_rows
from rluf_assets.rewards.fitting import encode_rows
from rluf_assets.rewards.scoring import RewardModel, finite
from rluf_assets.rewards.set_aside import DEFECT, FILE, ROW, SetAside, told, write_set_aside
from rluf_assets.rewards.stage import train_reward
from rluf_assets.rewards.trainer import named_writes

SCORES = ("score", "probability", "live_probability")


def train_reward_files(
    objective: str,
    train: str | Path,
    evaluation: str | Path,
    base: str | Path,
    out: str | Path,
    *,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> str:
    """Train and evaluate one reward model; returns the report's sentence.

    `objective` names what is learned (love, helpfulness, safety, ...). A `label` column trains P[objective],
    `chosen`/`rejected` columns a preference model. An `inclusion_probability` column gives the live shift. While it
    runs, everything is in `<out>.partial`, where a killed run continues; `out` appears when all of it is there.
    """
    out, partial = Path(out), Path(f"{out}.partial")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already. Remove it or give another folder.")
    frames = read_table(train), read_table(evaluation)
    settings = _settings({"objective": _loss_of(objective, frames[0], train), **(config or {})})
    labelled = settings.objective == "bce"
    made = train_reward(
        base,
        frames[0],
        frames[1],
        settings,
        out=partial,
        seed=seed,
        rates=rates_of(frames[0], objective) if labelled else {"signal": objective},
        progress=progress,
    )
    said = f"{made.conclusion}\n{made.set_aside}"
    os.replace(partial, out)
    return said


def score_files(
    model: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    batch_tokens: int = 16_384,
    device: str = "cpu",
    max_set_aside_share: float = 0.05,
) -> tuple[int, str]:
    """Score the rows of `source` (prompt, completion); `output` has its columns and order and SCORES.

    Rows that cannot be scored are in `set_aside.jsonl` beside `output` instead, up to a share of all. Returns the number of
    rows scored, and a line about those that were not.
    """
    frame, output = read_table(source), Path(output)
    if output.suffix not in (".parquet", ".jsonl"):
        raise ConfigError(f"{output}: expected a name that ends in .parquet or .jsonl.")
    taken = [column for column in SCORES if column in frame.columns]
    if taken:
        raise DataError(f"{source}: has columns {taken} already; rename them, scores would overwrite them.")
    aside = SetAside(str(source), len(frame), max_set_aside_share)
    rows = scorable_rows(frame, str(source), aside)
    aside.check()
    reward = RewardModel.load(model, device=device)
    scores = _scored(reward, rows, aside, batch_tokens)
    kept = scores[ROW].to_numpy()
    scored = pl.concat([frame.drop(DEFECT, strict=False)[kept], scores.select(SCORES)], how="horizontal")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.partial")
    try:
        with named_writes(output):
            (scored.write_parquet if output.suffix == ".parquet" else scored.write_ndjson)(partial)
            write_set_aside(output.with_name(FILE), [aside])
            os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return len(scored), told({aside.name: aside.facts()})


def _scored(reward: RewardModel, rows: pl.DataFrame, aside: SetAside, batch_tokens: int) -> pl.DataFrame:
    """ROW and SCORES of the rows that fit the model."""
    config = RewardConfig(max_set_aside_share=aside.max_share)
    rows, encoding, _ = encode_rows(rows, reward.encoder, config, aside)
    logits = reward.score_token_ids(encoding.token_ids, batch_tokens=batch_tokens).astype(np.float64)
    finite(logits, aside.name, reward.network.model.dtype)
    found = reward.probabilities(logits, strata_of(rows)).rename({"logit": "score"})
    return pl.concat([rows.select(ROW), found], how="horizontal")


def rates_of(train: pl.DataFrame, signal: str) -> dict[str, Any] | None:
    """Inclusion probabilities of both classes from the rows' own: what was drawn over what it was drawn from.

    A row stands for `sample_weight` drawn ones (1 without the column). Without `inclusion_probability` the training rate
    counts as the live one.
    """
    if "inclusion_probability" not in train.columns:
        return {"signal": signal, "q_pos": 1.0, "q_neg": 1.0}
    q = train["inclusion_probability"].cast(pl.Float64).to_numpy()
    if not (np.isfinite(q) & (q > 0) & (q <= 1)).all():
        raise DataError("train: inclusion_probability must lie in (0, 1]. Mend the column or remove it.")
    positive = train["label"].cast(pl.Float64).to_numpy() > 0.5
    weight = np.ones(len(q))
    if "sample_weight" in train.columns:
        weight = train["sample_weight"].cast(pl.Float64).to_numpy()
    drawn = {side: float(weight[positive == side].sum()) for side in (True, False)}
    stood_for = {side: float((weight / q)[positive == side].sum()) for side in (True, False)}
    return {
        "signal": signal,
        "q_pos": drawn[True] / max(stood_for[True], 1e-12),
        "q_neg": drawn[False] / max(stood_for[False], 1e-12),
        "base_rate": stood_for[True] / sum(stood_for.values()),
    }


def _settings(given: dict[str, Any]) -> RewardConfig:
    try:
        return RewardConfig.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"config: {wrong}. Settings: {', '.join(RewardConfig.model_fields)}.") from error


def _loss_of(objective: str, train: pl.DataFrame, name: str | Path) -> str:
    if "label" in train.columns:
        return "bce"
    if {"chosen", "rejected"} <= set(train.columns):
        return "bradley_terry"
    raise DataError(
        f"{name}: to train {objective!r}, expected the columns prompt, completion, label or prompt, chosen, rejected; "
        f"found {train.columns}."
    )
