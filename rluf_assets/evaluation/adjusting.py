"""What users brought with them, taken out of an A/B test's figures: CUPED and, beside it, a cross-fitted prediction.

CUPED (Deng, Xu, Kohavi & Walker 2013) regresses each user's part in a metric on pre-period columns. The prediction (Guo et
al. 2021, arXiv 2106.07263) is a ridge regression of the same on everything that is known from before the test, columns
`pre_*`: behaviour, and P[signal] of what the user had been shown then (`pre_p_<signal>`, a sum). Nothing of the arm's own
replies enters. A user's prediction comes from a model that never saw that user, in either arm; it is then one more
covariate, beside CUPED's. So the estimate stays that of a randomised test however wrong the prediction is.

It must do no harm, by rules fixed here, which look at both arms together and at no difference between them:
fewer than MIN_USERS, no such column, a prediction that points the wrong way, or one that takes out less than LEAST_GAIN of
what CUPED leaves (and less than chance may, NOISE / users): the figures are CUPED's. Without a pre-period they are raw.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl

from rluf_assets.evaluation.config import ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, covariates_of
from rluf_assets.evaluation.stats import Array, Ratio

MIN_USERS = 200  # in both arms together
LEAST_GAIN = 0.01
NOISE = 10.0  # a covariate of pure noise takes out 1 / users on average, and ten times that once in 600
FOLDS = 5
SEED = 0
PENALTY = 100.0  # of the ridge, in users, for standardised columns
HISTORY = "pre_"


def adjusted(treatment: Ratio, control: Ratio, arm: Arm, base: Arm, config: ReadoutConfig) -> tuple[Ratio, Ratio, str]:
    """Both ratios with what the pre-period explains taken out, and by what: "nothing", "pre-period", "prediction".

    Users' influences (times users: the linearised metric) are regressed on covariates centred within each arm, both arms
    together; the control keeps its level, so that lifts stay relative to what was observed.
    """
    users = len(arm.users) + len(base.users)
    outcome = np.concatenate([treatment.influence * len(arm.users), control.influence * len(base.users)])
    columns = covariates_of(config, arm.users, base.users)
    kept = np.concatenate([_plain(a, columns) for a in (arm, base)])
    if users <= 2 * kept.shape[1] + 2:
        kept = kept[:, :0]
    said = "pre-period" if kept.shape[1] else "nothing"
    prediction = predicted(outcome, arm, base)
    if prediction is not None:
        joint = np.column_stack([kept, prediction])
        slope, left = _fit(outcome, joint, len(arm.users))
        gain = 1 - left / max(_fit(outcome, kept, len(arm.users))[1], 1e-300)
        if slope[-1] > 0 and gain >= max(LEAST_GAIN, NOISE / users):
            kept, said = joint, "prediction"
    if said == "nothing":
        return treatment, control, said
    slope, _ = _fit(outcome, kept, len(arm.users))
    ours, theirs = kept[: len(arm.users)], kept[len(arm.users) :]
    shift = float((ours.mean(axis=0) - theirs.mean(axis=0)) @ slope)
    return (
        Ratio(treatment.value - shift, treatment.influence - (ours - ours.mean(axis=0)) @ slope / len(ours)),
        Ratio(control.value, control.influence - (theirs - theirs.mean(axis=0)) @ slope / len(theirs)),
        said,
    )


def predicted(outcome: Array, arm: Arm, base: Arm) -> Array | None:
    """Each user's outcome as models predict it that never saw the user, the arm's users first; None without a history.

    Five folds by user, drawn with a fixed seed; a user who is in both arms is in one fold.
    """
    users = len(arm.users) + len(base.users)
    features = _features(arm, base) if users >= MIN_USERS else None
    if features is None:
        return None
    ids = pl.concat([arm.users["user_id"], base.users["user_id"]]).rank("dense").to_numpy() - 1
    fold = (np.random.default_rng(SEED).permutation(int(ids.max()) + 1) % FOLDS)[ids]
    order = np.argsort(fold, kind="stable")
    edges = np.searchsorted(fold[order], np.arange(FOLDS + 1))
    parts = [slice(a, b) for a, b in pairwise(edges)]
    x, y = features[order], outcome[order]
    # Solved in closed form from each fold's sums: a library's ridge takes ten times as long to set up. Neither side needs an
    # intercept: columns are standardised, and users' parts in a ratio add up to nothing within an arm.
    grams, towards = [x[p].T @ x[p] for p in parts], [x[p].T @ y[p] for p in parts]
    penalty = PENALTY * np.eye(x.shape[1])
    found = np.empty(users)
    for k, held in enumerate(parts):
        gram, to = (sum(part for j, part in enumerate(of) if j != k) for of in (grams, towards))
        found[order[held]] = x[held] @ np.linalg.solve(penalty + gram, to)
    return found if np.ptp(found) > 0 else None


def _features(arm: Arm, base: Arm) -> Array | None:
    """Standardised columns from before the test: as they are, as logarithms, whether there is any, and per reply."""
    names = [c for c in arm.users.columns if c.startswith(HISTORY) and c in base.users.columns]
    known = {c: np.concatenate([a.values(c) for a in (arm, base)]) for c in names}
    known = {c: v for c, v in known.items() if np.ptp(v) > 0}
    replies = known.get(f"{HISTORY}replies")
    columns = [part for v in known.values() for part in (v, np.log1p(v), (v > 0).astype(np.float64))]
    if replies is not None:
        others = [v for c, v in known.items() if v is not replies]
        columns += [(v + v.sum() / replies.sum()) / (replies + 1) for v in others]
    varied = [c for c in columns if np.std(c) > 1e-12]
    return np.column_stack([(c - c.mean()) / np.std(c) for c in varied]) if varied else None


def _plain(arm: Arm, columns: list[str]) -> Array:
    """CUPED's covariates of an arm: the columns, and whether they are above zero."""
    values = [arm.values(c) for c in columns]
    return np.column_stack([*values, *(v > 0 for v in values), np.empty((len(arm.users), 0))]).astype(np.float64)


def _fit(outcome: Array, covariates: Array, ours: int) -> tuple[Array, float]:
    """Slopes on covariates centred within each arm, and the sum of squares that they leave."""
    if not covariates.shape[1]:
        return np.empty(0), float(outcome @ outcome)
    centred = np.concatenate([part - part.mean(axis=0) for part in (covariates[:ours], covariates[ours:])])
    slope, *_ = np.linalg.lstsq(centred, outcome, rcond=None)
    left = outcome - centred @ slope
    return slope, float(left @ left)
