"""The record of an optimisation: one row per iteration, every figure from the select phase's frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from rluf_assets.policy.batch import BASELINE
from rluf_assets.policy.config import OptimisationConfig
from rluf_assets.policy.update import UpdateFigures

FIXED_SCHEMA: dict[str, Any] = {
    "iteration": pl.Int64,
    "prompts": pl.Int64,
    "completions": pl.Int64,
    "learned": pl.Int64,
    "fallbacks": pl.Int64,
    "skipped": pl.Int64,
    "set_aside": pl.Int64,
    "passed_share": pl.Float64,
    "reward": pl.Float64,
    "reward_learned": pl.Float64,
    "weight": pl.Float64,
    "kl_mean": pl.Float64,
    "log_ratio_mean": pl.Float64,
    "kl_p95": pl.Float64,
    "kl_over_max": pl.Float64,
    "reply_tokens": pl.Float64,
    "entropy": pl.Float64,
    "surprisal": pl.Float64,
    "finished_share": pl.Float64,
    "farewell_share": pl.Float64,
    "loss": pl.Float64,
    "gradient_norm": pl.Float64,
    "steps": pl.Int64,
}


def iteration_row(
    iteration: int,
    selected: pl.DataFrame,
    config: OptimisationConfig,
    objectives: Sequence[str],
    figures: UpdateFigures,
) -> dict[str, Any]:
    """One row: counts of prompts by what became of them, and means over all sampled completions.

    They tell what is learned from: prompts count as often as they were drawn, not by their weight in traffic, which
    `offline_evaluation` uses where it says what users will see.
    `logit_`, `value_` and `weighted_<objective>` are the raw, normalised and weighted reward, `learned_<objective>` the
    normalised one of the replies learned from, `judge_<name>` a judge's failure rate. `log_ratio_mean` is over the seeded
    sample of completions, `surprisal` the mean negative log-probability per sampled token, both of the model itself.
    Replies drawn from that (temperature 1) make them estimates of the KL divergence and the entropy: `kl_mean`, `entropy`;
    of others they are neither, and those are null.
    """
    groups, drawn_at_one = config.prompt_groups(), config.temperature == 1
    completions = selected.filter(pl.col("completion_id") != BASELINE)
    learned = selected.filter(pl.col("role").is_in(["learn", "winner"]))
    prompts = selected.select("prompt_id", "outcome").unique()
    outcome = prompts["outcome"].str.split(":").list.first()
    sampled = selected.filter("kl_sample")
    kl_max = pl.col("group").replace_strict({g.name: g.kl_max for g in groups}, return_dtype=pl.Float64)
    tokens = completions["token_ids"].list.len()
    log_ratio_mean, surprisal = sampled["log_ratio"].mean(), -completions["logprob"].sum() / max(1, tokens.sum())
    row = {
        "iteration": iteration,
        "prompts": prompts.height,
        "completions": completions.height,
        "learned": learned.height,
        "fallbacks": int((outcome == "fallback").sum()),
        "skipped": int((outcome == "skipped").sum()),
        "set_aside": int((outcome == "set aside").sum()),
        "passed_share": completions["passed"].mean(),
        "reward": completions["reward"].fill_nan(None).mean(),
        "reward_learned": learned["reward"].mean(),
        "weight": learned["weight"].mean(),
        "kl_mean": log_ratio_mean if drawn_at_one else None,
        "log_ratio_mean": log_ratio_mean,
        "kl_p95": sampled["log_ratio"].quantile(0.95),
        "kl_over_max": sampled.select((pl.col("log_ratio") > kl_max).mean()).item(),
        "reply_tokens": tokens.mean(),
        "entropy": surprisal if drawn_at_one else None,
        "surprisal": surprisal,
        "finished_share": completions["finished"].mean(),
        "farewell_share": completions["farewell"].mean(),
        "loss": figures.loss,
        "gradient_norm": figures.gradient_norm,
        "steps": figures.steps,
    }
    for objective in objectives:
        for kind in ("logit", "value", "weighted"):
            row[f"{kind}_{objective}"] = completions[f"{kind}_{objective}"].fill_nan(None).mean()
        row[f"learned_{objective}"] = learned[f"value_{objective}"].mean()
    for name in (column for column in selected.columns if column.startswith("judge_")):
        passed = completions[name].mean()
        row[name] = None if passed is None else 1 - passed
    if completions["slow_judge"].is_not_null().any():
        row["judge_slow"] = 1 - completions["slow_judge"].mean()
    return row


def iterations_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The record as a frame; with the fixed columns also where there are no rows."""
    extra = sorted({key for row in rows for key in row} - set(FIXED_SCHEMA))
    return pl.DataFrame(list(rows), schema={**FIXED_SCHEMA, **dict.fromkeys(extra, pl.Float64)})
