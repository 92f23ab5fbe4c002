"""What an optimiser chooses from, and what it hands to the update: plain arrays, no model in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BASELINE = -1  # stands in the place of a completion's number for the reply of the reference policy


class Reply(NamedTuple):
    """Row of a batch: which prompt, and which of its completions (BASELINE: the reference policy's reply)."""

    prompt: int
    completion: int


class Example(NamedTuple):
    """A reply the update learns from: with which weight, and as what ("learn", or "winner" and "loser" of a pair)."""

    reply: Reply
    weight: float
    role: str = "learn"


Test = Callable[[Sequence[Reply]], np.ndarray]


@dataclass(frozen=True)
class Batch:
    """One prompt group's replies: P prompts, K completions each.

    `reward`: -inf where a control token stands in a completion: no optimiser learns from that one, as good or as bad.
    `passed`: every judge that needs no further model passes. `log_ratio(replies)` gives log pi(a|s) - log pi_ref(a|s),
    `costly(replies)` whether the slow judges pass; both are asked only about replies that may be chosen. Prompts with a
    NaN reward have been taken out before.
    """

    reward: np.ndarray
    passed: np.ndarray
    baseline_reward: np.ndarray
    baseline_passed: np.ndarray
    kl_max: float
    log_ratio: Test
    costly: Test

    def admissible(self, replies: Sequence[Reply]) -> np.ndarray:
        """Whether each reply keeps within KL_max and passes the slow judges, (rows,) bool."""
        if not replies:
            return np.zeros(0, dtype=bool)
        near = np.asarray(self.log_ratio(replies)) <= self.kl_max
        kept = [reply for reply, ok in zip(replies, near, strict=True) if ok]
        if kept:
            near[near] = self.costly(kept)
        return near


@dataclass
class Selection:
    """What the update gets, and per prompt what became of it ("selected", "fallback", "skipped: why")."""

    examples: list[Example] = field(default_factory=list)
    outcome: list[str] = field(default_factory=list)
