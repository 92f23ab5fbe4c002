"""Whether a newly trained P[signal] takes the place of its predecessor: both score the same later holdout.

Differences come with intervals that resample whole users, paired: one resample weighs both models' rows. The holdout is
later than what either model was trained on, and of other users.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from rluf_assets.rewards import metrics
from rluf_assets.rewards.calibration import strata_of
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.data import groups_of
from rluf_assets.rewards.evaluation import Evaluation
from rluf_assets.rewards.metrics import Clusters, RankStatistics
from rluf_assets.rewards.scoring import RewardModel, finite


@dataclass(frozen=True)
class Verdict:
    """`adopted`, the reason in a sentence, and the figures it rests on (new minus predecessor, with intervals)."""

    adopted: bool
    verdict: str
    auroc_before: float | None
    auroc_change: float | None
    auroc_change_ci: list[float | None]
    log_loss_before: float | None
    log_loss_change: float | None
    log_loss_change_ci: list[float | None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score_again(rows: pl.DataFrame, previous: RewardModel) -> pl.DataFrame:
    """The predecessor's scores of evaluated rows: live probabilities by the same strata as the successor's."""
    found = previous.score(rows["prompt"].to_list(), rows["completion"].to_list(), strata=strata_of(rows))
    finite(
        found["logit"].to_numpy(),
        "the predecessor on the holdout",
        previous.network.model.dtype,
    )
    return found


def compare(evaluation: Evaluation, before: pl.DataFrame, config: RewardConfig, *, seed: int) -> Verdict:
    """Judge a model by its `evaluation` against its predecessor's scores of the same rows (`score_again`).

    Worse is: an interval of a difference lies wholly on the bad side (less AUROC, more log loss of live probabilities).
    """
    rows, scores = evaluation.rows, evaluation.scores
    labels, weights = scores["label"].to_numpy().astype(np.float64), scores["weight"].to_numpy()
    groups = groups_of(rows).fill_null("").to_numpy()
    settings = config.evaluation
    clusters = Clusters.of(
        groups, weights, resamples=settings.bootstrap_resamples, confidence=settings.confidence, seed=seed
    )
    ranks = [RankStatistics(frame["logit"].to_numpy(), labels) for frame in (scores, before)]
    losses = [metrics.log_losses(frame["live_probability"].to_numpy(), labels) for frame in (scores, before)]
    auroc, auroc_ci = clusters.estimate(lambda w: ranks[0].auroc(w) - ranks[1].auroc(w))
    loss, loss_ci = clusters.estimate(metrics.weighted_mean(losses[0] - losses[1]))
    worse = [
        name
        for name, is_worse in (("ranks worse", auroc_ci[1] < 0), ("is calibrated worse", loss_ci[0] > 0))
        if is_worse
    ]
    better = auroc_ci[0] > 0 or loss_ci[1] < 0
    adopted = not worse and (better or config.adoption.require == "not_worse")
    told = (
        f"AUROC {auroc:+.4f} ({auroc_ci[0]:+.4f} to {auroc_ci[1]:+.4f}), log loss {loss:+.5f} ({loss_ci[0]:+.5f} to "
        f"{loss_ci[1]:+.5f}) on {len(rows)} later rows"
    )
    why = " and ".join(worse) if worse else "is better" if better else "cannot be told from its predecessor"
    return Verdict(
        adopted=adopted,
        verdict=f"{'adopted' if adopted else 'refused'}: it {why}: {told}",
        auroc_before=_finite(float(ranks[1].auroc(weights[None])[0])),
        auroc_change=_finite(auroc),
        auroc_change_ci=[_finite(bound) for bound in auroc_ci],
        log_loss_before=_finite(float(np.average(losses[1], weights=weights))),
        log_loss_change=_finite(loss),
        log_loss_change_ci=[_finite(bound) for bound in loss_ci],
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
