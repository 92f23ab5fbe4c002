"""The population: who arrives, who comes back, and how users differ (hidden taste, propensity, activity)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rluf_assets.simulation import truth
from rluf_assets.simulation.truth import Bools, Floats

LOCALES = ("en-US", "en-GB", "en-IN")
# Adversarial users arrive on every 24th day from the first on: one, or more where many users arrive. Their number is
# fixed, because a handful of them more or less would move the love rate of a small log.
ADVERSARIAL_EVERY_DAYS, USERS_PER_ADVERSARIAL = 24, 50_000
ARM_SHARES = (0.9, 0.05, 0.05)  # of users: in no experiment, in the control arm, in the treatment arm
# They spend one busy day (some thirty replies) and seldom come back, so that a small log is not ruled by one of them.
ADVERSARIAL_CONVERSATIONS, ADVERSARIAL_ACTIVITY = 7, -2.5
NEW_USERS_PER_REPLY = 0.081  # keeps traffic near `replies_per_day`, given return_probability
BURN_IN_DAYS = 60
ACTIVITY_SD = 0.8


@dataclass
class Population:
    """State of every user seen so far; arrays of one length, grown as users arrive."""

    user_id: list[str]
    taste: Floats
    log_propensity: Floats
    activity: Floats
    adversarial: Bools
    locale: NDArray[np.int64]
    in_experiment: NDArray[np.int64]  # 0 not, 1 control, 2 treatment
    felt: Floats  # mean satisfaction on the last active day
    last_active: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.taste)

    def hidden(self, user: NDArray[np.int64], happy: Bools) -> truth.Hidden:
        return truth.Hidden(self.taste[user], self.log_propensity[user], self.adversarial[user], happy)


def draw_users(count: int, day: int, rng: np.random.Generator, salt: str) -> Population:
    """`count` users who arrive on `day` (not yet active). No adversarial ones arrive before day 0."""
    adversarial = np.zeros(count, dtype=bool)
    if day >= 0 and day % ADVERSARIAL_EVERY_DAYS == 0:
        adversarial[: 1 + count // USERS_PER_ADVERSARIAL] = True
    return Population(
        user_id=[hashlib.blake2b(f"{salt}/{day}/{i}".encode(), digest_size=8).hexdigest() for i in range(count)],
        taste=rng.normal(truth.TASTE_MEAN, truth.TASTE_SD, count),
        log_propensity=rng.normal(0.0, truth.LOG_PROPENSITY_SD, count),
        activity=np.where(adversarial, ADVERSARIAL_ACTIVITY, rng.normal(0.0, ACTIVITY_SD, count)),
        adversarial=adversarial,
        locale=rng.choice(len(LOCALES), count, p=(0.6, 0.25, 0.15)),
        in_experiment=rng.choice(3, count, p=ARM_SHARES),
        felt=np.full(count, 0.5),
        last_active=np.full(count, day),
    )


def join(first: Population, second: Population) -> Population:
    """Both populations, in order."""
    arrays = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in Population.__dataclass_fields__
        if name != "user_id"
    }
    return Population(user_id=first.user_id + second.user_id, **arrays)


def new_users(replies_per_day: int, rng: np.random.Generator) -> int:
    return max(1, int(rng.poisson(NEW_USERS_PER_REPLY * replies_per_day)))


def initial_population(replies_per_day: int, rng: np.random.Generator, salt: str) -> Population:
    """Users from before the log period: arrivals and returns of the last months, without conversations."""
    population = draw_users(0, -1, rng, salt)
    for day in range(-BURN_IN_DAYS, 0):
        active = returning(population, day, rng)
        population.felt[active] = rng.normal(0.55, 0.4, len(active))
        population.last_active[active] = day
        population = join(population, draw_users(new_users(replies_per_day, rng), day, rng, salt))
    recent = np.flatnonzero(population.last_active >= -14)
    return _take(population, recent)


def returning(population: Population, day: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Users of earlier days who are active today."""
    chance = truth.return_probability(population.activity, population.felt, day - population.last_active)
    return np.flatnonzero(rng.random(len(population)) < chance)


def conversations_today(population: Population, user: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """How many conversations each active user holds: heavy-tailed, and many for the adversarial."""
    extra = np.minimum(rng.poisson(0.35 * np.exp(0.7 * population.activity[user])), 8)
    return np.asarray(1 + extra + ADVERSARIAL_CONVERSATIONS * population.adversarial[user], dtype=np.int64)


def _take(population: Population, rows: NDArray[np.int64]) -> Population:
    arrays = {name: getattr(population, name)[rows] for name in Population.__dataclass_fields__ if name != "user_id"}
    return Population(user_id=[population.user_id[row] for row in rows], **arrays)
