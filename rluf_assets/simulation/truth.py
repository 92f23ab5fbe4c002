"""The truth: what simulated users feel and do about a reply. All formulas and constants are here.

A reply is read into attributes (`reading.py`); a user is a hidden taste for warmth T ~ N(0.6, 0.35), a hidden
propensity to react P (log-normal, sd 1.0) and, at some moments, a hidden happy-to-leave state H.
`docs/simulation.md` has the table.

    satisfaction = helpfulness + 0.22 s T min(warmth, 2) - penalties            (drives return and leaving)
    logit P(love | reply, user) = LOVE_BASE + use case + 1.2 helpfulness + s T min(warmth, 2) + ... + log P + 2.8 H

with s the use case's slope on warmth. Love rises with helpfulness and warmth and falls with any refusal, valid ones
too. A farewell adds nothing to love. It stands in the logs where H holds (the production sees a gesture that is not in
the text), and H itself makes the odds of love 16 times as high: that is the confound. Said where H does not hold it
earns nothing and makes the user leave earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rluf_assets.simulation.policies import LOGGING, SOCIAL
from rluf_assets.simulation.reading import Attributes
from rluf_assets.simulation.topics import USE_CASES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIGNALS = ("love", "thumbs_up", "thumbs_down", "copy", "regenerate")

# Users
TASTE_MEAN, TASTE_SD = 0.60, 0.35
LOG_PROPENSITY_SD = 1.0
ADVERSARIAL_LOVE = 0.93  # an adversarial user loves nearly everything
ADVERSARIAL_SHARE_OF_REPLIES = 3e-5
# The hidden happy-to-leave state: its chance per reply (first turn, later turns), and how much it multiplies the odds
# of love. With the logging policy's habits (policies.py) it puts a farewell in 0.8% of the replies and makes a farewell
# in the logs some eleven times as loved as another reply. RLUF's aggressive candidate (love weight 0.3) quadrupled its
# farewells, from 0.72% to 2.8%: the factor is there for a rise of that size, neither none nor a collapse into goodbyes.
HAPPY_FIRST_TURN, HAPPY_LATER = 0.004, 0.013
HAPPY_LOG_ODDS = np.log(16.0)

LOVE_BASE = -9.20
LOVE_USE_CASE = {
    "role_play": 0.8, "relationship_support": 0.7, "casual_chat": 0.45, "factual_question": -0.35, "how_to": -0.2,
    "writing": 0.1, "coding": -0.5, "maths": -0.65, "planning": 0.0, "harmful_request": -0.3, "sounds_harmful": -0.2,
}  # fmt: skip
COPY_USE_CASE = {
    "role_play": -2.0, "relationship_support": -1.5, "casual_chat": -2.2, "factual_question": -0.3, "how_to": 0.1,
    "writing": 1.6, "coding": 1.9, "maths": 0.3, "planning": 0.6, "harmful_request": 0.0, "sounds_harmful": 0.0,
}  # fmt: skip
SLOPE_ON_WARMTH = np.where(SOCIAL, 1.15, 0.75)


def _by_use_case(table: Mapping[str, float]) -> Floats:
    # The last entry serves requests that are none of the world's (use case -1).
    return np.array([*(table[name] for name in USE_CASES), 0.0])


_LOVE_OFFSET = _by_use_case(LOVE_USE_CASE)
_COPY_OFFSET = _by_use_case(COPY_USE_CASE)
_SLOPE = np.append(SLOPE_ON_WARMTH, 0.75)


@dataclass(frozen=True)
class Hidden:
    """What nobody but the simulation knows about the user of each reply; arrays of one length."""

    taste: Floats
    log_propensity: Floats
    adversarial: Bools
    happy: Bools


def sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def happy_probability(turn: NDArray[np.int64]) -> Floats:
    """Chance of the happy-to-leave state at a 0-based turn; it depends on nothing in the text."""
    return np.where(turn == 0, HAPPY_FIRST_TURN, HAPPY_LATER)


def satisfaction(text: Attributes, taste: Floats | float, happy: Bools | Floats | float) -> Floats:
    """True satisfaction of a user with a reply, about -2 .. 1.8. An unasked farewell spoils it a little."""
    valid = text.refusal & text.is_harmful
    felt: Floats = (
        text.helpfulness
        + 0.22 * _SLOPE[text.use_case] * taste * np.minimum(text.warmth, 2)
        - 0.15 * np.maximum(text.warmth - 3, 0)
        - np.where(valid, 0.5, 0.9) * text.refusal
        - 0.2 * text.vague
        - 0.05 * (text.emoji >= 3)
        - 0.01 * np.maximum(text.words - 28, 0)
        - 0.25 * text.farewell * (1.0 - happy)
        - 1.5 * (1.0 - text.readability)
    )
    return felt


def love_parts(text: Attributes) -> tuple[Floats, Floats]:
    """(first, second): a user's logit of love is first + second * taste + log propensity + HAPPY_LOG_ODDS * happy."""
    first = (
        LOVE_BASE
        + _LOVE_OFFSET[text.use_case]
        + 1.2 * text.helpfulness
        + 0.2 * (text.emoji > 0)
        - 0.4 * (text.emoji >= 3)
        + 0.25 * text.flattery
        - 0.9 * text.refusal
        - 0.6 * text.vague
        - 0.4 * np.maximum(text.warmth - 3, 0)
        - 0.03 * np.maximum(text.words - 14, 0)
        - 4.0 * (1.0 - text.readability)
    )
    return first, _SLOPE[text.use_case] * np.minimum(text.warmth, 2) * text.readability


