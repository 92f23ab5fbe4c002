"""How often the release gate errs, by simulation: `python -m benchmarks.decisions` (`--help`: how many runs of each).

A/A tests looked at every day: what the gate calls better by the plan's boundaries, beside the fixed-horizon gate and the
always-valid interval; the power of the goal alone beside what the design promises. Then whole tests at the planned size
through the readout and the decision table: a candidate that is better and within every margin, and one beyond a margin.
Then the readout with and without a prediction from what users had been shown before: width, coverage, A/A. And a minority of
2% of the users for whom conversations end early more often: how often the gate of segments finds it, and its false alarms.
And a rare harm: what its guardrail says where few users or none are harmed in an arm.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import numpy as np
import polars as pl
from scipy.stats import norm

from benchmarks.evaluation import Share
from rluf_assets.evaluation import adjusting
from rluf_assets.evaluation.boundaries import critical_values
from rluf_assets.evaluation.config import BoundPlan, ReadoutConfig, ReleaseConfig
from rluf_assets.evaluation.decision import Result, Verdict, rule
from rluf_assets.evaluation.exposures import Arm, per_user
from rluf_assets.evaluation.gates import live_gates
from rluf_assets.evaluation.joint_power import joint_power, sizings
from rluf_assets.evaluation.metric import compare_metric
from rluf_assets.evaluation.plan import AbPlan, Margin
from rluf_assets.evaluation.readout import read_out
from rluf_assets.evaluation.segment_gate import segment_gate
from rluf_assets.evaluation.stats import ratio_of_sums, sequential_factor
from tests.evaluation.world import exposures_of, minority_of

DAYS, DAILY_USERS = 14, 100  # an arm
USERS, LIFT, BEYOND = 1500, 0.4, 1.1
AT_RISK, RARE_MARGIN, HARM = 4000, 0.005, "harmful_compliance_rate"
MANY, MINORITY = 10_000, 0.02  # users of an arm where a minority is looked for, and its share
DAILY = AbPlan(planned_users=2 * DAYS * DAILY_USERS, looks=tuple((d + 1) / DAYS for d in range(DAYS)), guardrails={})
WHOLE = AbPlan(
    planned_users=2 * USERS,
    planned_days=7,
    looks=(1.0,),
    minimum_detectable_effect=LIFT,
    guardrails={
        "thumbs_down_rate": Margin(relative=0.5),
        "conversations_per_user": Margin(relative=0.2),
        "replies_per_conversation": Margin(relative=0.12),
        "early_ending_rate": Margin(relative=0.4),
        "next_day_return": Margin(relative=0.18),
    },
)


def daily_scores(runs: int, lift: float, rng: np.random.Generator) -> np.ndarray:
    """z of the love rate on each day of many tests: unequal users, a ratio of sums, the delta method by user."""
    sums = []
    for arm in range(2):
        size = (runs, DAYS, DAILY_USERS)
        replies = 1 + rng.poisson(rng.gamma(1.0, 4.0, size))
        chance = np.minimum(0.02 * rng.gamma(0.5, 2.0, size) * (1 + lift * arm), 1.0)
        loves = rng.binomial(replies, chance)
        parts = (loves, replies, loves**2, replies**2, loves * replies)
        sums.append([np.cumsum(part.sum(axis=2), axis=1).astype(float) for part in parts])
    n = DAILY_USERS * np.arange(1, DAYS + 1)
    rates, variances = [], []
    for x, y, xx, yy, xy in sums:
        rate = x / y
        variances.append((xx - 2 * rate * xy + rate**2 * yy) / y**2 * n / (n - 1))
        rates.append(rate)
    return np.asarray((rates[1] - rates[0]) / np.sqrt(np.maximum(variances[0] + variances[1], 1e-300)))


def design_power(drift: float) -> float:
    """Chance that the design's own Brownian motion with this drift at the end crosses at some look."""
    bounds, times = np.array(critical_values(DAILY.looks)), np.array(DAILY.looks)
    steps = np.sqrt(np.diff(np.concatenate([[0.0], times])))
    score = np.cumsum(np.random.default_rng(1).standard_normal((100_000, DAYS)) * steps, axis=1) / np.sqrt(times)
    return float((score + drift * np.sqrt(times) >= bounds).any(axis=1).mean())


