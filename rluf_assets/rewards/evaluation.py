"""Evaluate a finished reward model on held-out rows: figures with intervals, baselines on the same rows, slices.

Everything is computed once over the whole set, never as means over batches. For P[signal] the holdout has the natural
rate: all positives and a seeded sample of negatives are scored, and weights restore the rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.rewards import baselines, metrics
from rluf_assets.rewards.baselines import BagOfWords
from rluf_assets.rewards.calibration import strata_of
from rluf_assets.rewards.config import EvaluationConfig, RewardConfig
from rluf_assets.rewards.data import groups_of, labelled_rows, limit_rows, pair_rows
from rluf_assets.rewards.ensemble import Ensemble, fit_ensemble
from rluf_assets.rewards.holdout import held_rows
from rluf_assets.rewards.metrics import Clusters, RankStatistics
from rluf_assets.rewards.scoring import RewardModel, finite
from rluf_assets.rewards.set_aside import SetAside
from rluf_assets.rewards.style import style_features

TURN_EDGES = (1, 2, 4, 7)
LENGTH_QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Evaluation:
    """`metrics` is what metrics.json holds; `scores` one row per scored row; `rows` the texts, in the same order.

    `ensemble` goes beside a P[signal] model: score heads refitted on the scored rows.
    """

    metrics: dict[str, Any]
    scores: pl.DataFrame
    rows: pl.DataFrame
    ensemble: Ensemble | None = None


@dataclass(frozen=True)
class Held:
    """Held-out rows that were scored, in one order: their texts, scores, pooled features (signals alone); those that were
    not, and the number of all."""

    rows: pl.DataFrame
    scores: pl.DataFrame
    features: np.ndarray
    aside: SetAside
    total: int


def score_signal(model: RewardModel, holdout: pl.LazyFrame, config: RewardConfig, *, seed: int) -> Held:
    """Score P[signal] on the natural-rate holdout, which may be larger than memory; over all ranks of the model."""
    held = held_rows(holdout, config, model.encoder, seed=seed)
    rows = held.rows.with_columns(label=(pl.col("label") > 0.5).cast(pl.Float64))
    logits, features = model.read_token_ids(held.encoding.token_ids)
    finite(logits, "held-out rows", model.network.model.dtype)
    return Held(rows, model.probabilities(logits, strata_of(rows)), features, held.aside, held.total)


def score_pairs(model: RewardModel, pairs: pl.DataFrame, config: RewardConfig, *, seed: int = 0) -> Held:
    """Score both sides of held-out pairs: chosen_logit, rejected_logit; over all ranks of the model."""
    held = held_rows(pairs.lazy(), config, model.encoder, seed=seed)
    logits = model.score_token_ids(held.encoding.token_ids).astype(np.float64)
    sides = finite(logits, "held-out pairs", model.network.model.dtype).reshape(-1, 2)
    scores = pl.DataFrame({"chosen_logit": sides[:, 0], "rejected_logit": sides[:, 1]})
    return Held(held.rows, scores, np.zeros((0, 0)), held.aside, held.total)


def evaluate_signal(
    model: RewardModel,
    train: pl.DataFrame,
    holdout: pl.LazyFrame,
    config: RewardConfig,
    *,
    seed: int,
    held: Held | None = None,
) -> Evaluation:
    """P[signal] on the natural-rate holdout (`held`: scored already); `train`, what it learned from, is for the baselines.

    Raises DataError as training does.
    """
    held = held or score_signal(model, holdout, config, seed=seed)
    rows, scored, features = held.rows, held.scores, held.features
    train = labelled_rows(train, "train", config)
    learned = limit_rows(train, baselines.MAX_BASELINE_ROWS, seed)
    scores = pl.concat(
        [
            _identity(rows, ("message_id", "conversation_id", "user_id", "use_case", "turn_index", "policy_version")),
            scored,
        ],
        how="horizontal",
    )
    scores = scores.with_columns(
        label=rows["label"].cast(pl.Int8), weight=rows["weight"], completion_length=rows["completion"].str.len_chars()
    )
    clusters = _clusters(rows, config.evaluation, seed)
    labels, live = rows["label"].to_numpy(), scores["live_probability"].to_numpy()
    found = _discrimination(scores["logit"].to_numpy(), labels, clusters)
    found |= _without_repeats(rows, scores["logit"].to_numpy(), labels, clusters)
    found |= _calibration(labels, live, clusters)
    found |= _correlations(scores["logit"].to_numpy(), rows["completion"], clusters)
    others = {
        "length_only": baselines.length_scores(learned, rows),
        "bag_of_words": BagOfWords().fit_labelled(learned).score_labelled(rows),
    }
    for name, values in others.items():
        found |= _named(f"auroc_{name}", clusters.estimate(RankStatistics(values, labels).auroc))
    ensemble = fit_ensemble(
        scores["logit"].to_numpy(), features, labels, clusters.weights, clusters.codes,
        members=config.evaluation.ensemble_members, seed=seed,
    )  # fmt: skip
    found |= {
        "ensemble_members": len(ensemble.scales) if ensemble else 0,
        "holdout_rows": held.total,
        "scored_rows": len(rows),
        "dropped_rows": len(held.aside.rows),
        "set_aside": {held.aside.name: held.aside.facts()},
        "model_train_rows": len(train),
        "baseline_train_rows": len(learned),
        "holdout_positives": int(labels.sum()),
        "base_rate": float(np.average(labels, weights=clusters.weights)),
        "reliability": _reliability(labels, live, clusters, config.evaluation),
        "slices": _slices(rows, scores, clusters, config.evaluation),
    }
    return Evaluation(found, scores, rows, ensemble)


def evaluate_pairs(
    model: RewardModel,
    train: pl.DataFrame,
    pairs: pl.DataFrame,
    config: RewardConfig,
    *,
    seed: int,
    held: Held | None = None,
) -> Evaluation:
    """A Bradley-Terry model on held-out pairs: accuracy, margin, log loss, baselines, by use case; as `evaluate_signal`."""
    held = held or score_pairs(model, pairs, config)
    rows, logits = held.rows, held.scores.to_numpy()
    train = pair_rows(train, "train", config.model_copy(update={"use_margin": False}))
    learned = limit_rows(train, baselines.MAX_BASELINE_ROWS, seed)
    # Not with_columns: pairs in TRL's plain format have neither, and a frame without columns has no rows.
    scores = pl.concat([_identity(rows, ("pair_id", "use_case")), held.scores], how="horizontal")
    margin = logits[:, 0] - logits[:, 1]
    clusters = _clusters(rows, config.evaluation, seed)
    found = _named("pair_accuracy", clusters.estimate(metrics.weighted_mean(_wins(margin))))
    found |= _named("margin", clusters.estimate(metrics.weighted_mean(margin)))
    probability = model.calibration.probability(margin)
    losses = metrics.log_losses(probability, np.ones_like(margin))
    found |= _named("log_loss", clusters.estimate(metrics.weighted_mean(losses)))
    others = {
        "length_only": baselines.length_pair_scores(learned, rows),
        "bag_of_words": BagOfWords().fit_pairs(learned).score_pairs(rows),
    }
    for name, values in others.items():
        found |= _named(f"pair_accuracy_{name}", clusters.estimate(metrics.weighted_mean(_wins(values))))
    twice = Clusters(
        np.tile(clusters.codes, 2), np.tile(clusters.weights, 2), clusters.resamples, clusters.confidence, seed
    )
    found |= _correlations(logits.T.ravel(), pl.concat([rows["chosen"], rows["rejected"]]), twice)
    found |= {
        "eval_pairs": len(rows),
        "dropped_pairs": len(held.aside.rows),
        "set_aside": {held.aside.name: held.aside.facts()},
        "model_train_pairs": len(train),
        "baseline_train_pairs": len(learned),
        "mean_logit": float(logits.mean()),
        "sd_logit": float(logits.std()),
        "slices": _pair_slices(rows, margin, clusters, config.evaluation),
    }
    return Evaluation(found, scores, rows.with_columns(margin=pl.Series(margin)))


def _wins(margin: np.ndarray) -> np.ndarray:
    return np.where(margin == 0, 0.5, (margin > 0).astype(np.float64))


def _named(name: str, estimate: metrics.Estimate) -> dict[str, Any]:
    """Figure and interval under their names; None where there is none (JSON has no NaN)."""
    value, interval = estimate
    return {name: _finite(value), f"{name}_ci": [_finite(bound) for bound in interval]}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _identity(rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    return rows.select(c for c in columns if c in rows.columns)


def _clusters(rows: pl.DataFrame, config: EvaluationConfig, seed: int) -> Clusters:
    weights = rows["weight"].to_numpy() if "weight" in rows.columns else np.ones(len(rows))
    options = {"resamples": config.bootstrap_resamples, "confidence": config.confidence, "seed": seed}
    return Clusters.of(groups_of(rows).fill_null("").to_numpy(), weights, **options)


def _discrimination(logits: np.ndarray, labels: np.ndarray, clusters: Clusters) -> dict[str, Any]:
    ranks = RankStatistics(logits, labels)
    return _named("auroc", clusters.estimate(ranks.auroc)) | _named(
        "average_precision", clusters.estimate(ranks.average_precision)
    )


def _without_repeats(rows: pl.DataFrame, logits: np.ndarray, labels: np.ndarray, clusters: Clusters) -> dict[str, Any]:
    """AUROC on the rows whose prompt and reply training did not see word for word, where the holdout marks them."""
    if "text_in_train" not in rows.columns:
        return {}
    fresh = ~rows["text_in_train"].fill_null(False).to_numpy()
    auroc = _named("auroc_without_repeats", (float("nan"), (float("nan"), float("nan"))))
    if 0 < labels[fresh].sum() < fresh.sum():
        estimate = clusters.inside(fresh).estimate(RankStatistics(logits[fresh], labels[fresh]).auroc)
        auroc = _named("auroc_without_repeats", estimate)
    return auroc | {"rows_repeated_in_train": int((~fresh).sum())}


def _calibration(labels: np.ndarray, live: np.ndarray, clusters: Clusters) -> dict[str, Any]:
    weights = clusters.weights
    constant = np.full_like(live, np.average(labels, weights=weights))
    found: dict[str, Any] = {}
    for name, p in (("", live), ("_constant_rate", constant)):
        found |= _named(f"log_loss{name}", clusters.estimate(metrics.weighted_mean(metrics.log_losses(p, labels))))
        found |= _named(f"brier{name}", clusters.estimate(metrics.weighted_mean((p - labels) ** 2)))
    found |= _named(
        "observed_over_expected", metrics.observed_over_expected(labels, live, weights, clusters.confidence)
    )
    clustered = clusters.estimate(metrics.ratio(labels, live))
    found["observed_over_expected_clustered_ci"] = _named("x", clustered)["x_ci"]
    slope, intercept = metrics.calibration_slope(labels, live, weights, clusters.codes, clusters.confidence)
    return found | _named("calibration_slope", slope) | _named("calibration_intercept", intercept)


def _correlations(logits: np.ndarray, replies: pl.Series, clusters: Clusters) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in style_features(replies).to_dict().items():
        found |= _named(f"{name}_correlation", clusters.estimate(metrics.correlation(logits, values.to_numpy())))
    return found


def _reliability(
    labels: np.ndarray, live: np.ndarray, clusters: Clusters, config: EvaluationConfig
) -> list[dict[str, Any]]:
    bins = metrics.equal_mass_bins(live, clusters.weights, config.reliability_bins)
    found = []
    for index in np.unique(bins):
        inside = (bins == index).astype(np.float64)
        rate, interval = clusters.estimate(metrics.ratio(labels * inside, inside))
        mean = float(metrics.ratio(live * inside, inside)(clusters.weights[None])[0])
        share = float(clusters.weights @ inside / clusters.weights.sum())
        found.append({"predicted": mean, "share": share, **_named("observed", (rate, interval))})
    return found


def slice_columns(rows: pl.DataFrame, reply: str = "completion") -> dict[str, pl.Series]:
    """Name of each slicing -> a label per row: new or established users, use case, policy version, turn, length."""
    found = {c: rows[c].fill_null("(none)") for c in ("use_case", "policy_version") if c in rows.columns}
    if "user_group" in rows.columns and rows["user_group"].null_count() < len(rows):
        found = {"user_group": rows["user_group"].fill_null("(none)"), **found}
    if "turn_index" in rows.columns:
        found["turn_index"] = rows["turn_index"].cut(TURN_EDGES, left_closed=True).cast(pl.String)
    length = rows[reply].str.len_chars()
    edges = sorted({float(length.quantile(q) or 0) for q in LENGTH_QUANTILES})
    found["length"] = length.cut(edges).cast(pl.String)
    return found


def _slices(
    rows: pl.DataFrame, scores: pl.DataFrame, clusters: Clusters, config: EvaluationConfig
) -> list[dict[str, Any]]:
    labels, live = rows["label"].to_numpy(), scores["live_probability"].to_numpy()
    logits, found = scores["logit"].to_numpy(), []
    for name, inside in _each_slice(slice_columns(rows), labels, config):
        part = clusters.inside(inside)
        entry = {**name, "rows": int(inside.sum()), "positives": int(labels[inside].sum())}
        entry |= _named("auroc", part.estimate(RankStatistics(logits[inside], labels[inside]).auroc))
        estimate = metrics.observed_over_expected(labels[inside], live[inside], part.weights, clusters.confidence)
        found.append(entry | _named("observed_over_expected", estimate))
    return found


def _pair_slices(
    rows: pl.DataFrame, margin: np.ndarray, clusters: Clusters, config: EvaluationConfig
) -> list[dict[str, Any]]:
    found = []
    for name, inside in _each_slice(slice_columns(rows, "chosen"), None, config):
        part = clusters.inside(inside)
        entry = {**name, "pairs": int(inside.sum())}
        found.append(entry | _named("pair_accuracy", part.estimate(metrics.weighted_mean(_wins(margin[inside])))))
    return found


def _each_slice(
    columns: dict[str, pl.Series], labels: np.ndarray | None, config: EvaluationConfig
) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    for by, values in columns.items():
        for value in sorted(values.unique().to_list()):
            inside = (values == value).to_numpy()
            enough = inside.sum() >= config.min_slice_rows
            if enough and (labels is None or 0 < labels[inside].sum() < inside.sum()):
                yield {"by": by, "value": value}, inside
