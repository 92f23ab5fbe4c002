"""Objectives by name: from reward models' logits to the one reward r = sum over k of w_k z_k.

z_k is objective k's logit, z-scored with its mean on replies of the *reference* policy and its standard deviation among
replies to one prompt, fixed once before training. Only that deviation decides which of a prompt's replies is the best:
how scores differ from prompt to prompt is the same for all of them. No paper says whether or how rewards are brought to
one scale before they are mixed; this is our choice, and `raw` and `probability` are the other options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from rluf_assets.errors import DataError
from rluf_assets.policy.config import Weights

# Scores are float32 sums: a score that is said to be the same differs by so much of its size, eight times its last bit.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Normalisation:
    """Mean of each objective's logit on the reference policy's replies, and its standard deviation within a prompt."""

    mean: Mapping[str, float]
    std: Mapping[str, float]

    @classmethod
    def fit(cls, scores: pl.DataFrame, objectives: tuple[str, ...]) -> Normalisation:
        """From a frame with `prompt_id` and a column `logit_<objective>` each; scores that are no numbers are left out.

        The deviation is pooled over prompts of two replies or more: squares about each prompt's own mean, over replies less
        prompts. Raises DataError for an objective that scores a prompt's replies alike but for rounding: what it would steer
        by is noise.
        """
        mean, std = {}, {}
        for objective in objectives:
            logits = scores.select("prompt_id", logit=pl.col(f"logit_{objective}")).filter(pl.col("logit").is_finite())
            several = logits.filter(pl.len().over("prompt_id") > 1)
            freedom = several.height - several["prompt_id"].n_unique()
            squares = several.select(((pl.col("logit") - pl.col("logit").mean().over("prompt_id")) ** 2).sum()).item()
            size = float(logits["logit"].abs().max() or 0.0)  # type: ignore[arg-type]
            if freedom < 1 or (squares / freedom) ** 0.5 < max(1e-9, ROUNDING * size):
                raise DataError(
                    f"objective {objective!r}: {logits.height} finite scores of reference replies, without any spread but "
                    f"rounding among those to one prompt ({freedom} degrees of freedom); expected a reward model that tells a "
                    "prompt's replies apart. Train it again or leave the objective out."
                )
            mean[objective], std[objective] = float(logits["logit"].mean()), float((squares / freedom) ** 0.5)  # type: ignore[arg-type]
        return cls(mean, std)

    def apply(self, objective: str, logits: np.ndarray) -> np.ndarray:
        return (logits - self.mean[objective]) / self.std[objective]


def add_rewards(
    scores: pl.DataFrame, weights: Weights, objectives: tuple[str, ...], normalisation: Normalisation, mixing: str
) -> pl.DataFrame:
    """`scores` with `value_<objective>` (what is mixed), `weighted_<objective>` and their sum `reward`.

    `scores` has `logit_<objective>` and `probability_<objective>` for each of `objectives`; one without a weight gets
    weight 0: logged, and without influence. A NaN in a weighted objective makes the reward NaN.
    """
    columns: dict[str, np.ndarray] = {}
    reward = np.zeros(scores.height)
    for objective in objectives:
        logits = scores[f"logit_{objective}"].to_numpy()
        if mixing == "zscore":
            value = normalisation.apply(objective, logits)
        else:
            value = logits if mixing == "raw" else scores[f"probability_{objective}"].to_numpy()
        weighted = value * weights[objective] if weights.get(objective) else np.zeros(len(value))
        columns[f"value_{objective}"], columns[f"weighted_{objective}"] = value, weighted
        reward = reward + weighted
    return scores.with_columns(pl.Series(name, values) for name, values in {**columns, "reward": reward}.items())


def calibrated_reward(reward: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """R_calib = sigmoid(r(a) - r(abar)), about the probability that a beats the baseline reply (CGPO, eq. 6)."""
    difference = np.asarray(reward, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return np.exp(-np.logaddexp(0.0, -difference))
