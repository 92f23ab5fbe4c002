"""The signal set: exact target rate, disjoint and later holdout, a funnel that adds up, rates that undo the sampling."""

from __future__ import annotations

import re
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.config import PromptsConfig, SignalSetConfig
from rluf_assets.feedback.contract import Validated
from rluf_assets.feedback.prompts import build_prompts
from rluf_assets.feedback.sampling import stable_uniform
from rluf_assets.feedback.signal_set import COLUMNS, SignalSet, build_signal_set
from rluf_assets.feedback.splits import _KEPT_OUT_SEED, evaluation_users
from tests.feedback.logs import START, clean_logs, validated


def _build(log: Validated, seed: int = 0, **settings: object) -> SignalSet:
    config = SignalSetConfig.model_validate({"holdout_days": 2, "min_positives": 1, **settings})
    return build_signal_set(log.replies.lazy(), log.messages.lazy(), config, seed=seed)


def _check(built: SignalSet, target: float | None = 0.1) -> pl.DataFrame:
    """What must hold of any signal set; gives the holdout."""
    train, holdout, funnel = built.train, built.holdout.collect(), built.funnel
    assert train.columns == holdout.columns == COLUMNS
    assert train.schema == holdout.schema
    assert not set(train["user_id"]) & set(holdout["user_id"])
    assert not set(train["conversation_id"]) & set(holdout["conversation_id"])
    if train.height and holdout.height and train["created_at"].null_count() == 0:
        assert train["created_at"].max() < holdout["created_at"].min()
    assert funnel["rows_out"].to_list() == (funnel["rows_in"] - funnel["dropped"]).to_list()
    assert funnel["rows_in"].to_list()[1:] == funnel["rows_out"].to_list()[:-1]
    assert funnel["rows_out"][-1] == train.height
    assert funnel.filter(pl.col("step") == "holdout")["dropped"].item() == holdout.height == built.rates["holdout_rows"]
    assert (funnel["dropped"] >= 0).all()
    # What the rows weigh is what was drawn: exactly the target, and exactly the log again, class by class.
    rates, weight = built.rates, train["sample_weight"]
    if target is not None:
        assert weight.filter(train["label"]).sum() * 1000 == pytest.approx(round(target * 1000) * weight.sum())
    stands_for = train.group_by("label").agg((pl.col("sample_weight") / pl.col("inclusion_probability")).sum())
    if rates["negatives"] == "uniform":
        there = {True: rates["eligible_positives"], False: rates["eligible_negatives"]}
        assert dict(stands_for.iter_rows()) == pytest.approx({side: n for side, n in there.items() if n})
    return holdout


@pytest.fixture(scope="module")
def log() -> Validated:
    messages, reactions = clean_logs(days=8, users_per_day=40, love_rate=0.02, seed=11)
    return validated(messages, reactions)


def test_target_rate_holdout_and_rates(log: Validated) -> None:
    built = _build(log)
    holdout = _check(built)
    rates, start = built.rates, START + timedelta(days=6)
    first_seen = log.replies.group_by("user_id").agg(pl.col("created_at").min())
    new = set(first_seen.filter(pl.col("created_at") >= start)["user_id"])
    natural = log.replies.filter(pl.col("user_id").is_in(new))
    of_new = holdout.filter(pl.col("user_group") == "new")
    assert set(of_new["message_id"]) == set(natural["message_id"])  # untouched: every row of every new user
    assert int(of_new["label"].sum()) == int(natural["label_love"].sum())
    established = holdout.filter(pl.col("user_group") == "established")
    assert established.height == rates["holdout_established_rows"] > 0
    kept_out = set(established["user_id"])
    theirs = log.replies.filter(pl.col("created_at") >= start, pl.col("user_id").is_in(list(kept_out)))
    assert set(established["message_id"]) == set(theirs["message_id"]) and not kept_out & new
    assert _build(log, established_share=0.0).rates["holdout_established_rows"] == 0
    # Who is kept out does not change with the seed: a model would meet them in its next training.
    other = _build(log, seed=9).holdout.filter(pl.col("user_group") == "established").collect()
    assert set(other["user_id"]) == kept_out
    dropped = dict(built.funnel.select("step", "dropped").iter_rows())
    earlier = log.replies.filter(pl.col("created_at") < start)
    left = earlier.filter(stable_uniform("user_id", _KEPT_OUT_SEED) >= 0.05)
    assert dropped["user_kept_out"] == earlier.height - left.height > 0
    assert rates["eligible_positives"] + rates["eligible_negatives"] == left.height
    earlier = left
    assert rates["base_rate"] == pytest.approx(earlier["label_love"].mean())
    assert rates["q_pos"] == 1.0 and 0 < rates["q_neg"] < 1
    odds = rates["train_positive_rate"] / (1 - rates["train_positive_rate"])
    live_odds = odds * rates["q_neg"] / rates["q_pos"]
    assert live_odds / (1 + live_odds) == pytest.approx(rates["base_rate"])
    assert dict(built.train.group_by("label").agg(pl.col("inclusion_probability").first()).iter_rows()) == {
        True: rates["q_pos"], False: rates["q_neg"],
    }  # fmt: skip
    assert set(built.train.filter("label")["message_id"]) == set(
        earlier.filter(pl.col("label_love") == 1)["message_id"]
    )
    assert all(prompt[-1]["role"] == "user" for prompt in built.train["prompt"])