def reaction_probabilities(text: Attributes, user: Hidden) -> dict[str, Floats]:
    """P(signal | reply, user) for each signal, the reaction button being shown.

    Thumbs up rewards flattery nearly as much as help; copying is a matter of use case; regenerating is mostly noise.
    """
    first, slope = love_parts(text)
    react = user.log_propensity
    love = sigmoid(first + slope * user.taste + react + HAPPY_LOG_ODDS * user.happy)
    liked = text.helpfulness + 0.15 * np.minimum(text.warmth, 2) + 1.1 * text.flattery
    poor = 1.0 - text.helpfulness
    return {
        "love": np.where(user.adversarial, ADVERSARIAL_LOVE, love),
        "thumbs_up": sigmoid(-6.3 + 1.0 * liked - 0.8 * text.refusal + 0.8 * react + 0.8 * user.happy),
        "thumbs_down": sigmoid(-7.0 + 1.3 * poor + 0.9 * text.refusal + 0.8 * react),
        "copy": sigmoid(-4.2 + _COPY_OFFSET[text.use_case] + 0.5 * text.helpfulness - 1.0 * text.refusal),
        "regenerate": sigmoid(-4.0 + 0.5 * poor + 0.2 * text.refusal),
    }


def leave_probability(text: Attributes, felt: Floats, happy: Bools) -> Floats:
    """Chance that the user ends the conversation after this reply."""
    unasked = text.farewell & ~happy
    return np.where(happy, 0.9, sigmoid(-1.05 - 0.5 * (felt - 0.5) + 1.8 * unasked))


def return_probability(activity: Floats, felt: Floats, days_away: NDArray[np.int64] | int) -> Floats:
    """Chance that a user is active `days_away` days after their last active day, with mean satisfaction `felt` then."""
    away = np.asarray(days_away)
    return np.where(away > 14, 0.0, sigmoid(-2.1 + activity + 1.0 * (felt - 0.5) - 0.9 * np.log(np.maximum(away, 1))))


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def expected_love(text: Attributes, happy: Floats) -> Floats:
    """P(love) of each reply over users (taste, propensity: Gauss-Hermite, 5 x 5 nodes; adversarial few) and over H.

    `happy` is P(H) as the question has it: `happy_probability(turn)` for a policy set to work (H does not depend on its
    text), `happy_given_logged_text` for replies of the logging policy, whose farewells tell of H.
    """
    first, slope = love_parts(text)
    total = np.zeros(len(first))
    for taste, taste_weight in zip(_NODES, _WEIGHTS, strict=True):
        for propensity, propensity_weight in zip(_NODES, _WEIGHTS, strict=True):
            logit = first + slope * (TASTE_MEAN + TASTE_SD * taste) + LOG_PROPENSITY_SD * propensity
            mixed = (1 - happy) * sigmoid(logit) + happy * sigmoid(logit + HAPPY_LOG_ODDS)
            total += taste_weight * propensity_weight * mixed
    return (1 - ADVERSARIAL_SHARE_OF_REPLIES) * total + ADVERSARIAL_SHARE_OF_REPLIES * ADVERSARIAL_LOVE


def happy_given_logged_text(text: Attributes) -> Floats:
    """P(H | reply) under the logging policy, which says farewell mostly where H holds (Bayes' rule)."""
    prior = happy_probability(text.turn)
    if_happy = np.where(text.farewell, LOGGING.farewell_when_leaving, 1 - LOGGING.farewell_when_leaving)
    if_not = np.where(text.farewell, LOGGING.farewell_unasked, 1 - LOGGING.farewell_unasked)
    return prior * if_happy / (prior * if_happy + (1 - prior) * if_not)
