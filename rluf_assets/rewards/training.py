"""Train one reward model: rows -> token ids -> units -> Trainer -> a plain Hugging Face folder with its calibration.

The stage function `train_reward` (`stage.py`) calls `fit_reward`, then evaluates what was saved. A killed run
continues from its last whole checkpoint and ends with the weights it would have had.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from transformers import set_seed

from rluf_assets.distributed import Ranks, Zero, device, join, pass_dtype
from rluf_assets.errors import ConfigError, DataError, TrainingError
from rluf_assets.progress import Progress, silent
from rluf_assets.rewards import data
from rluf_assets.rewards.batching import Unit, make_unit
from rluf_assets.rewards.calibration import (
    Calibration,
    fit_pairs,
    fit_signal,
    load_calibration,
    prior_shift,
    strata_shifts,
)
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.encoding import Encoder
from rluf_assets.rewards.fitting import Encoding, encode_rows
from rluf_assets.rewards.memory import give_back
from rluf_assets.rewards.model import RewardNetwork, load_network, save_network, to_pass, with_lora
from rluf_assets.rewards.scoring import MAX_TREE_ROWS, RewardModel, finite, over_ranks
from rluf_assets.rewards.set_aside import SetAside
from rluf_assets.rewards.sharded import gather_weights
from rluf_assets.rewards.trainer import RewardTrainer, named_writes, resume_point, training_arguments
from rluf_assets.rewards.trees import group_rows


@dataclass
class Trained:
    """What training did, in figures; the model itself is in the folder."""

    rows: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    learned: pl.DataFrame = field(default_factory=pl.DataFrame)  # the rows, for baselines on the same ones
    aside: SetAside = field(default_factory=lambda: SetAside("train", 0, 0.0))


def fit_reward(
    base: str | Path,
    train: pl.DataFrame,
    config: RewardConfig,
    *,
    seed: int,
    out: Path,
    checkpoints: Path,
    rates: dict[str, Any] | None = None,
    previous: str | Path | None = None,
    progress: Progress = silent,
) -> Trained:
    """Train on `train` (prompt, completion, label | prompt, chosen, rejected) and save the model under `out`.

    `rates` are a signal set's recorded rates (none: live probabilities equal those at the training rate); `previous` is
    a reward model to start from, `base` the folder or hub id to start from otherwise. All checks of data, tokenizer and
    model come before the first step. Under `accelerate launch` every process calls this; the first one saves.
    """
    ranks = join()
    set_seed(seed % 2**32)
    config = config.model_copy(update={"dtype": pass_dtype(config.dtype)})
    started_from = load_calibration(previous) if previous else None
    if started_from and started_from.objective != config.objective:
        raise ConfigError(
            f"{previous}: trained with objective {started_from.objective!r}, expected {config.objective!r}. "
            "Warm starts keep the objective: leave out `previous`."
        )
    aside = data.new_aside(train, "train", config)
    learned, validation, left_out = _split(train, config, seed, started_from, aside)
    args = training_arguments(config, seed, checkpoints)

    def load() -> RewardNetwork:
        return load_network(previous or base, dropout=config.dropout, dtype=config.dtype, device=device())

    network = load()
    give_back()  # ZeRO-3 loads weight by weight: what was freed would make up the whole model again
    encoder = Encoder(network.tokenizer, min(config.max_length, network.max_positions))
    rows, encoding, counts = encode_rows(
        pl.concat([learned, validation]).with_row_index("_row"), encoder, config, aside
    )
    held = rows["_row"].to_numpy() >= len(learned)
    counts |= {"left_out": left_out, "train": int((~held).sum()), "validation": int(held.sum())}
    counts |= {"rows": counts["rows"] + left_out, "set_aside": len(aside.rows)}
    _need_both_classes(rows.filter(~held), config)
    split = data.grouped_by(pl.concat([learned, validation]))
    if not held.any():
        progress(0, 1, f"no validation rows: all rows are of one group ({_words(split)}), so the temperature stays 1")
    elif len(split) > 1 or "user_id" not in split:
        progress(0, 1, f"validation: {int(held.sum())} of {len(rows)} rows, split by {_words(split)}")

    sharing = config.share_prefixes and network.shares_prefixes(encoder.max_length)
    if config.share_prefixes and not sharing:
        why = "its attention has a window or a kernel of its own" if network.is_causal else "no causal model"
        progress(0, 1, f"{network.model.config.model_type}: {why}, rows do not share prefixes")
    units = _units(encoding.take(~held), encoder.max_length, sharing)
    trainer = RewardTrainer(
        network,
        units,
        _targets(rows.filter(~held), config),
        config,
        args,
        seed=seed,
        progress=progress,
    )
    with trainer.accelerator.main_process_first():
        resume = resume_point(checkpoints, _digest(encoding, rows, config, seed, trainer.ranks))
    saves = trainer.args.should_save
    loss = trainer.train(resume_from_checkpoint=resume).training_loss
    if not np.isfinite(loss):
        raise TrainingError(f"training ended with a loss of {loss}. Lower learning_rate, or use dtype: float32.")
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_deepspeed_enabled:
        gather_weights(model, saves, lambda: with_lora(load(), config.lora) if config.lora else load().model)
    if saves:
        with named_writes(out):
            save_network(model, network.tokenizer, out)
    steps = trainer.state.global_step
    del trainer, model, network  # what is calibrated is what was saved, in the precision that it will score in
    give_back()
    ranks.wait()
    zero = Zero.of_launch(config.dtype)
    calibration = _calibration(out, encoding.take(held), rows, held, config, rates, encoder, zero, ranks)
    if saves:
        with named_writes(out):
            calibration.save(out)  # last: a folder with a calibration is a finished model
    ranks.wait()
    tokens = sum(len(tree) for unit in units for tree in unit.trees)
    plain = sum(len(ids) for ids in encoding.take(~held).token_ids)
    figures = {"steps": steps, "ranks": ranks.size, "tokens": tokens}
    figures |= {"tokens_without_sharing": plain, "split_by": split}
    return Trained(counts, figures, rows.filter(~held).drop("_row"), aside)


def _words(split: dict[str, int]) -> str:
    return ", ".join(f"{name} in {count} rows" for name, count in split.items())


def _split(
    train: pl.DataFrame, config: RewardConfig, seed: int, started_from: Calibration | None, aside: SetAside
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Checked rows to learn from, validation rows, and the number of rows in neither."""
    check = data.labelled_rows if config.objective == "bce" else data.pair_rows
    rows = check(train, "train", config, aside)
    to_learn, held = data.split_validation(rows, config.validation_share, seed)
    if not to_learn.any():  # a single user
        to_learn, held = ~to_learn, to_learn
    learned, validation = rows.filter(to_learn), rows.filter(held)
    if started_from is not None:
        learned = data.new_and_replayed(learned, started_from.trained_until, config.replay_share, seed)
    learned = data.limit_rows(learned, config.max_train_rows, seed)
    validation = data.limit_rows(validation, max(1, round(config.max_train_rows * config.validation_share)), seed)
    return learned, validation, len(rows) - len(learned) - len(validation)


