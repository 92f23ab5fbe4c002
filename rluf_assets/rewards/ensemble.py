"""A small ensemble of P[signal]: how much the score of a reply hangs on which users happened to react.

Members are logistic score heads on the trained model's pooled features, refitted on held-out users' reactions under
Bayesian-bootstrap weights over users (Rubin 1981), so they need no pass of their own: the holdout is scored anyway.
They share the backbone and so understate what another training run would change; where even they disagree, the score
is not determined by the data. They never stand in for P[signal], and P[signal] never learns from these rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit

from rluf_assets.errors import DataError
from rluf_assets.lake import read_json, write_json

ENSEMBLE = "ensemble.json"
# Directions of the features that members may weigh anew: few enough for some hundred positives.
COMPONENTS = 32
# Fewer positives than this say nothing about a head.
MIN_POSITIVES = 20
# A reply counts as disputed beyond this quantile of the members' spread over logged replies.
SPREAD_QUANTILE = 0.99


class Ensemble(BaseModel):
    """Score heads `scale * z + weights @ features + bias` for live log-odds; stored as `ensemble.json`.

    `spread` is the 99th percentile, over logged replies, of the members' standard deviation in log-odds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[float, ...] = Field(min_length=2)
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]
    spread: float = Field(gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_shape(self) -> Ensemble:
        shapes = {len(self.scales), len(self.weights), len(self.biases)}
        if len(shapes) > 1 or len({len(w) for w in self.weights}) > 1:
            raise ValueError(f"heads differ in shape: found {sorted(shapes)} members, expected one number")
        return self

    def log_odds(self, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Live log-odds of each member, (rows, members), from raw logits (rows,) and pooled features (rows, width)."""
        weights = np.asarray(self.weights)
        if features.shape[1:] != weights.shape[1:]:
            raise DataError(
                f"{ENSEMBLE}: heads of width {weights.shape[1]}, but the model's features are {features.shape[1:]}. "
                "It belongs to another model: train again."
            )
        return np.asarray(np.outer(logits, self.scales) + features @ weights.T + np.asarray(self.biases))

    def live_probabilities(self, log_odds: np.ndarray) -> np.ndarray:
        """Members' live probabilities, (rows, members)."""
        return np.asarray(expit(log_odds))

    def disagreement(self, log_odds: np.ndarray) -> np.ndarray:
        """Spread of the members on each reply over that of 99% of logged replies: above 1 is more than usual."""
        return np.asarray(log_odds.std(axis=1) / self.spread)

    def save(self, folder: Path) -> None:
        write_json(str(folder / ENSEMBLE), self.model_dump(mode="json"))


def load_ensemble(folder: str | Path) -> Ensemble | None:
    """The ensemble beside a reward model, or None if it has none. Raises DataError if it is not what we write."""
    path = Path(folder) / ENSEMBLE
    if not path.exists():
        return None
    try:
        return Ensemble.model_validate(read_json(str(path)))
    except ValueError as error:
        raise DataError(f"{path}: not an ensemble ({error}). Train the model again; do not edit the file.") from error


def fit_ensemble(
    logits: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    users: np.ndarray,
    *,
    members: int,
    seed: int,
) -> Ensemble | None:
    """Refit score heads on held-out rows; None where positives or negatives are too few.

    logits, labels (0/1), weights (1/inclusion), users (codes): shape (rows,); features: (rows, width).
    """
    # Here alone: whoever only scores would wait for it.
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    positive = labels > 0.5
    if members < 2 or min(positive.sum(), (~positive).sum()) < MIN_POSITIVES:
        return None
    # Weights that restore the live rate are a constant per class, but for users' own: as an intercept they cost nothing.
    level = {side: float(weights[positive == side].mean()) for side in (True, False)}
    relative = weights / np.where(positive, level[True], level[False])
    shift = float(np.log(level[True] / level[False]))
    pca = PCA(min(COMPONENTS, *features.shape), whiten=True, random_state=seed).fit(features)
    centre, scale = float(logits.mean()), max(float(logits.std()), 1e-9)
    inputs = np.column_stack([(logits - centre) / scale, pca.transform(features)])
    rng = np.random.default_rng(seed)
    heads = []
    for _ in range(members):
        drawn = rng.exponential(size=int(users.max()) + 1)[users]
        fitted = LogisticRegression(max_iter=300).fit(inputs, positive, sample_weight=relative * drawn)
        heads.append((fitted.coef_[0], float(fitted.intercept_[0])))
    directions = pca.components_ / np.sqrt(pca.explained_variance_ + 1e-12)[:, None]
    folded = [coefficients[1:] @ directions for coefficients, _ in heads]
    scales = [coefficients[0] / scale for coefficients, _ in heads]
    biases = [b + shift - s * centre - w @ pca.mean_ for (_, b), s, w in zip(heads, scales, folded, strict=True)]
    draft = Ensemble(
        scales=tuple(map(float, scales)),
        weights=tuple(tuple(map(float, w)) for w in folded),
        biases=tuple(map(float, biases)),
        spread=1.0,
    )
    spread = _quantile(draft.log_odds(logits, features).std(axis=1), weights, SPREAD_QUANTILE)
    return draft.model_copy(update={"spread": max(spread, 1e-6)})


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), q * weights.sum())])