def test_users_of_the_fixed_prompts_never_enter_a_later_set() -> None:
    """Prompts of the first days; the set is built again when ten more days are in, and their users have come back."""
    messages, reactions = clean_logs(days=16, users_per_day=12, love_rate=0.06, seed=21)
    log = validated(messages, reactions)
    early = log.replies.filter(pl.col("created_at") < START + timedelta(days=6))
    config = PromptsConfig(optimisation_prompts=20, evaluation_prompts=20, holdout_days=3)
    prompts = build_prompts(early.lazy(), log.messages.lazy(), config, seed=0)
    asked = evaluation_users(prompts)
    unaware = _build(log)
    assert len(set(unaware.train["user_id"]) & set(asked)) > 5
    settings = SignalSetConfig(holdout_days=2, established_share=0.3)
    built = build_signal_set(log.replies.lazy(), log.messages.lazy(), settings, seed=0, prompt_users=asked)
    holdout = _check(built)
    assert not (set(built.train["user_id"]) | set(holdout["user_id"])) & set(asked)
    assert dict(built.funnel.select("step", "dropped").iter_rows())["evaluation_prompt_user"] > 0
    # Built on the same days as the prompts, the set has their users in its holdout still.
    first = SignalSetConfig(holdout_days=3, established_share=0.0)
    same_days = build_signal_set(early.lazy(), log.messages.lazy(), first, seed=0, prompt_users=asked)
    assert set(asked) <= set(same_days.holdout.collect()["user_id"]) and not set(asked) & set(
        same_days.train["user_id"]
    )
    with pytest.raises(DataError, match=r"expected user_id among them.*Materialise evaluation_prompts again"):
        evaluation_users(prompts.drop("user_id"))


def test_texts_of_the_holdout_that_training_saw_are_marked() -> None:
    messages, reactions = clean_logs(days=6, love_rate=0.05, seed=15)
    stock = pl.col("turn_index") == 0
    same = messages.with_columns(content=pl.when(stock).then(pl.col("role")).otherwise("content"))
    log = validated(same, reactions, time="logged")
    holdout = _check(_build(log))
    repeated = holdout.filter("text_in_train")
    assert set(repeated["turn_index"]) == {0} and repeated.height == holdout.filter(stock).height > 0
    assert not holdout.filter(~stock)["text_in_train"].any()


def test_same_seed_same_rows_in_any_order_and_another_seed_others(log: Validated) -> None:
    shuffled = Validated(
        log.replies.sample(fraction=1, shuffle=True, seed=5), log.messages.sample(fraction=1, shuffle=True, seed=6),
        log.reactions, log.quarantine, log.accounting,
    )  # fmt: skip
    one, same, other = _build(log), _build(shuffled), _build(log, seed=1)
    assert one.train.equals(same.train) and one.holdout.collect().equals(same.holdout.collect())
    negatives = [set(built.train.filter(~pl.col("label"))["message_id"]) for built in (one, other)]
    assert negatives[0] != negatives[1]
    assert set(one.train.filter("label")["message_id"]) == set(other.train.filter("label")["message_id"])


