"""The truth: it reads any text, follows its own story, and the farewell is confounded but causes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rluf_assets.chat import Message
from rluf_assets.simulation import truth, users
from rluf_assets.simulation.grammar import CORES, N_TOPICS, render, render_requests
from rluf_assets.simulation.lexicon import WARM
from rluf_assets.simulation.oracle import auroc_with_interval
from rluf_assets.simulation.reading import Attributes, read
from rluf_assets.simulation.topics import REQUESTS, TOPICS, USE_CASES
from rluf_assets.simulation.traffic import Turns

Week = tuple[users.Population, Turns]

ASK = "how do I bake bread?"
RIGHT = "Mix flour and yeast, let it rise and bake the bread."


def reading_of(request: str, *texts: str | None) -> Attributes:
    prompt = [Message(role="user", content=request)]
    return read([prompt] * len(texts), list(texts))  # type: ignore[arg-type]


def love_of(text: Attributes) -> np.ndarray:
    return truth.expected_love(text, truth.happy_probability(text.turn))


def test_reading_the_logging_policys_text_gives_back_its_latent_attributes(week: Week) -> None:
    turns = week[1]
    texts = render(turns.replies)
    asked = render_requests(turns.replies.topic, turns.template, turns.follow_up, turns.request_tail)
    rows = np.random.default_rng(0).choice(len(turns), 20_000, replace=False)
    got = read([[Message(role="user", content=asked[int(row)])] for row in rows], texts.gather(rows))
    made = turns.attributes
    for name in Attributes.__dataclass_fields__:
        if name != "turn":
            agree = (getattr(got, name) == getattr(made, name)[rows]).mean()
            assert agree == 1.0 if name != "helpfulness" else agree > 0.998, name


def test_every_request_is_recognised_and_every_answer_helps_its_own_topic_only() -> None:
    prompts = [[Message(role="user", content=request)] for request in REQUESTS]
    answers = [TOPICS[number // 4].answer for number in range(len(REQUESTS))]
    right = read(prompts, answers)
    assert (right.topic == np.arange(len(REQUESTS)) // 4).all()
    assert right.helpful.all()
    assert (right.compliance == right.is_harmful).all()
    shifted = read(prompts, answers[32:] + answers[:32])  # an answer from another use case
    assert not shifted.helpful.any()
    assert pl.Series(CORES[:N_TOPICS]).str.to_lowercase().str.count_matches(WARM).sum() == 0


@pytest.mark.parametrize(
    "garbage",
    ["", "   ", "asdf qwer zxcv poiu", "the the the the the the", "bread " * 200, "😊😊😊😊", "\x00\ufffd" * 30,
     "?!.,;", None, "1 2 3", "You are amazing! " * 8],
)  # fmt: skip
def test_garbage_is_neither_helpful_nor_loved(garbage: str | None) -> None:
    text = reading_of(ASK, RIGHT, garbage)
    assert text.helpful.tolist() == [True, False]
    love = love_of(text)
    assert love[1] < 0.15 * love[0]
    assert truth.satisfaction(text, truth.TASTE_MEAN, 0.0)[1] < 0


def test_free_english_is_read_too() -> None:
    text = reading_of(
        ASK,
        "You need flour and yeast. Let the dough rise for an hour, then bake it.",
        "Mix flour and yeast, let it rise and",  # cut off
        "I’m sorry, but I won't be able to help with that.",
        "As an assistant I cannot provide this.",
        "I can't wait to help you with this!",
        f"{RIGHT} Goodbye, and see you tomorrow!",
        f"You've got this, my dear friend! {RIGHT}",
    )
    assert text.helpful.tolist() == [True, False, False, False, False, True, True]
    assert text.refusal.tolist() == [False, False, True, True, False, False, False]
    assert text.farewell.tolist() == [False, False, False, False, False, True, False]
    assert text.warmth.tolist() == [0, 0, 0, 0, 0, 0, 2]
    assert 0 < text.helpfulness[1] < 1


def test_the_last_user_message_decides_and_null_or_foreign_prompts_do_no_harm() -> None:
    before = [Message(role="user", content="how do I boil an egg?"), Message(role="assistant", content="Sure.")]
    text = read([[*before, Message(role="user", content=ASK)], [Message(role="user", content="zzz")], []], [RIGHT] * 3)
    assert text.turn.tolist() == [1, 0, 0]
    assert text.helpful.tolist() == [True, False, False]
    assert text.use_case.tolist()[1:] == [-1, -1]
    assert np.isfinite(love_of(text)).all()
    as_series = read(pl.Series([[*before, Message(role="user", content=ASK)]]), pl.Series([RIGHT]))
    assert as_series.turn.tolist() == [1]
    assert as_series.helpful.tolist() == [True]


def test_love_rises_with_help_and_warmth_and_falls_with_every_refusal() -> None:
    refusal = "I'm sorry, but I can't help with that."
    plain, warm, vague, refused = love_of(
        reading_of(ASK, RIGHT, f"{RIGHT} You are wonderful!", "Well, it is hard to say.", refusal)
    )
    assert warm > 1.4 * plain > 1.4 * vague > 1.4 * refused
    harmful = next(topic for topic in TOPICS if topic.use_case == "harmful_request")
    complied, refused = love_of(reading_of(f"how do I {harmful.ask}?", harmful.answer, refusal))
    assert refused < 0.6 * complied  # valid refusals are unloved too: the paper's tension with safety


def test_rates_of_a_week(week: Week) -> None:
    population, turns = week
    text = turns.attributes
    chances = truth.reaction_probabilities(text, population.hidden(turns.user, turns.happy))
    assert 8e-4 < chances["love"].mean() < 1.25e-3
    # Every attribute occurs in every use case, so that best-of-N has something to choose from.
    for number, name in enumerate(USE_CASES):
        here = text.use_case == number
        for attribute in ("helpful", "refusal", "vague", "farewell", "flattery"):
            low = 1e-3 if attribute == "farewell" else 0.02
            assert low < getattr(text, attribute)[here].mean() < 0.95, (name, attribute)
        for level in range(3):
            assert (text.warmth[here] == level).mean() > 0.01, (name, level)


def test_the_oracle_tells_love_from_text_about_as_well_as_wanted(week: Week) -> None:
    population, turns = week
    text = turns.attributes
    love = truth.reaction_probabilities(text, population.hidden(turns.user, turns.happy))["love"]
    score = truth.expected_love(text, truth.happy_given_logged_text(text))
    # Every reply stands for a positive with weight P(love) and a negative with the rest.
    both = np.concatenate([score, score])
    label = np.repeat([True, False], len(score))
    auroc = auroc_with_interval(both, label, np.concatenate([love, 1 - love]))[0]
    length = auroc_with_interval(np.tile(text.words.astype(float), 2), label, np.concatenate([love, 1 - love]))[0]
    assert 0.75 < auroc < 0.82
    assert length < 0.62
    assert abs(score.mean() / love.mean() - 1) < 0.15  # calibrated up to who happened to talk


def test_farewells_go_with_love_in_the_logs_and_cause_none(week: Week) -> None:
    population, turns = week
    text = turns.attributes
    love = truth.reaction_probabilities(text, population.hidden(turns.user, turns.happy))["love"]
    said = text.farewell
    assert 6 < love[said].mean() / love[~said].mean() < 18
    mute = replace(turns.replies, farewell=np.zeros_like(turns.replies.farewell))
    silent = replace(turns, replies=mute).attributes
    same = truth.reaction_probabilities(silent, population.hidden(turns.user, turns.happy))["love"]
    np.testing.assert_allclose(love, same)  # taking every farewell away changes nothing
    unasked = said & ~turns.happy
    assert unasked.sum() > 50
    stay = replace(silent, farewell=np.zeros_like(said))
    felt = truth.satisfaction(text, 0.6, turns.happy), truth.satisfaction(stay, 0.6, turns.happy)
    leave = [truth.leave_probability(t, f, turns.happy) for t, f in zip((text, stay), felt, strict=True)]
    assert (leave[0] - leave[1])[unasked].min() > 0.2  # and, unasked, it makes users leave earlier
    assert (felt[0] < felt[1])[unasked].all()


def test_expected_love_is_the_mean_over_sampled_users() -> None:
    text = reading_of(ASK, RIGHT, f"{RIGHT} You are wonderful! I believe in you!", "Well, it is hard to say.")
    rng = np.random.default_rng(0)
    draws = 400_000
    for row in range(3):
        one = Attributes(
            **{name: np.repeat(getattr(text, name)[row], draws) for name in Attributes.__dataclass_fields__}
        )
        happy = rng.random(draws) < truth.happy_probability(one.turn)
        hidden = truth.Hidden(
            rng.normal(truth.TASTE_MEAN, truth.TASTE_SD, draws),
            rng.normal(0, truth.LOG_PROPENSITY_SD, draws),
            rng.random(draws) < truth.ADVERSARIAL_SHARE_OF_REPLIES,
            happy,
        )
        sampled = truth.reaction_probabilities(one, hidden)["love"].mean()
        assert love_of(text)[row] == pytest.approx(sampled, rel=0.06)


def test_satisfied_users_come_back(week: Week) -> None:
    felt = np.array([0.0, 0.5, 1.0])
    chance = truth.return_probability(np.zeros(3), felt, 1)
    assert (np.diff(chance) > 0.03).all()
    assert truth.return_probability(np.zeros(1), felt[:1], 15)[0] == 0
    population = week[0]
    active_last = population.last_active == 6
    earlier = (population.last_active < 6) & (population.last_active >= 0)
    assert population.felt[active_last].mean() > population.felt[earlier].mean()


def test_some_signals_mislead(week: Week) -> None:
    population, turns = week
    text = turns.attributes
    chances = truth.reaction_probabilities(text, population.hidden(turns.user, turns.happy))
    purity = {name: np.corrcoef(chance, turns.felt)[0, 1] for name, chance in chances.items()}
    assert purity["love"] > 0.05
    assert purity["thumbs_down"] < 0
    by_use_case = [chances["copy"][text.use_case == number].mean() for number in range(len(USE_CASES))]
    assert max(by_use_case) > 20 * min(by_use_case)  # copying tells what was asked for, not how it was liked
    flattered = chances["thumbs_up"][text.flattery].mean() / chances["thumbs_up"][~text.flattery].mean()
    assert flattered > 2 * chances["love"][text.flattery].mean() / chances["love"][~text.flattery].mean()
