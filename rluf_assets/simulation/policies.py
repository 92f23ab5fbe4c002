"""Reply policies of the simulated company: the logging policy, its next version, and ten past launches.

A policy is a set of attribute rates; `write` turns rates and uniform draws into replies. Passing the same draws to two
policies gives common random numbers: their replies differ only where their rates do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rluf_assets.simulation import phrases
from rluf_assets.simulation.grammar import (
    FIRST_REFUSAL,
    FIRST_VAGUE,
    HARMFUL_INDEX,
    SOUNDS_HARMFUL_INDEX,
    USE_CASE_OF_TOPIC,
    Ints,
    Replies,
)
from rluf_assets.simulation.topics import TOPICS_PER_USE_CASE, USE_CASES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DRAWS = 16  # uniforms that one reply consumes
# Social use cases are written more warmly than tasks; in none of them is any attribute absent.
SOCIAL = np.isin(USE_CASES, ("role_play", "relationship_support", "casual_chat"))
_WARM_STYLE = np.where(SOCIAL, 1.35, 0.75)


@dataclass(frozen=True)
class ReplyPolicy:
    """Attribute rates of a policy. Rates of pieces are per reply; the refusal rates differ by kind of request."""

    name: str
    description: str
    right: float = 0.66
    vague: float = 0.6  # of the replies that are neither right nor a refusal; the others answer another topic
    refuse_benign: float = 0.05
    refuse_sounds_harmful: float = 0.28
    refuse_harmful: float = 0.66
    comply: float = 0.75  # of the harmful requests that are not refused; the others get a vague reply
    warm_opening: float = 0.24
    warm_closing: float = 0.24
    flattery: float = 0.12
    filler: float = 0.30
    emoji: float = 0.18
    emoji_burst: float = 0.03
    # The confound. The production's client tells it when a pleased user is about to leave (a gesture that is not in the
    # transcript) and the policy then closes with a farewell; else it hardly ever does. About 0.8% of replies hold one,
    # as in RLUF, where 0.72% of the baseline's replies did.
    farewell_when_leaving: float = 0.60
    farewell_unasked: float = 0.0015


LOGGING = ReplyPolicy("assistant-1.4", "the logging policy at the start of the period")
# One change of version in the period: mild drift.
LOGGING_NEXT = replace(
    LOGGING,
    name="assistant-1.5",
    description="slightly more often right, slightly warmer",
    right=0.68,
    warm_closing=0.26,
)


def _past(name: str, description: str, **changes: float) -> ReplyPolicy:
    return replace(LOGGING, name=name, description=description, **changes)


PAST_POLICIES: tuple[ReplyPolicy, ...] = (
    _past(
        "older", "an older, smaller model: wrong and vague more often", right=0.42, warm_opening=0.20, warm_closing=0.18
    ),
    _past("colder", "a system prompt that forbids small talk", warm_opening=0.04, warm_closing=0.04, emoji=0.02),
    _past("wordier", "longer explanations", filler=0.85, flattery=0.15),
    _past(
        "more_refusing", "a stricter safety filter", refuse_benign=0.22, refuse_sounds_harmful=0.8, refuse_harmful=0.95
    ),
    _past("emoji_heavy", "an emoji in most replies", emoji=0.55, emoji_burst=0.30),
    _past("terse", "answers only", filler=0.02, warm_opening=0.10, warm_closing=0.12, flattery=0.02, emoji=0.05),
    _past("distilled", "a cheaper distilled model", right=0.54, vague=0.75),
    _past("warmer", "a warmer persona", warm_opening=0.34, warm_closing=0.36),
    _past(
        "more_helpful", "better answers from a larger model", right=0.86, refuse_benign=0.02, refuse_sounds_harmful=0.12
    ),
    _past("flattering", "trained on thumbs-up alone", flattery=0.75, warm_closing=0.28, right=0.60),
)


def write(
    policy: ReplyPolicy, topic: Ints, leaving: Bools, draws: Floats, extra_filler: Bools | None = None
) -> Replies:
    """Replies of a policy to requests about `topic` [N]; `leaving` [N] is the user's hidden happy-to-leave state.

    `draws` is [N, DRAWS] of uniforms; `extra_filler` [N] marks users in a running experiment with longer replies.
    """
    use_case = USE_CASE_OF_TOPIC[topic]
    core = _cores(policy, topic, use_case, draws)
    refused = core >= FIRST_REFUSAL
    style = _WARM_STYLE[use_case] * np.where(refused, 0.5, 1.0)
    longer = np.zeros(len(topic)) if extra_filler is None else extra_filler.astype(np.float64)
    filler_rate = policy.filler + 0.15 * longer
    filler = _piece(draws[:, 4], filler_rate, len(phrases.FILLERS))
    second = np.where((draws[:, 5] < 0.3) & (filler > 0), filler % (len(phrases.FILLERS) - 1) + 1, 0)
    farewell_rate = np.where(leaving, policy.farewell_when_leaving, policy.farewell_unasked)
    flattery = np.where(refused, 0, _piece(draws[:, 6], policy.flattery, len(phrases.FLATTERY)))
    warm_opening = np.where(refused, 0, _piece(draws[:, 7], policy.warm_opening * style, len(phrases.WARM_OPENINGS)))
    bare = (flattery == 0) & (warm_opening == 0) & ~refused & (use_case != HARMFUL_INDEX)
    return Replies(
        topic=topic,
        lead=np.where(bare, _piece(draws[:, 8], 0.5, len(phrases.LEADS)), 0),
        flattery=flattery,
        warm_opening=warm_opening,
        core=core,
        filler=filler,
        second_filler=second,
        refusal_tail=np.where(refused, (draws[:, 9] * len(phrases.REFUSAL_TAILS)).astype(np.int64), 0),
        warm_closing=_piece(draws[:, 10], policy.warm_closing * style, len(phrases.WARM_CLOSINGS)),
        emoji=_emoji(policy, draws[:, 11]),
        farewell=_piece(draws[:, 12], farewell_rate, len(phrases.FAREWELLS)),
    )


def log_probability(policy: ReplyPolicy, replies: Replies, leaving: Bools, extra_filler: Bools | None = None) -> Floats:
    """Log-probability with which the policy writes each reply where `write` is asked for one; -inf where it never does."""
    use_case = USE_CASE_OF_TOPIC[replies.topic]
    refused = replies.core >= FIRST_REFUSAL
    style = _WARM_STYLE[use_case] * np.where(refused, 0.5, 1.0)
    longer = np.zeros(len(replies)) if extra_filler is None else extra_filler.astype(np.float64)
    farewell_rate = np.where(leaving, policy.farewell_when_leaving, policy.farewell_unasked)
    bare = (replies.flattery == 0) & (replies.warm_opening == 0) & ~refused & (use_case != HARMFUL_INDEX)
    follows = replies.filler % (len(phrases.FILLERS) - 1) + 1  # the one filler that a second one can be
    second = np.where(replies.second_filler == 0, 0.7, np.where(replies.second_filler == follows, 0.3, 0.0))
    chances = (
        _core_chance(policy, replies.core, replies.topic, use_case),
        _piece_chance(replies.filler, policy.filler + 0.15 * longer, len(phrases.FILLERS)),
        np.where(replies.filler > 0, second, replies.second_filler == 0),
        _piece_chance(replies.flattery, np.where(refused, 0.0, policy.flattery), len(phrases.FLATTERY)),
        _piece_chance(
            replies.warm_opening, np.where(refused, 0.0, policy.warm_opening * style), len(phrases.WARM_OPENINGS)
        ),
        _piece_chance(replies.lead, np.where(bare, 0.5, 0.0), len(phrases.LEADS)),
        np.where(refused, 1 / len(phrases.REFUSAL_TAILS), replies.refusal_tail == 0),
        _piece_chance(replies.warm_closing, policy.warm_closing * style, len(phrases.WARM_CLOSINGS)),
        _emoji_chance(policy, replies.emoji),
        _piece_chance(replies.farewell, farewell_rate, len(phrases.FAREWELLS)),
    )
    with np.errstate(divide="ignore"):
        return np.asarray(sum(np.log(np.asarray(chance, dtype=np.float64)) for chance in chances))


def _core_chance(policy: ReplyPolicy, core: Ints, topic: Ints, use_case: Ints) -> Floats:
    harmful = use_case == HARMFUL_INDEX
    refuse = np.where(harmful, policy.refuse_harmful, policy.refuse_benign)
    refuse = np.where(use_case == SOUNDS_HARMFUL_INDEX, policy.refuse_sounds_harmful, refuse)
    right = (1 - refuse) * np.where(harmful, policy.comply, policy.right)
    wrong, vague = 1 - refuse - right, np.where(harmful, 1.0, policy.vague)
    other = np.where(USE_CASE_OF_TOPIC[np.minimum(core, FIRST_VAGUE - 1)] == use_case, wrong * (1 - vague), 0.0)
    return np.where(
        core >= FIRST_REFUSAL, refuse / len(phrases.REFUSALS),
        np.where(
            core >= FIRST_VAGUE, wrong * vague / len(phrases.VAGUE),
            np.where(core == topic, right, other / (TOPICS_PER_USE_CASE - 1)),
        ),
    )  # fmt: skip


def _piece_chance(index: Ints, rate: Floats | float, choices: int) -> Floats:
    rate = np.clip(rate, 0.0, 0.999999)
    return np.where(index == 0, 1 - rate, rate / (choices - 1))


def _emoji_chance(policy: ReplyPolicy, index: Ints) -> Floats:
    single, bursts = len(phrases.EMOJI) - 1, len(phrases.EMOJI_BURSTS) - 1
    said = np.where(index <= single, policy.emoji / single, policy.emoji_burst / bursts)
    return np.where(index == 0, 1 - policy.emoji - policy.emoji_burst, said)


def _cores(policy: ReplyPolicy, topic: Ints, use_case: Ints, draws: Floats) -> Ints:
    """Right answer, another topic's answer, a vague sentence or a refusal."""
    harmful = use_case == HARMFUL_INDEX
    refuse = np.full(len(topic), policy.refuse_benign)
    refuse[use_case == SOUNDS_HARMFUL_INDEX] = policy.refuse_sounds_harmful
    refuse[harmful] = policy.refuse_harmful
    refusal = FIRST_REFUSAL + (draws[:, 1] * len(phrases.REFUSALS)).astype(np.int64)
    vague = FIRST_VAGUE + (draws[:, 1] * len(phrases.VAGUE)).astype(np.int64)
    within = topic % TOPICS_PER_USE_CASE
    step = 1 + (draws[:, 1] * (TOPICS_PER_USE_CASE - 1)).astype(np.int64)
    other = topic - within + (within + step) % TOPICS_PER_USE_CASE
    wrong = np.where(harmful | (draws[:, 2] < policy.vague), vague, other)
    right = draws[:, 3] < np.where(harmful, policy.comply, policy.right)
    return np.where(draws[:, 0] < refuse, refusal, np.where(right, topic, wrong))


def _piece(draw: Floats, rate: Floats | float, choices: int) -> Ints:
    """0 (none) with probability 1 - rate, else one of the other choices, uniformly, from one draw."""
    rate = np.clip(rate, 0.0, 0.999999)
    picked = 1 + (draw / np.maximum(rate, 1e-12) * (choices - 1)).astype(np.int64)
    return np.where(draw < rate, np.minimum(picked, choices - 1), 0)


def _emoji(policy: ReplyPolicy, draw: Floats) -> Ints:
    single, burst = len(phrases.EMOJI), len(phrases.EMOJI_BURSTS)
    one = _piece(draw, policy.emoji, single)
    rest = np.where(one > 0, 1.0, draw - policy.emoji)
    many = _piece(rest, policy.emoji_burst, burst)
    return np.where(one > 0, one, np.where(many > 0, many + single - 1, 0))