def test_negatives_are_drawn_uniformly(log: Validated) -> None:
    candidates = log.replies.filter(pl.col("label_love") == 0, pl.col("created_at") < START + timedelta(days=6))
    drawn = [_build(log, seed=seed, established_share=0.0).train for seed in range(60)]
    times_drawn = pl.concat(drawn).filter(~pl.col("label"))
    by_turn = times_drawn.group_by("turn_index").len().join(candidates.group_by("turn_index").len(), on="turn_index")
    share = by_turn.select(pl.col("len") / pl.col("len_right") / 60).to_series()
    expected = times_drawn.height / 60 / candidates.height
    assert ((share / expected - 1).abs() < 0.12).all()


@pytest.mark.parametrize(("target", "kept"), [(0.1, True), (0.5, False)])
def test_a_signal_more_frequent_than_the_target_keeps_its_rate(target: float, kept: bool) -> None:
    messages, reactions = clean_logs(days=6, love_rate=0.3, seed=12)
    log = validated(messages, reactions)
    built = _build(log, target_positive_rate=target, duplicates="keep", user_cap=10_000)
    _check(built, None if kept else target)
    assert built.rates["natural_rate_kept"] is kept
    if kept:
        assert built.rates["q_pos"] == built.rates["q_neg"] == 1.0
        assert built.rates["train_positive_rate"] == pytest.approx(built.rates["base_rate"])


def test_too_few_positives_are_an_error_that_tells_what_became_of_the_replies() -> None:
    messages, reactions = clean_logs(days=5, users_per_day=40, seed=13)
    late = pl.col("reacted_at") > START + timedelta(days=3)
    few = pl.concat([reactions.filter(late), reactions.filter(~late, pl.col("signal") == "love").head(3)])
    hidden = (pl.col("role") == "assistant") & (pl.col("turn_index") == 1)
    log = validated(messages.with_columns(reactions_shown=pl.col("reactions_shown") & ~hidden), few)
    hidden_replies = log.replies.filter(pl.col("turn_index") == 1).height
    with pytest.raises(DataError, match=rf"2 positives and \d+ negatives.*at least 10.*{hidden_replies} not_offered"):
        _build(log, min_positives=10)
    lowered = _build(log, min_positives=2)
    _check(lowered)
    assert lowered.train["label"].sum() == 2


def test_adversarial_users_are_dropped_by_name() -> None:
    messages, reactions = clean_logs(days=6, love_rate=0.02, seed=14)
    busy = messages.filter(pl.col("role") == "assistant").group_by("user_id").len().filter(pl.col("len") >= 20)
    bot = busy.sort("len", "user_id")["user_id"][-1]
    mine = messages.filter(pl.col("user_id") == bot, pl.col("role") == "assistant")
    spam = mine.select(
        pl.format("bot-{}", "message_id").alias("reaction_id"), "message_id", "user_id", pl.lit("love").alias("signal"),
        pl.lit(1, pl.Int8).alias("value"), pl.col("created_at").alias("reacted_at"), pl.lit("api").alias("source"),
    )  # fmt: skip
    log = validated(messages, pl.concat([reactions, spam], how="diagonal").select(reactions.columns))
    built = _build(log)
    holdout = _check(built)
    assert built.funnel.filter(pl.col("step") == "adversarial_user")["dropped"].item() == mine.height
    assert bot not in set(built.train["user_id"]) | set(holdout["user_id"])
    assert bot in set(_build(log, adversarial={"min_shown": 10_000}).train["user_id"])


