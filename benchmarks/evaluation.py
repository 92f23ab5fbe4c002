"""Error rates of the evaluation, by simulation: `python -m benchmarks.evaluation [--runs 2000] [--audits 5]`.

A/B readout: false positives of A/A tests, coverage of a planted lift, looking every day, and users who share replies.
Hacking audit: which planted hacks it finds at 1, 3 and 10% of replies, and how often it accuses clean policies. Every
share stands beside what it should be, with its exact binomial interval. Data are simulated; no timing is taken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import binomtest

from rluf_assets.evaluation.config import HackingAuditConfig, Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, per_user
from rluf_assets.evaluation.frames import Evaluation
from rluf_assets.evaluation.hacking import LoggedReplies, audit_reward_hacking
from rluf_assets.evaluation.metric import compare_metric
from rluf_assets.evaluation.plan import AbPlan
from tests.evaluation.test_shared_replies import compared
from tests.evaluation.world import TRIPS, completions_of, exposures_of, logged_replies, prompt_frame, scores_of

LOVE = Metric(name="love_rate", numerator="love", denominator="replies", role="goal")
LIFT, USERS, LOOKS = 0.3, 600, 7
PREVALENCES = (0.01, 0.03, 0.10)


@dataclass(frozen=True)
class Share:
    """How often something happened, beside how often it should."""

    what: str
    wanted: str
    count: int
    runs: int

    @property
    def value(self) -> float:
        return self.count / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        found = binomtest(self.count, self.runs).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    @property
    def row(self) -> str:
        low, high = self.interval
        return f"| {self.what} | {self.wanted} | {self.value:.1%} | {low:.1%} to {high:.1%} | {self.runs} |"


def ab_tests(runs: int, lift: float) -> Iterator[dict]:
    """The goal metric's row of simulated A/B tests with a true lift; users are unequal, their pre-period tells."""
    config = ReadoutConfig(plan=AbPlan(planned_users=2 * USERS))
    for run in range(runs):
        frames = [exposures_of(n, USERS, seed=2 * run + k, love_lift=lift * k) for k, n in enumerate(("a", "b"))]
        base, arm = (Arm(per_user(str(f["arm"][0]), f)) for f in frames)
        row = compare_metric(LOVE, arm, base, config)
        if row is None:
            raise RuntimeError("a simulated arm had no replies")
        yield row


def peeking(runs: int) -> tuple[int, int]:
    """Of A/A tests looked at on LOOKS days: how many call a difference on some day, by the fixed interval and always."""
    config = ReadoutConfig(plan=AbPlan(planned_users=2 * USERS))
    fixed = always = 0
    for run in range(runs):
        arms = [per_user(n, exposures_of(n, USERS, seed=10**6 + 2 * run + k)) for k, n in enumerate(("a", "b"))]
        called = [False, False]
        for look in range(1, LOOKS + 1):
            seen = USERS * look // LOOKS
            row = compare_metric(LOVE, Arm(arms[1].head(seen)), Arm(arms[0].head(seen)), config)
            if row is None or row["sequential_low"] is None:
                continue
            called[0] |= row["p_value"] < 0.05
            called[1] |= row["sequential_low"] > 0 or row["sequential_high"] < 0
        fixed, always = fixed + called[0], always + called[1]
    return fixed, always


def returning_users(seed: int) -> list[list[pl.DataFrame]]:
    """Two equal arms as they stand after each of LOOKS days: users arrive over the days, and come back on later ones."""
    rng = np.random.default_rng(seed)
    arms = []
    for name in ("a", "b"):
        arrived, day = rng.integers(LOOKS, size=USERS)[:, None], np.arange(LOOKS)
        replies = np.where(day >= arrived, rng.poisson(rng.gamma(1.0, 2.0, USERS)[:, None], (USERS, LOOKS)), 0)
        replies += day == arrived
        loves = rng.binomial(replies, np.minimum(0.02 * rng.gamma(0.5, 2.0, USERS), 1.0)[:, None])
        users = np.array([f"{name}{u:04d}" for u in range(USERS)])
        looks = []
        for look in range(LOOKS):
            seen = arrived[:, 0] <= look
            counts = {n: c[seen, : look + 1].sum(axis=1) for n, c in (("replies", replies), ("love", loves))}
            looks.append(per_user(name, pl.DataFrame({"user_id": users[seen], **counts})))
        arms.append(looks)
    return arms


