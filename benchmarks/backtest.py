"""How often the backtest and the audit of transport err, by simulation: `python -m benchmarks.backtest [--runs 400]`.

Past launches whose predictions come true in full (slope 1): how often the interval of the slope holds it, beside least squares
that is blind to errors, with errors of unlike size, and how often r's lower end lies above the true correlation. Then live
slices of users of unequal propensity, on which P[signal] is right, or wrong by a margin and more: what the audit says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import polars as pl

from benchmarks.evaluation import Share
from rluf_assets.evaluation.backtest import widened
from rluf_assets.evaluation.calibration_slope import Launches, calibration_slope, naive_slope
from rluf_assets.evaluation.claims import transport_gate
from rluf_assets.evaluation.config import BacktestConfig, ReleaseConfig
from rluf_assets.evaluation.decision import Result
from rluf_assets.evaluation.stats import pearson
from rluf_assets.evaluation.transport import TRANSPORT, LiveSlice, transport_row

TRUE_SD = 0.15  # of the launches' true predicted changes
# Launches, errors of predicted and observed changes (medians), true misses: all but the first as standard deviations.
WORLDS = (
    (5, 0.02, 0.05, 0.0), (10, 0.0, 0.05, 0.0), (10, 0.05, 0.05, 0.05), (10, 0.1, 0.03, 0.0), (10, 0.02, 0.02, 0.1),
    (20, 0.1, 0.03, 0.0),
)  # fmt: skip


def past_launches(
    rng: np.random.Generator, count: int, *, predicted: float, observed: float, spread: float
) -> Launches:
    """Launches with a true slope of 1; errors vary between launches by a factor of about two (log-normal)."""
    true = rng.normal(0.0, TRUE_SD, count)
    errors = np.concatenate(
        [predicted * np.exp(0.5 * rng.standard_normal(count)), observed * np.exp(0.7 * rng.standard_normal(count))]
    )
    noise = errors * rng.standard_normal(2 * count)
    x, y = true + noise[:count], true + spread * rng.standard_normal(count) + noise[count:]
    return Launches(x, y, np.diag(errors**2))


def live_slice(rng: np.random.Generator, users: int, *, truth: float, rate: float) -> pl.DataFrame:
    """About five replies a user, some of whom love far more than others; truth: true rate over the predicted one."""
    replies = 1 + rng.poisson(4.0, users)
    user = np.repeat(np.arange(users), replies)
    predicted = np.minimum(rate * rng.gamma(4.0, 0.25, len(user)), 0.5)
    propensity = rng.lognormal(-0.125, 0.5, users)
    label = rng.random(len(user)) < np.minimum(truth * predicted * propensity[user], 1.0)
    return pl.DataFrame(
        {
            "user_id": user.astype(str), "reply_id": np.arange(len(user)).astype(str), "label": label.astype(np.int8),
            "live_probability": predicted,
        }
    )  # fmt: skip


def slope_shares(runs: int) -> Iterator[Share]:
    config = BacktestConfig(resamples=500)
    for count, predicted, observed, spread in WORLDS:
        rng, held, blind, above, unbounded = np.random.default_rng(0), 0, 0, 0, 0
        true_r = TRUE_SD / np.hypot(TRUE_SD, spread)
        for _ in range(runs):
            one = past_launches(rng, count, predicted=predicted, observed=observed, spread=spread)
            found, naive = calibration_slope(one, 0.95), naive_slope(one.x, one.y, 0.95)
            unbounded += found.low is None
            held += found.low is None or found.high is None or found.low <= 1 <= found.high
            blind += naive.low is not None and naive.high is not None and naive.low <= 1 <= naive.high
            r = widened(pearson(one.x.tolist(), one.y.tolist(), confidence=0.95), one, config, 0)
            above += r.low is not None and r.low > true_r
        errors = f"errors {predicted:.0%} and {observed:.0%}, misses {spread:.0%}"
        name = f"{count} launches, {errors}"
        yield Share(f"{name}: slope's interval holds 1 ({unbounded / runs:.0%} without bounds)", "95%", held, runs)
        yield Share(f"{name}: least squares'", "(blind)", blind, runs)
        yield Share(f"{name}: r's lower end above the truth", "at most 2.5%", above, runs)


def audit_shares(runs: int) -> Iterator[Share]:
    margin = ReleaseConfig().max_transport_error
    for users, truth, wanted, result in (
        (20_000, 1.0, "the power", Result.PASS), (20_000, 1 - margin, "at most 2.5%", Result.PASS),
        (20_000, 1 + margin, "at most 2.5%", Result.PASS), (20_000, 1 - margin, "at most 2.5%", Result.FAIL),
        (20_000, 0.7, "the power", Result.FAIL), (1_000, 1.0, "at most 2.5%", Result.FAIL),
        (1_000, 0.7, "at most 2.5%", Result.PASS),
    ):  # fmt: skip
        rng, hits = np.random.default_rng(1), 0
        for _ in range(runs):
            row = transport_row("b", LiveSlice(live_slice(rng, users, truth=truth, rate=0.04)), 0.95)
            hits += transport_gate("b", pl.DataFrame([row], schema=TRANSPORT), ReleaseConfig()).result is result
        yield Share(
            f"{users:,} live users, true rate {truth:.0%} of the predicted: audit says {result}", wanted, hits, runs
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args(argv).runs
    print("| what | wanted | found | 95% interval | runs |\n|---|---|---|---|---|", flush=True)
    for share in chain(slope_shares(runs), audit_shares(runs)):
        print(share.row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