def test_caps_and_duplicates_are_counted() -> None:
    messages, reactions = clean_logs(days=6, love_rate=0.05, seed=15)
    same = messages.with_columns(content=pl.col("role"))  # every text alike
    log = validated(same, reactions, time="logged")
    capped = _build(log, user_cap=1, duplicates="keep")
    _check(capped)
    assert capped.train.group_by("user_id", "label").len()["len"].max() == 1
    per_user = _build(log, user_cap=10_000)
    _check(per_user)
    texts = ["user_id", "label", "use_case", pl.col("prompt").list.len(), "completion"]
    assert per_user.train.select(texts).is_unique().all()
    assert per_user.funnel.filter(pl.col("step") == "duplicate")["dropped"].item() > 0
    everywhere = _build(log, user_cap=10_000, duplicates="global", target_positive_rate=0.5)
    assert everywhere.train.select(texts[1:]).is_unique().all()


def test_row_limit_keeps_the_rate(log: Validated) -> None:
    built = _build(log, max_train_rows=95)
    _check(built)
    assert built.train.height == 90
    assert built.rates["q_pos"] < 1


def test_split_by_users_where_there_are_no_times() -> None:
    messages, reactions = clean_logs(days=6, love_rate=0.02, seed=16)
    no_time = pl.lit(None, pl.Datetime("us", "UTC"))
    log = validated(messages.with_columns(created_at=no_time), reactions.with_columns(reacted_at=no_time), time="none")
    built = _build(log, holdout_share=0.3)
    holdout = _check(built)
    share = holdout["user_id"].n_unique() / log.replies["user_id"].n_unique()
    assert 0.15 < share < 0.45
    assert built.rates["holdout_start"] is None


def test_pending_and_not_offered_rows_stay_out(log: Validated) -> None:
    messages, reactions = clean_logs(days=6, love_rate=0.02, seed=17)
    hide = (pl.col("role") == "assistant") & (pl.col("turn_index") == 1)
    messages = messages.with_columns(reactions_shown=pl.when(hide).then(pl.lit(False)).otherwise("reactions_shown"))
    log = validated(messages, reactions, as_of=START + timedelta(days=6))
    built = _build(log)
    holdout = _check(built)
    dropped = dict(built.funnel.select("step", "dropped").iter_rows())
    assert dropped["pending"] == log.accounting.pending > 0
    assert dropped["not_offered"] > 0
    assert 1 not in set(built.train["turn_index"]) | set(holdout["turn_index"])


def test_unknown_signal_and_too_long_a_holdout_name_what_there_is(log: Validated) -> None:
    with pytest.raises(ConfigError, match=r"signal 'luv'.*found \['love', 'thumbs_down'\]"):
        _build(log, signal="luv")
    with pytest.raises(ConfigError, match=r"holdout_days 8: the replies run from 2026-01-01 to 2026-01-08"):
        _build(log, holdout_days=8)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([0.005, 0.03, 0.2]), st.sampled_from([0.1, 0.2, 0.25]),
    st.sampled_from([1, 3, 50]), st.sampled_from(["per_user", "global", "keep"]), st.booleans(),
)  # fmt: skip
def test_splits_never_cross_and_the_rate_is_exact(
    seed: int, holdout_days: int, love_rate: float, target: float, cap: int, duplicates: str, mixed: bool
) -> None:
    messages, reactions = clean_logs(days=5, users_per_day=8, love_rate=love_rate, seed=seed)
    log = validated(messages, reactions)
    if mixed:  # an untidy log: one conversation of two users, on two sides of the split
        ids = log.replies["conversation_id"].unique().sort()
        swap = {ids[-1]: ids[0]}
        log = Validated(
            log.replies.with_columns(pl.col("conversation_id").replace(swap)),
            log.messages.with_columns(pl.col("conversation_id").replace(swap)),
            log.reactions, log.quarantine, log.accounting,
        )  # fmt: skip
    try:
        built = _build(
            log, seed=seed, holdout_days=holdout_days, target_positive_rate=target, user_cap=cap, duplicates=duplicates
        )
    except DataError as error:
        refused = str(error)
    else:
        _check(built, None if built.rates["natural_rate_kept"] else target)
        return
    # Small as the log is, it may have no positive to train on: then every reply is counted.
    told = re.search(r": 0 positives and (\d+) negatives to train on.* Of (\d+) replies the others are", refused)
    assert told
    others = map(int, re.findall(r"[:;] (\d+) [a-z_]+ \(", refused))
    assert int(told[2]) == log.replies.height == int(told[1]) + sum(others)