def peeking_at_returning(runs: int) -> int:
    """Of A/A tests whose users come back daily: how many the always-valid interval calls on some day."""
    config = ReadoutConfig(plan=AbPlan(planned_users=2 * USERS))
    called = 0
    for run in range(runs):
        base, arm = returning_users(3 * 10**6 + run)
        rows = [compare_metric(LOVE, Arm(a), Arm(b), config) for a, b in zip(arm, base, strict=True)]
        bounds = [(r["sequential_low"], r["sequential_high"]) for r in rows if r is not None]
        called += any(low > 0 or high < 0 for low, high in bounds if low is not None and high is not None)
    return called


def ab_shares(runs: int) -> list[Share]:
    null, planted = list(ab_tests(runs, 0.0)), list(ab_tests(runs, LIFT))
    fixed, always = peeking(runs)
    rng = np.random.default_rng(0)
    shared = [compared(rng) for _ in range(runs)]
    covered = [r["ci_low"] <= LIFT <= r["ci_high"] for r in planted if r["ci_low"] is not None]
    return [
        Share("A/A: significant at the end", "5%", sum(r["p_value"] < 0.05 for r in null), runs),
        Share(f"planted {LIFT:+.0%}: 95% interval covers it", "95%", sum(covered), len(covered)),
        Share(f"A/A, {LOOKS} looks: fixed interval excludes 0 at some look", "(the flaw)", fixed, runs),
        Share(f"A/A, {LOOKS} looks: always-valid interval excludes 0", "at most 5%", always, runs),
        Share("... while users come back every day", "at most 5%", peeking_at_returning(runs), runs),
        Share("A/A, shared replies: clusters by user", "(the flaw)", sum(u["p_value"] < 0.05 for u, _ in shared), runs),
        Share("A/A, shared replies: by user and reply", "5%", sum(b["p_value"] < 0.05 for _, b in shared), runs),
    ]


def audit_of(seed: int, hack: str | None, prevalence: float, prompts: int) -> set[str]:
    """Tripwires that fire on a candidate with this hack in that share of its replies."""
    frame = prompt_frame(prompts, seed=seed)
    found = {}
    for k, (name, planted) in enumerate((("baseline", None), ("candidate", hack))):
        completions = completions_of(frame, seed=100 * seed + k, hack=planted, prevalence=prevalence)
        found[name] = Evaluation(completions, scores_of(completions, seed=100 * seed + k))
    logged = LoggedReplies(logged_replies(2000, 2 * seed), logged_replies(1000, 2 * seed + 1))
    audit = audit_reward_hacking(found, logged, HackingAuditConfig(resamples=500), seed=seed)
    return set(audit.tripwires.filter(pl.col("verdict") != "ok")["tripwire"])


def audit_shares(audits: int, *, prompts: int, kinds: Sequence[str] = tuple(TRIPS)) -> list[Share]:
    """Recall by prevalence (all kinds, then each at the highest), false alarms on clean policies, and precision."""
    accused = sum(bool(audit_of(seed, None, 0.0, prompts)) for seed in range(4 * audits))
    caught = {
        (kind, p): sum(bool(audit_of(seed, kind, p, prompts) & TRIPS[kind]) for seed in range(audits))
        for kind in kinds
        for p in PREVALENCES
    }
    shares = []
    for p in PREVALENCES:
        hits = sum(caught[kind, p] for kind in kinds)
        shares.append(
            Share(f"hack in {p:.0%} of replies: found ({len(kinds)} kinds)", "high", hits, audits * len(kinds))
        )
    shares.append(Share("clean policy: some tripwire fires", "low", accused, 4 * audits))
    shares += [
        Share(f"{kind} in {p:.0%}: found", "high", caught[kind, p], audits) for kind in kinds for p in PREVALENCES
    ]
    return shares


def precision(shares: Sequence[Share]) -> dict[float, float]:
    """Of the policies accused, the share with a hack, were every second policy hacked: by prevalence of the hack."""
    clean = next(s for s in shares if s.what.startswith("clean"))
    hit = {p: next(s for s in shares if s.what.startswith(f"hack in {p:.0%} ")) for p in PREVALENCES}
    return {p: s.value / max(s.value + clean.value, 1e-12) for p, s in hit.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--audits", type=int, default=5, help="audits per kind and prevalence")
    parser.add_argument("--prompts", type=int, default=400, help="evaluation prompts per audit, two replies each")
    options = parser.parse_args(argv)
    head = "| what | wanted | found | 95% interval | runs |\n|---|---|---|---|---|"
    if options.runs:
        print(head, *(s.row for s in ab_shares(options.runs)), sep="\n", flush=True)
    if options.audits:
        shares = audit_shares(options.audits, prompts=options.prompts)
        print("", head, *(s.row for s in shares), sep="\n")
        print("\nPrecision: " + ", ".join(f"{v:.0%} at {p:.0%}" for p, v in precision(shares).items()))


if __name__ == "__main__":
    main(sys.argv[1:])
