"""Live A/B arms, past launches and the oracle: common random numbers, honest nulls, effects in the right direction."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.simulation import live, truth
from rluf_assets.simulation.config import LaunchesConfig, LiveTestConfig, OracleConfig
from rluf_assets.simulation.contexts import CONTEXT_SCHEMA, draw_contexts
from rluf_assets.simulation.grammar import render
from rluf_assets.simulation.launches import CONTROL, ab_counts, play_launches, true_love_rates, write_texts
from rluf_assets.simulation.oracle import auroc_with_interval, oracle_auroc
from rluf_assets.simulation.policies import DRAWS, LOGGING, PAST_POLICIES, ReplyPolicy, write
from rluf_assets.simulation.production import LAUNCH_STREAM, LIVE_STREAM, ORACLE_STREAM
from rluf_assets.simulation.reading import read_requests

CONFIG = LiveTestConfig(arm="baseline", contexts=800, exposed_users=20_000)


@pytest.fixture(scope="module")
def contexts() -> pl.DataFrame:
    return draw_contexts(CONFIG, 0, LIVE_STREAM)


def play(
    contexts: pl.DataFrame, policy: ReplyPolicy, config: LiveTestConfig = CONFIG
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """An arm whose candidate is a policy of the grammar; it cannot see who is about to leave."""
    _, topic = read_requests(contexts["prompt"])
    draws = np.random.default_rng(3).random((len(topic), DRAWS))
    replies = render(write(policy, topic, np.zeros(len(topic), dtype=bool), draws)).to_list()
    text = live.read_replies(contexts, replies)
    return live.true_rates(contexts, text), live.expose(contexts, text, config, 0, LIVE_STREAM)[0]


def test_contexts_oversample_harm_and_weigh_it_back(contexts: pl.DataFrame) -> None:
    assert contexts.schema == pl.Schema(CONTEXT_SCHEMA)
    assert len(contexts) == CONFIG.contexts
    shares = dict(contexts.group_by("use_case").agg(pl.len() / len(contexts)).iter_rows())
    assert shares["harmful_request"] == pytest.approx(0.15, abs=0.01)
    weights = contexts.group_by("use_case").agg(pl.col("weight").sum() / contexts["weight"].sum())
    assert dict(weights.iter_rows())["harmful_request"] == pytest.approx(0.06, abs=0.02)  # the share of traffic
    assert contexts["weight"].mean() == pytest.approx(1.0)
    assert (contexts["prompt"].list.len() == 2 * contexts["turn_index"].clip(upper_bound=9) + 1).all()
    assert (read_requests(contexts["prompt"])[1] >= 0).all()
    other = LiveTestConfig(arm="aggressive", contexts=800, exposed_users=20_000)
    assert draw_contexts(other, 0, LIVE_STREAM).equals(contexts)  # the candidate has no say
    assert not draw_contexts(other, 1, LIVE_STREAM).equals(contexts)


def test_the_same_policy_twice_makes_no_difference(contexts: pl.DataFrame) -> None:
    first, second = play(contexts, LOGGING), play(contexts, LOGGING, CONFIG.model_copy(update={"arm": "again"}))
    assert first[0].equals(second[0])
    assert first[1].drop("arm").equals(second[1].drop("arm"))
    assert first[1]["user_id"].is_unique().all()


def test_shown_replies_add_up_to_the_users(contexts: pl.DataFrame) -> None:
    _, topic = read_requests(contexts["prompt"])
    replies = render(
        write(LOGGING, topic, np.zeros(len(topic), dtype=bool), np.random.default_rng(3).random((len(topic), DRAWS)))
    )
    users, shown = live.expose(contexts, live.read_replies(contexts, replies.to_list()), CONFIG, 0, LIVE_STREAM)
    counts = [name for name in live.COUNTS if name != "conversations"]
    sums = shown.group_by("user_id").agg(
        pl.col(counts).cast(pl.Int64).sum(), pl.col("day").min(), last=pl.col("day").max()
    )
    joined = users.join(sums, on="user_id", suffix="_shown")
    assert len(joined) == len(users.filter(pl.col("replies") > 0))
    assert all((joined[name] == joined[f"{name}_shown"]).all() for name in counts)
    assert joined["day"].max() == 0
    assert joined["last"].max() == live.EXPOSURE_DAYS - 1
    assert set(shown["reply_id"]) <= set(contexts["context_id"])


def test_observed_loves_follow_the_true_rate(contexts: pl.DataFrame) -> None:
    rates, exposures = play(contexts, LOGGING)
    replies, loves = exposures["replies"].sum(), exposures["love"].sum()
    expected = live.mean_rates(rates)["love_rate"] * replies
    assert abs(loves - expected) < 4 * np.sqrt(2 * expected)
    assert exposures["pre_loves"].sum() > 0
    assert (exposures["replies"] >= exposures["conversations"]).all()


def test_unasked_farewells_win_no_love_and_end_conversations(contexts: pl.DataFrame) -> None:
    plain, farewells = play(contexts, LOGGING), play(contexts, replace(LOGGING, farewell_unasked=0.5))
    rates = live.mean_rates(plain[0]), live.mean_rates(farewells[0])
    assert rates[1]["farewell_rate"] > 0.4
    assert rates[1]["love_rate"] == pytest.approx(rates[0]["love_rate"], rel=1e-9)
    assert farewells[1]["early_endings"].sum() > 10 * (plain[1]["early_endings"].sum() + 1)
    assert farewells[1]["replies"].sum() < 0.8 * plain[1]["replies"].sum()
    assert farewells[1]["returned_next_day"].mean() < plain[1]["returned_next_day"].mean()


def test_better_policies_get_better_rates(contexts: pl.DataFrame) -> None:
    named = {policy.name: live.mean_rates(play(contexts, policy)[0]) for policy in (LOGGING, *PAST_POLICIES)}
    log = named["assistant-1.4"]
    assert named["more_helpful"]["helpful_rate"] > log["helpful_rate"] + 0.1
    assert named["more_refusing"]["false_refusal_rate"] > log["false_refusal_rate"] + 0.1
    assert named["more_refusing"]["harmful_compliance_rate"] < log["harmful_compliance_rate"]
    assert named["warmer"]["love_rate"] > log["love_rate"] > named["colder"]["love_rate"]
    assert named["warmer"]["helpful_rate"] == pytest.approx(log["helpful_rate"])


def test_past_launches_differ_as_a_companys_do() -> None:
    config = LaunchesConfig(users_per_arm=60_000, contexts=20_000)
    launches = play_launches(config, 0, LAUNCH_STREAM)
    assert launches.equals(play_launches(config, 0, LAUNCH_STREAM))
    assert len(launches) == len(PAST_POLICIES) == launches["policy"].n_unique() == 10
    assert launches["launched_at"].max() < datetime(2026, 1, 1, tzinfo=UTC)
    assert (launches["observed_change_ci_low"] < launches["observed_change"]).all()
    rates = true_love_rates([LOGGING, *PAST_POLICIES], 20_000, np.random.default_rng(0))
    change = np.array(rates[1:]) / rates[0] - 1
    assert -0.5 < change.min() < -0.3
    assert 0.15 < change.max() < 0.4
    assert np.abs(launches["observed_change"].to_numpy() - change).max() < 0.35
    covered = (launches["observed_change_ci_low"].to_numpy() < change) & (
        change < launches["observed_change_ci_high"].to_numpy()
    )
    assert covered.sum() >= 7


def test_the_interval_of_an_ab_test_covers_a_null() -> None:
    from rluf_assets.simulation.launches import _change

    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(60):
        _, low, high = _change(ab_counts(2e-3, 15_000, rng), ab_counts(2e-3, 15_000, rng))
        assert low is not None
        assert high is not None
        misses += not low < 0 < high
    assert misses <= 8


def test_past_policies_write_for_the_evaluation_prompts(contexts: pl.DataFrame) -> None:
    prompts = contexts.head(200).rename({"context_id": "prompt_id"})
    texts = write_texts(prompts, 0, LAUNCH_STREAM)
    assert len(texts) == 200 * 11
    assert set(texts["policy"]) == {CONTROL, *(policy.name for policy in PAST_POLICIES)}
    words = dict(texts.group_by("policy").agg(pl.col("completion").str.len_chars().mean()).iter_rows())
    assert words["wordier"] > words[CONTROL] > words["terse"]
    with pytest.raises(DataError, match="evaluation prompts"):
        write_texts(prompts.drop("prompt"), 0, LAUNCH_STREAM)


def test_weighted_auroc_matches_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    label = rng.random(3_000) < 0.2
    score = np.round(rng.normal(label * 0.8, 1.0), 1)  # with ties
    weight = rng.uniform(0.5, 3.0, 3_000)
    auroc, low, high = auroc_with_interval(score, label, weight)
    assert auroc == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    assert low < auroc < high
    assert 0.02 < high - low < 0.08


def test_the_oracle_on_a_holdout(contexts: pl.DataFrame) -> None:
    _, topic = read_requests(contexts["prompt"])
    rng = np.random.default_rng(0)
    many = contexts.sample(20_000, with_replacement=True, seed=0)
    turn, topic = read_requests(many["prompt"])
    happy = rng.random(len(many)) < truth.happy_probability(turn)
    completions = render(write(LOGGING, topic, happy, rng.random((len(many), DRAWS))))
    text = live.read_replies(many, completions.to_list())
    love = truth.expected_love(text, happy.astype(float))
    holdout = many.select("prompt", "turn_index").with_columns(
        completion=completions, label=rng.random(len(many)) < 20 * love, inclusion_probability=pl.lit(1.0)
    )
    found = oracle_auroc(holdout, OracleConfig(negatives=5_000), 0, ORACLE_STREAM)
    assert 0.72 < found["auroc"] < 0.88
    assert found["auroc_ci"][0] < found["auroc"] < found["auroc_ci"][1]
    assert found["rows"] == 5_000 + found["positives"]
    with pytest.raises(DataError, match="positives"):
        oracle_auroc(holdout.with_columns(label=pl.lit(False)), OracleConfig(), 0, ORACLE_STREAM)
