"""CRPG: calibrated-regularized policy gradient (CGPO, section 4.1.1).

Every reply counts with R = max(1 - log(pi/pi_ref) / KL_max, 0) * R_calib if all judges pass, else 0, less the mean of
the batch: replies above it are made likelier, those below (violations first) less likely.
"""

from __future__ import annotations

import numpy as np

from rluf_assets.policy.batch import Batch, Example, Reply, Selection
from rluf_assets.policy.objectives import calibrated_reward


def regularised_reward(calibrated: np.ndarray, passed: np.ndarray, log_ratio: np.ndarray, kl_max: float) -> np.ndarray:
    """Rtilde, shape of its arguments; NaN log-ratios of violating replies do not matter."""
    room = np.maximum(1 - np.where(passed, log_ratio, 0.0) / kl_max, 0.0)
    return np.where(passed, room * calibrated, 0.0)


def select(batch: Batch) -> Selection:
    """All replies of a finite reward, weighted with their advantage Rtilde - mean(Rtilde) over the batch."""
    prompts = len(batch.reward)
    passed = batch.passed.copy()
    eligible = [Reply(int(p), int(k)) for p, k in np.argwhere(passed)]
    log_ratio = np.full(batch.reward.shape, np.nan)
    if eligible:
        rows, columns = np.array(eligible).T
        passed[rows, columns] = batch.costly(eligible)
        log_ratio[rows, columns] = batch.log_ratio(eligible)
    calibrated = calibrated_reward(batch.reward, batch.baseline_reward[:, None])
    reward = regularised_reward(calibrated, passed, log_ratio, batch.kl_max)
    if not reward.any():
        return Selection([], ["skipped: no completion meets every constraint"] * prompts)
    advantage = reward - reward.mean()
    text = [Reply(int(p), int(k)) for p, k in np.argwhere(np.isfinite(batch.reward))]
    examples = [Example(reply, float(advantage[reply.prompt, reply.completion])) for reply in text]
    return Selection(examples, ["selected"] * prompts)
