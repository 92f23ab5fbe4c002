"""Near-duplicates against a brute-force reading; matched negatives with inclusion probabilities that undo them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import SignalSetConfig
from rluf_assets.feedback.contract import Validated
from rluf_assets.feedback.duplicates import first_alike
from rluf_assets.feedback.signal_set import SignalSet, build_signal_set
from tests.feedback.logs import clean_logs, validated

WORDS = [f"word{n}" for n in range(300)]


def _brute(texts: list[str], scope: list[int], threshold: float) -> list[int]:
    """The earliest row that each repeats, through its earliest like: row by row."""
    sets, first = [], list(range(len(texts)))
    for text in texts:
        words = text.lower().split()
        sets.append({tuple(words[n : n + 3]) for n in range(len(words) - 2)})
    for j in range(len(texts)):
        like = (
            i for i in range(j)
            if scope[i] == scope[j] and sets[i] and sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
        )  # fmt: skip
        first[j] = first[next(like, j)]
    return first


def test_near_duplicates_equal_brute_force_away_from_the_threshold() -> None:
    rng = random.Random(3)
    texts, scope = [], []
    for group in range(120):
        base = rng.choices(WORDS, k=40)
        for edits in (0, 0, 1, 15):  # same, same, one word of forty (Jaccard .85), a third of them (about .2)
            words = list(base)
            for place in rng.sample(range(40), edits):
                words[place] = rng.choice(WORDS)
            texts.append(" ".join(words).title())
            scope.append(group % 7)
    found = first_alike(pl.Series(texts), pl.Series(scope), 0.75)
    assert found.tolist() == _brute(texts, scope, 0.75)
    assert (found != np.arange(len(texts))).sum() >= 240
    alone = first_alike(pl.Series(texts), pl.Series(range(len(texts))), 0.75)
    assert alone.tolist() == list(range(len(texts)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab é🙂\n", max_size=12), max_size=8))
def test_near_duplicates_take_any_text(texts: list[str]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    found = first_alike(series, pl.Series([0] * len(texts), dtype=pl.Int64), 0.9)
    assert len(found) == len(texts) and (found <= np.arange(len(texts))).all()
    assert np.array_equal(found, found[found])  # what stands first repeats nothing


def _build(log: Validated, **values: object) -> SignalSet:
    config = SignalSetConfig.model_validate({"holdout_days": 2, **values})
    return build_signal_set(log.replies.lazy(), log.messages.lazy(), config, seed=0)


def test_near_repeats_of_one_user_become_one_row_and_are_named() -> None:
    messages, reactions = clean_logs(days=6, users_per_day=30, love_rate=0.05, seed=8)
    users = messages["user_id"].unique(maintain_order=True)[:8].to_list()
    long = " ".join(WORDS[:60])
    spam = pl.col("user_id").is_in(users) & (pl.col("role") == "assistant")
    spoiled = messages.with_columns(
        content=pl.when(spam)
        .then(pl.format("{} {}", pl.lit(long), pl.col("message_id").str.tail(3)))
        .otherwise("content")
    )
    log = validated(spoiled, reactions)
    with_step, without = _build(log), _build(log, near_duplicate=None)
    steps = dict(with_step.funnel.select("step", "dropped").iter_rows())
    assert steps["near_duplicate"] > 0 == dict(without.funnel.select("step", "dropped").iter_rows())["near_duplicate"]
    named = with_step.dropped.filter(pl.col("step") == "near_duplicate")["message_id"]
    about = log.replies.filter(pl.col("message_id").is_in(named.implode()))
    assert set(about["user_id"]) <= set(users)
    assert not set(with_step.dropped["message_id"]) & set(with_step.train["message_id"])
    for step, n in with_step.dropped["step"].value_counts().iter_rows():
        assert steps[step] == n


@pytest.fixture(scope="module")
def skewed() -> Validated:
    """Love falls only on one use case of three, and on later turns more than on first ones."""
    messages, reactions = clean_logs(days=8, users_per_day=60, love_rate=0.25, seed=12)
    about = messages.select("message_id", "use_case", "turn_index")
    rare = (pl.col("use_case") == "case0") & (
        (pl.col("turn_index") > 0) | (pl.col("message_id").str.contains("[02]-0-a"))
    )
    loved = reactions.join(about, on="message_id").filter(rare | (pl.col("signal") != "love"))
    few = loved.filter((pl.col("signal") != "love") | (pl.int_range(pl.len()) % 4 == 0)).select(reactions.columns)
    return validated(messages, few)


def test_matched_negatives_are_spread_as_positives_and_can_be_undone(skewed: Validated) -> None:
    matched, uniform = _build(skewed, negatives="matched"), _build(skewed)
    strata = ["use_case", "turn_index"]

    def spread(built: SignalSet, *, label: bool) -> dict[tuple[object, ...], float]:
        rows = built.train.filter(pl.col("label") == label)
        counts = rows.group_by(strata).len().rows()
        return {key: n / rows.height for *key_, n in counts for key in [tuple(key_)]}

    positives = spread(matched, label=True)
    negatives = spread(matched, label=False)
    one = 1 / matched.train.filter(~pl.col("label")).height
    assert set(positives) == set(negatives)
    assert all(abs(positives[key] - negatives[key]) <= one + 0.5 * 9 * one for key in positives)
    assert any(key[0] != "case0" for key in spread(uniform, label=False))
    assert matched.train["label"].mean() == uniform.train["label"].mean() == 0.1
    # Inverse probabilities give back exactly the negatives that were there, stratum by stratum.
    for name, facts in matched.rates["strata"].items():
        case, turn = name.split(" / turn ")
        drawn = matched.train.filter(~pl.col("label"), pl.col("use_case") == case, pl.col("turn_index") == int(turn))
        if drawn.height:
            assert (drawn["sample_weight"] / drawn["inclusion_probability"]).sum() == pytest.approx(facts["negatives"])
            assert facts["q_neg"] == drawn["inclusion_probability"][0]
    assert sum(facts["negatives"] for facts in matched.rates["strata"].values()) == matched.rates["eligible_negatives"]


def test_a_stratum_without_enough_negatives_leaves_its_share_to_the_others(skewed: Validated) -> None:
    built = _build(skewed, negatives="matched", target_positive_rate=0.04)
    weight = built.train["sample_weight"]
    assert weight.filter(built.train["label"]).sum() / weight.sum() == pytest.approx(0.04, abs=1e-12)
    q = [facts["q_neg"] for facts in built.rates["strata"].values() if facts["q_neg"] is not None]
    assert max(q) == 1.0  # used up
    for before, after in itertools.pairwise(built.funnel.rows()):
        assert before[3] == after[1]