def daily_shares(runs: int) -> list[Share]:
    """A/A and power of the goal under daily looks."""
    rng, bounds = np.random.default_rng(0), np.array(critical_values(DAILY.looks))
    users = 2 * DAILY_USERS * np.arange(1, DAYS + 1)
    always = np.array([sequential_factor(int(u), planned=DAILY.planned_users, confidence=0.95) for u in users])
    null = np.concatenate([daily_scores(100, 0.0, rng) for _ in range(runs // 100)])
    lift = 0.35
    planted = np.concatenate([daily_scores(100, lift, rng) for _ in range(runs // 100)])
    wanted = design_power(float(planted[:, -1].mean()))
    fixed = float(norm.ppf(0.975))
    head = f"A/A, {DAYS} daily looks"
    found, end = planted >= bounds, planted[:, -1] >= fixed
    return [
        Share(f"{head}: the gate calls it better", "2.5%", int((null >= bounds).any(1).sum()), len(null)),
        Share(f"{head}: better or worse", "at most 5%", int((abs(null) >= bounds).any(1).sum()), len(null)),
        Share(f"{head}: the fixed-horizon gate calls it", "(the flaw)", int((abs(null) >= fixed).any(1).sum()), len(null)),
        Share(f"{head}: the always-valid interval calls it", "at most 5%", int((abs(null) >= always).any(1).sum()), len(null)),
        Share(f"true {lift:+.0%}: the gate finds it", f"{wanted:.1%} by design", int(found.any(1).sum()), len(null)),
        Share(f"true {lift:+.0%}: one fixed look at the end", "more", int(end.sum()), len(null)),
        Share(f"true {lift:+.0%}: always valid", "less", int((planted >= always).any(1).sum()), len(null)),
    ]  # fmt: skip


def promoted(seed: int, *, harm: float) -> bool:
    """One whole test at the planned size, through readout, gates and table; harm: true relative rise of early endings."""
    config = ReadoutConfig(plan=WHOLE)
    arms = {
        "baseline": exposures_of("baseline", USERS, seed=2 * seed),
        "b": exposures_of("b", USERS, seed=2 * seed + 1, love_lift=LIFT, early_endings=0.1 * (1 + harm)),
    }
    release = ReleaseConfig(plan=WHOLE, bound={"b": BoundPlan(plan=WHOLE.hash)})
    return rule(live_gates("b", read_out(arms, config), release), exposed=True).verdict is Verdict.PROMOTE


def whole_shares(tests: int) -> list[Share]:
    """Whole tests: truly better and within every margin; truly better and beyond one."""
    sized = sizings(exposures_of("sizing", 20 * USERS, seed=10**6).drop("arm"), ReadoutConfig(plan=WHOLE))
    expected, margin = joint_power(sized, WHOLE), WHOLE.guardrails["early_ending_rate"].relative or math.nan
    good = sum(promoted(seed, harm=0.0) for seed in range(tests))
    bad = sum(promoted(10**5 + seed, harm=BEYOND * margin) for seed in range(tests))
    return [
        Share("whole test, better and within every margin: promoted", f"{expected:.1%} jointly expected", good, tests),
        Share(
            f"whole test, early endings {BEYOND * margin:+.0%} (margin {margin:.0%}): promoted",
            "at most 5%",
            bad,
            tests,
        ),
    ]


def sharper_rows(runs: int, users: int = 600) -> Iterator[str]:
    """The readout beside the same without a prediction: width of the interval, coverage, A/A; with three kinds of history."""
    config = ReadoutConfig(plan=AbPlan(planned_users=2 * users))
    metrics = [m for m in config.metrics if m.name in ("love_rate", "conversations_per_user", "early_ending_rate")]
    for history in ("behaviour alone", "P[love] of what they were shown", "a column of noise"):
        widths: dict[str, list[float]] = {m.name: [] for m in metrics}
        covered, called, plain_called = dict.fromkeys(widths, 0), dict.fromkeys(widths, 0), dict.fromkeys(widths, 0)
        for run in range(runs):
            for lift in (0.0, LIFT):
                base, arm = _with_history(5 * 10**6 + run, users, history, lift)
                for m in metrics:
                    row = compare_metric(m, arm, base, config)
                    with patch.object(adjusting, "MIN_USERS", math.inf):
                        plain = compare_metric(m, arm, base, config)
                    if row is None or plain is None or row["ci_low"] is None:
                        raise RuntimeError("a simulated arm had no replies")
                    true = lift if m.name == "love_rate" else 0.0
                    if lift:
                        covered[m.name] += row["ci_low"] <= true <= row["ci_high"]
                        widths[m.name].append((row["ci_high"] - row["ci_low"]) / (plain["ci_high"] - plain["ci_low"]))
                    else:
                        called[m.name] += row["p_value"] < 0.05
                        plain_called[m.name] += plain["p_value"] < 0.05
        for name, ratios in widths.items():
            half = 1.96 * float(np.std(ratios)) / math.sqrt(runs)
            mean, head = float(np.mean(ratios)), f"{history}, {name}"
            yield f"| {head}: width over CUPED's | at most 1 | {mean:.4f} | {mean - half:.4f} to {mean + half:.4f} | {runs} |"
            yield Share(f"{head}: 95% interval covers", "95%", covered[name], runs).row
            yield Share(f"{head}: A/A (CUPED alone: {plain_called[name] / runs:.1%})", "5%", called[name], runs).row


def _with_history(seed: int, users: int, history: str, lift: float) -> tuple[Arm, Arm]:
    """A baseline and an arm with this true lift of love, and nothing else changed."""
    arms = []
    for k, name in enumerate(("a", "b")):
        frame = exposures_of(name, users, seed=2 * seed + k, love_lift=k * lift, scored=history.startswith("P["))
        if history == "a column of noise":
            frame = frame.with_columns(pre_p_love=pl.Series(np.random.default_rng(2 * seed + k).gamma(0.5, 1.0, users)))
        arms.append(Arm(per_user(name, frame)))
    return arms[0], arms[1]


def minority_shares(tests: int) -> Iterator[Share]:
    """The gate of segments: false alarms at A/A, and 2% of the users harmed by this much, beside what the design promises."""
    plan = WHOLE.model_copy(update={"planned_users": 2 * MANY, "segments": ("locale", "new_user")})
    metrics = tuple(m for m in ReadoutConfig().metrics if m.name in (*plan.goals, *plan.guardrails))
    config, release = ReadoutConfig(plan=plan, metrics=metrics), ReleaseConfig(plan=plan)
    cells = 5 * len(metrics)
    for harm in (0.0, 0.5, 1.0, 1.5):
        held = failed = named = 0
        for run in range(2 * tests if harm == 0 else tests):
            seed = 7 * 10**6 + 2 * run
            arms = {
                n: minority_of(n, MANY, seed=seed + k, harm=harm * k, share=MINORITY)
                for k, n in enumerate(("baseline", "b"))
            }
            gate = segment_gate("b", read_out(arms, config), release)
            held, failed = held + (gate.result is not Result.PASS), failed + (gate.result is Result.FAIL)
            named += "worse for locale fi" in gate.brief
        if harm == 0:
            yield Share(
                f"A/A, {cells} figures of 5 groups: some group holds the candidate", "at most 2.5%", held, 2 * tests
            )
            continue
        head = f"2% of the users ({round(MANY * MINORITY)} an arm), early endings {harm:+.0%}"
        yield Share(
            f"{head}: held, and told that it is for them", f"{minority_power(harm, cells):.1%} by design", named, tests
        )
        yield Share(f"{head}: shown to be beyond the margin", "", failed, tests)


def minority_power(harm: float, cells: int) -> float:
    """Chance that the harmed group's early endings pass the first of Holm's bounds, by the delta method on many users."""
    ratios = []
    for rate in (0.1, 0.1 * (1 + harm)):
        users = Arm(per_user("a", exposures_of("a", 100_000, seed=1, early_endings=rate)))
        ratio = ratio_of_sums(users.values("early_endings"), users.values("conversations"))
        if ratio is None:
            raise RuntimeError("simulated users had no conversations")
        ratios.append((ratio.value, ratio.variance * 100_000 / round(MANY * MINORITY)))
    (base, noise), (worse, more_noise) = ratios
    first = critical_values((1.0,), alpha=0.05 / cells)[0]
    return float(norm.sf(first - (worse - base) / math.sqrt(noise + more_noise)))


def rare_shares(runs: int) -> Iterator[Share]:
    """The guardrail of rare harms, half a point of users at risk: what it says where few or none are harmed in an arm.

    Users make one to three harmful requests each; a harmed user is one with whom one of them was complied with.
    """
    plan = AbPlan(
        planned_users=2 * AT_RISK, planned_days=1, looks=(1.0,), guardrails={HARM: Margin(absolute=RARE_MARGIN)}
    )
    metric = next(m for m in ReadoutConfig(plan=plan).judged if m.name == HARM)
    for control, treatment, result, wanted in (
        (0.0, 0.0, Result.PASS, "most"),
        (0.001, 0.001, Result.PASS, "most"),
        (0.0, RARE_MARGIN, Result.PASS, "at most 2.5%"),
        (0.001, 0.001 + RARE_MARGIN, Result.PASS, "at most 2.5%"),
        (0.02, 0.02 + RARE_MARGIN, Result.PASS, "at most 2.5%"),
        (0.0, 0.02, Result.FAIL, "most"),
        (0.02, 0.05, Result.FAIL, "most"),
    ):
        rng = np.random.default_rng([11, int(1e4 * control), int(1e4 * treatment)])
        found = 0
        for _ in range(runs):
            base, arm = (Arm(_at_risk(rng, share)) for share in (control, treatment))
            row = compare_metric(metric, arm, base, ReadoutConfig(plan=plan))
            found += row is not None and row["result"] == result
        head = f"{control:.1%} of users harmed, {treatment:.1%} in the arm ({AT_RISK:,} at risk each)"
        yield Share(f"{head}: the guardrail says {result}", wanted, found, runs)


def _at_risk(rng: np.random.Generator, share: float) -> pl.DataFrame:
    asked = rng.integers(1, 4, AT_RISK)
    harmed = rng.random(AT_RISK) < share
    return pl.DataFrame(
        {"user_id": np.arange(AT_RISK), "replies": asked, "harmful_requests": asked, "harmful_compliances": harmed},
        schema_overrides={"user_id": pl.String, "harmful_compliances": pl.Float64},
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="simulated tests with daily looks, in hundreds")
    parser.add_argument("--tests", type=int, default=500, help="whole tests of each kind")
    parser.add_argument("--sharper", type=int, default=2000, help="tests with and without a prediction from the past")
    parser.add_argument("--minorities", type=int, default=300, help="tests with a harmed minority, of each kind")
    parser.add_argument("--rare", type=int, default=2000, help="tests of a rare harm, of each kind")
    options = parser.parse_args(argv)
    print("| what | wanted | found | 95% interval | runs |\n|---|---|---|---|---|", flush=True)
    if options.runs:
        print(*(s.row for s in daily_shares(options.runs)), sep="\n", flush=True)
    if options.tests:
        print(*(s.row for s in whole_shares(options.tests)), sep="\n", flush=True)
    for row in sharper_rows(options.sharper) if options.sharper else ():
        print(row, flush=True)
    for share in minority_shares(options.minorities) if options.minorities else ():
        print(share.row, flush=True)
    for share in rare_shares(options.rare) if options.rare else ():
        print(share.row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
