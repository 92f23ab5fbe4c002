"""How right off-policy estimates are, against the simulated production's truth: `python -m benchmarks.off_policy [--runs N]`.

Ten policies are read from one policy's logs, many times: bias, coverage and width of the doubly robust estimate, beside the
bias of its outcome model alone, which is wrong on purpose, and of taking the logs' own rate for the candidate's. Then a policy
that says what the logs hardly hold: how often it gets a number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.evaluation import Share
from rluf_assets.evaluation.off_policy import Measured
from rluf_assets.simulation.policies import PAST_POLICIES
from tests.simulation.test_off_policy_truth import GOODBYES, Played

PEOPLE = 2_500


def share(count: int, runs: int) -> str:
    found = Share("", "", count, runs)
    return f"{found.value:.1%} ({found.interval[0]:.1%} to {found.interval[1]:.1%})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args(argv).runs
    errors: dict[str, list[tuple[float, float, float, float, bool]]] = {policy.name: [] for policy in PAST_POLICIES}
    numbers, silent = 0, 0
    for seed in range(runs):
        played = Played.of(seed, PEOPLE)
        plain = float(played.rows.outcome.mean())
        for policy in PAST_POLICIES:
            reading, true, modelled = played.read(policy)
            if not isinstance(reading, Measured):
                silent += 1
                continue
            rate = reading.rate
            assert rate.value is not None
            assert rate.low is not None
            assert rate.high is not None
            held = rate.low <= true <= rate.high
            errors[policy.name].append(
                (rate.value / true - 1, modelled / true - 1, plain / true - 1, (rate.high - rate.low) / 2 / true, held)
            )
        numbers += isinstance(played.read(GOODBYES)[0], Measured)
        print(f"\r{seed + 1} of {runs}", end="", file=sys.stderr)
    print(
        "\n| policy | off-policy: bias | its outcome model alone | the logs' own rate | half width | coverage of 95% |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in errors.items():
        table = np.array(found)
        mean, spread = table[:, :4].mean(axis=0), 1.96 * table[:, 0].std() / np.sqrt(len(table))
        print(
            f"| {name} | {mean[0]:+.1%} (\u00b1 {spread:.1%}) | {mean[1]:+.0%} | {mean[2]:+.0%} | {mean[3]:.0%} | "
            f"{share(int(table[:, 4].sum()), len(table))} |"
        )
    everything = np.concatenate([np.array(found) for found in errors.values()])
    print(f"| all | {everything[:, 0].mean():+.1%} | | | | {share(int(everything[:, 4].sum()), len(everything))} |")
    print(f"\nNot enough overlap for one of the ten: {share(silent, silent + len(everything))}.")
    print(f"A number for the policy that says what the logs hardly hold: {share(numbers, runs)}.")


if __name__ == "__main__":
    main()