def _need_both_classes(rows: pl.DataFrame, config: RewardConfig) -> None:
    if rows.is_empty() or (config.objective == "bce" and rows["label"].min() == rows["label"].max()):
        raise DataError(
            f"train: after the validation split {len(rows)} rows of one class are left. "
            "Give more rows, or a smaller validation_share."
        )


def _units(encoding: Encoding, max_length: int, sharing: bool) -> list[Unit]:
    ids, per_row = encoding.token_ids, encoding.per_row
    if per_row == 2:
        return [make_unit(ids[2 * i : 2 * i + 2], [i], sharing) for i in range(len(ids) // 2)]
    groups = group_rows(ids, MAX_TREE_ROWS * max_length) if sharing else [[i] for i in range(len(ids))]
    return [make_unit([ids[i] for i in group], group, sharing) for group in groups]


def _targets(rows: pl.DataFrame, config: RewardConfig) -> dict[str, np.ndarray]:
    if config.objective == "bce":
        return {"labels": rows["label"].to_numpy(), "weights": rows["weight"].to_numpy()}
    return {"margins": rows["margin"].to_numpy()}


def _calibration(
    out: Path,
    held: Encoding,
    rows: pl.DataFrame,
    is_held: np.ndarray,
    config: RewardConfig,
    rates: dict[str, Any] | None,
    encoder: Encoder,
    zero: Zero | None,
    ranks: Ranks,
) -> Calibration:
    """Calibrate the model as saved (adapters merged) on the validation rows, `held`, scored over all ranks.

    Raises TrainingError if a score is no number.
    """
    signal_like = config.objective == "bce"
    times = data.times_of(rows.filter(~is_held))
    last = times.max() if times is not None else None
    plain = Calibration(
        objective=config.objective,
        signal=str((rates or {}).get("signal", config.objective)),
        temperature=1.0,
        shift=prior_shift(rates) if rates and signal_like else 0.0,
        strata_shifts=strata_shifts(rates) if rates and signal_like else {},
        base_rate=(rates or {}).get("base_rate"),
        train_positive_rate=float(np.average(rows["label"], weights=rows["weight"])) if signal_like else None,
        validation_rows=int(is_held.sum()),
        max_length=encoder.max_length,
        trained_until=last.isoformat() if isinstance(last, datetime) else None,
    )
    if not is_held.any():
        return plain
    model = over_ranks(lambda: _reloaded(out, plain, config), zero, ranks)
    logits = finite(model.score_token_ids(held.token_ids), "calibration", config.dtype).astype(np.float64)
    if not signal_like:
        return plain.model_copy(update={"temperature": fit_pairs(logits[0::2] - logits[1::2])})
    labels, weights = (rows.filter(is_held)[name].to_numpy() for name in ("label", "weight"))
    temperature, offset = fit_signal(logits, labels, weights, float(plain.train_positive_rate or 0.0))
    return plain.model_copy(update={"temperature": temperature, "offset": offset})


def _reloaded(out: Path, calibration: Calibration, config: RewardConfig) -> RewardModel:
    network = load_network(out, device=device())
    to_pass(network.model, device(), config.dtype)
    return RewardModel(network, calibration, share_prefixes=config.share_prefixes)


def _digest(encoding: Encoding, rows: pl.DataFrame, config: RewardConfig, seed: int, ranks: int) -> str:
    """What a checkpoint belongs to: its data, settings, seed and number of processes."""
    digest = hashlib.sha256(f"{config.model_dump_json()}/{seed}/{ranks}".encode())
    for ids in encoding.token_ids:
        digest.update(ids.tobytes() + b"/")
    for values in _targets(rows, config).values():
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


__all__ = ["RewardNetwork", "Trained", "fit_reward"]
