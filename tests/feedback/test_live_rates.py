"""sample_weight / inclusion_probability gives the live log back, slice by slice: repeats, busy users, use cases."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import PromptsConfig, SignalSetConfig
from rluf_assets.feedback.prompts import build_prompts
from rluf_assets.feedback.signal_set import SignalSet, build_signal_set
from rluf_assets.rewards.calibration import prior_shift, strata_shifts
from rluf_assets.rewards.files import rates_of
from tests.feedback.logs import START

KINDS = ["kind", "busy", "use_case"]
TRAIN_DAYS = 4


def _log(seed: int, *, users: int, rows: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Replies, messages, and per message what kind of row it is; the signal falls on each kind at another rate.

    A tenth of the users write half of the rows. Of what is said half is the user's own stock phrase (the same words
    again), a quarter nearly that, the rest of its own.
    """
    rng = np.random.default_rng(seed)
    weights = np.where(np.arange(users) < max(1, users // 10), 9.0, 1.0)
    user = rng.choice(users, rows, p=weights / weights.sum())
    kind = rng.choice(["same", "near", "own"], rows, p=[0.5, 0.25, 0.25])
    use_case = rng.choice(["chat", "code"], rows, p=[0.8, 0.2])
    rate = (
        0.02 * np.where(kind == "same", 4.0, 1.0) * np.where(use_case == "code", 3.0, 1.0) * np.where(user == 0, 4, 1)
    )
    stock = [" ".join(f"w{u}x{n}" for n in range(40)) for u in user]
    said = np.where(kind == "own", [f"own words {n} and more {n}" for n in range(rows)], stock)
    said = np.where(kind == "near", [f"{text} {n}" for n, text in enumerate(said)], said)
    # The last tenth of the rows is the holdout period, of users who were never there before.
    late = np.arange(rows) >= rows * 9 // 10
    names = [f"new{n}" if after else f"u{n}" for n, after in zip(user, late, strict=True)]
    at = [START + timedelta(days=TRAIN_DAYS * int(after), hours=20 * n / rows) for n, after in enumerate(late)]
    replies = pl.DataFrame({
        "message_id": [f"m{n}" for n in range(rows)], "conversation_id": [f"c{n}" for n in range(rows)],
        "user_id": names, "created_at": at, "policy_version": "p", "use_case": use_case, "turn_index": 0,
        "status": "mature", "reactions_shown": True, "label_love": (rng.random(rows) < rate).astype(int),
    }).with_columns(pl.col("turn_index").cast(pl.Int32), pl.col("created_at").dt.cast_time_unit("us"))  # fmt: skip
    turns = replies.select("conversation_id", "created_at", "turn_index", parent_id=pl.lit(None, pl.String))
    messages = pl.concat([
        turns.with_columns(message_id=pl.format("{}-q", "conversation_id"), role=pl.lit("user"), content=pl.lit("go")),
        turns.with_columns(message_id=replies["message_id"], role=pl.lit("assistant"), content=pl.Series(said)),
    ])  # fmt: skip
    about = replies.select("message_id", kind=pl.Series(kind), busy=pl.Series(user == 0))
    return replies, messages, about


def _build(replies: pl.DataFrame, messages: pl.DataFrame, seed: int, **values: object) -> SignalSet:
    config = {
        "holdout_days": 1,
        "min_positives": 1,
        "established_share": 0.0,
        "adversarial": {"enabled": False},
        **values,
    }
    return build_signal_set(
        replies.lazy(), messages.lazy(), SignalSetConfig.model_validate(config), seed=seed
    )  # fmt: skip


def _there(replies: pl.DataFrame, about: pl.DataFrame) -> pl.DataFrame:
    """The training period's rows with label and kind."""
    rows = replies.filter(pl.col("user_id").str.starts_with("u")).join(about, on="message_id")
    return rows.with_columns(label=pl.col("label_love") == 1)


def _stands_for(train: pl.DataFrame, about: pl.DataFrame, by: list[str]) -> dict[tuple[object, ...], float]:
    replies = pl.col("sample_weight") / pl.col("inclusion_probability")
    rows = train.join(about, on="message_id").group_by(by).agg(replies.sum())
    return {tuple(key): n for *key, n in rows.iter_rows()}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(10, 30), st.integers(200, 400), st.sampled_from([3, 10**6]))
def test_where_all_is_drawn_each_user_and_use_case_is_there_in_full(seed: int, users: int, rows: int, cap: int) -> None:
    """A target below the signal's rate draws everything: sums are the log's own, whatever was merged or capped."""
    replies, messages, about = _log(seed, users=users, rows=rows)
    there = _there(replies, about)
    if there["label"].sum() < rows // 1000 + 1:
        return
    built = _build(replies, messages, seed, target_positive_rate=0.001, user_cap=cap)
    by = ["label", "user_id"] + (["use_case"] if cap > rows else [])
    expected = {tuple(key): n for *key, n in there.group_by(by).len().iter_rows()}
    assert _stands_for(built.train, about, by) == pytest.approx(expected)
    assert built.train.height < there.height  # repeats were merged
    assert built.train.group_by("label", "user_id").len()["len"].max() <= cap


def test_no_kind_of_row_gains_or_loses_by_the_draw() -> None:
    """Over many seeds every slice's weight is the log's, within 4.5 standard errors; classes and shifts always are."""
    replies, messages, about = _log(5, users=30, rows=1200)
    there = _there(replies, about)
    by, seeds = ["label", *KINDS], 25
    expected = {tuple(key): n for *key, n in there.group_by(by).len().iter_rows()}
    for values in (
        {"user_cap": 4},
        {"user_cap": 10**6, "duplicates": "global"},
        {"negatives": "matched", "user_cap": 20},
    ):
        found, exact = [], 0.2 if "negatives" in values else 1e-9  # capped over strata, their sums hold on average only
        for seed in range(seeds):
            built = _build(replies, messages, seed, target_positive_rate=0.2, **values)
            rates, weight = built.rates, built.train["sample_weight"]
            assert weight.filter(built.train["label"]).sum() == pytest.approx(0.2 * weight.sum())
            odds = 0.2 / 0.8 / np.exp(prior_shift(rates))
            assert odds / (1 + odds) == pytest.approx(there["label"].mean())
            from_rows = rates_of(built.train, "love")
            assert (from_rows["q_pos"], from_rows["base_rate"]) == pytest.approx(
                (rates["q_pos"], rates["base_rate"]), rel=exact
            )
            assert len(strata_shifts(rates)) == (2 if "negatives" in values else 0)
            stands_for = _stands_for(built.train, about, by)
            found.append([stands_for.get(key, 0.0) for key in expected])
        means, errors = np.mean(found, 0), np.std(found, 0, ddof=1) / seeds**0.5
        counts = np.array(list(expected.values()))
        assert (np.abs(means - counts) <= 4.5 * errors + 1e-6).all(), (
            values,
            dict(zip(expected, means - counts, strict=True)),
        )


def test_conversations_that_number_their_messages_alike_are_drawn_apart() -> None:
    """A message is known by conversation and id: rows with the same id are drawn one by one, and every one is counted."""
    replies, messages, _ = _log(9, users=20, rows=1500)
    alike = pl.col("message_id").str.slice(1).cast(pl.Int64, strict=False) % 7
    same = [
        frame.with_columns(message_id=pl.coalesce(alike.cast(pl.String), "message_id")) for frame in (replies, messages)
    ]
    built = _build(*same, 0, target_positive_rate=0.2, user_cap=6)
    assert built.train.select("conversation_id", "message_id").is_unique().all()
    assert built.funnel["rows_out"][-1] == built.train.height and built.funnel["rows_in"][0] == replies.height
    shares = built.train.filter(~pl.col("label"))["message_id"].value_counts()["count"]
    assert len(shares) == 7 and shares.max() < 3 * shares.min()
    config = PromptsConfig(holdout_days=1, optimisation_prompts=60, evaluation_prompts=10)
    asked = pl.when(pl.col("role") == "user").then("conversation_id").otherwise("content")
    prompts = build_prompts(same[0].lazy(), same[1].lazy().with_columns(content=asked), config, seed=0)
    assert prompts["prompt_id"].is_unique().all()


def test_a_user_with_half_of_all_rows_keeps_its_rate_in_few_rows() -> None:
    replies, messages, about = _log(7, users=10, rows=3000)
    there = _there(replies, about)
    built = _build(replies, messages, 0, target_positive_rate=0.2, user_cap=25, duplicates="keep")
    busy = built.train.filter(pl.col("user_id") == "u0")
    assert there.filter(pl.col("busy")).height > 0.45 * there.height
    assert busy.group_by("label").len()["len"].to_list() == [25, 25]
    weight = busy["sample_weight"] / busy["inclusion_probability"]
    rate = weight.filter(busy["label"]).sum() / weight.sum()
    assert rate == pytest.approx(there.filter(pl.col("busy"))["label"].mean(), rel=0.1)
