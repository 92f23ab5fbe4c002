"""Stable numbers, exact rates, caps, and context windows against a plain-Python reading of the same rules."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.chat import Message
from rluf_assets.feedback.sampling import exact_counts, stable_uniform, thinned, uniforms
from rluf_assets.feedback.schemas import MESSAGES
from rluf_assets.feedback.windows import ConversationPool, prompt_keys
from tests.feedback.logs import START, clean_logs, validated


def test_numbers_come_from_id_and_seed_alone() -> None:
    ids = pl.Series("message_id", [f"m{i}" for i in range(1000)] + ["", "é🎉", "a much longer id than all the others"])
    all_at_once = uniforms(ids, 7)
    one_by_one = [uniforms(ids[i : i + 1], 7)[0] for i in range(0, len(ids), 37)]
    assert all_at_once[::37].tolist() == one_by_one
    assert not np.isclose(all_at_once, uniforms(ids, 8)).any()
    lazily = ids.to_frame().lazy().select(stable_uniform("message_id", 7)).collect(engine="streaming").to_series()
    assert lazily.to_list() == all_at_once.tolist()
    # Pinned: another value would redraw every signal set ever made.
    assert uniforms(pl.Series(["m1"]), 0)[0] == pytest.approx(PINNED, abs=1e-15)


PINNED = 0.4543882230841777


def test_numbers_are_uniform_and_prefixes_unrelated() -> None:
    drawn = uniforms(pl.Series([f"conversation-{i:08d}-a" for i in range(100_000)]), 3)
    counts = np.histogram(drawn, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 86  # chi-square, 49 degrees of freedom, p = .001
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.015


@given(
    st.integers(0, 5000),
    st.integers(0, 50_000),
    st.sampled_from([0.1, 0.15, 0.25, 1 / 3, 0.5]),
    st.integers(10, 99_999),
)
def test_counts_meet_the_target_exactly_and_are_as_large_as_can_be(p: int, n: int, target: float, limit: int) -> None:
    share = Fraction(target).limit_denominator(1000)
    ones, zeros = exact_counts(p, n, target, limit)
    assert 0 <= ones <= p and 0 <= zeros <= n and ones + zeros <= limit
    assert ones * share.denominator == share.numerator * (ones + zeros)
    more = ones + share.numerator, zeros + share.denominator - share.numerator
    assert more[0] > p or more[1] > n or sum(more) > limit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 8), st.integers(0, 10**6))
def test_thinning_keeps_each_weight_on_average_and_the_sum_always(sizes: list[int], n: int, seed: int) -> None:
    weights = np.array(sizes, np.float64)
    order = np.random.default_rng(seed).permutation(len(sizes)).astype(np.float64)
    # Over evenly spaced starts the mean is exact up to one start at each end of each row's stretch.
    starts = (np.arange(400) + 0.5) / 400
    found = np.array([thinned(weights, order, n, start) for start in starts])
    assert ((found > 0).sum(1) == min(n, len(sizes))).all()
    assert found.sum(1) == pytest.approx(weights.sum())
    assert np.abs(found.mean(0) - weights).max() <= 2 * found.max() / 400


def _plain_prompt(messages: list[dict], reply: dict, ctx_turns: int) -> list[Message]:
    """What the prompt of a reply is, read message by message: all that came before it, cut at whole turns."""
    of_it = [m for m in messages if m["conversation_id"] == reply["conversation_id"]]
    head = [m for m in of_it if m["role"] == "system"][:1]
    before = [m for m in of_it if m["role"] != "system" and m["created_at"] < reply["created_at"]]
    turns: list[list[dict]] = []
    for nth, message in enumerate(before):
        if message["role"] == "user" and (nth == 0 or before[nth - 1]["role"] != "user"):
            turns.append([])
        turns[-1].append(message)
    return [{"role": m["role"], "content": m["content"]} for m in (*head, *(m for t in turns[-ctx_turns:] for m in t))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.lists(st.integers(0, 10**6), max_size=12))
def test_contexts_are_the_last_whole_turns_and_never_later(seed: int, ctx_turns: int, lost: list[int]) -> None:
    messages, _ = clean_logs(users_per_day=4, seed=seed, max_turns=14)
    system = {"conversation_id": messages["conversation_id"][0], "message_id": "sys", "turn_index": 0, "role": "system",
              "content": "be kind", "user_id": messages["user_id"][0], "created_at": START - timedelta(1)}  # fmt: skip
    rows = [system, *messages.to_dicts()]
    replies = [row for row in rows if row["role"] == "assistant"]
    gone = {replies[i % len(replies)]["message_id"] for i in lost}  # replies in the quarantine leave holes
    rows = [row for row in rows if row["message_id"] not in gone]
    frame = pl.DataFrame(rows, schema=dict(MESSAGES))
    selected = frame.filter(pl.col("role") == "assistant").select(
        "message_id", "conversation_id", "turn_index", "created_at"
    )
    found = ConversationPool(
        selected["conversation_id"], frame.sample(fraction=1, shuffle=True, seed=1).lazy()
    ).contexts(selected, ctx_turns)
    for row in found.to_dicts():
        reply = next(r for r in rows if r["message_id"] == row["message_id"])
        assert row["prompt"] == _plain_prompt(rows, reply, ctx_turns)
        assert row["completion"] == reply["content"]
        texts = {m["content"] for m in row["prompt"]}
        assert not any(r["content"] in texts for r in rows if r["created_at"] > reply["created_at"])


def test_a_reply_regenerated_later_does_not_leak_into_an_earlier_prompt() -> None:
    shared = {"conversation_id": "c", "user_id": "u"}
    rows = [
        shared | {"message_id": "q0", "turn_index": 0, "role": "user", "content": "one?", "created_at": START},
        shared | {"message_id": "a1", "turn_index": 1, "role": "assistant", "content": "two!", "created_at": START},
        shared | {"message_id": "q1", "turn_index": 1, "role": "user", "content": "two?", "created_at": START},
        shared
        | {
            "message_id": "a0",
            "turn_index": 0,
            "role": "assistant",
            "content": "later",
            "created_at": START + timedelta(1),
        },
    ]
    frame = pl.DataFrame(rows, schema=dict(MESSAGES))
    selected = frame.filter(pl.col("message_id") == "a1")
    found = ConversationPool(selected["conversation_id"], frame.lazy()).contexts(selected, 10)
    assert found["prompt"].to_list() == [[{"role": "user", "content": text} for text in ("one?", "two?")]]


def test_equal_prompts_have_equal_keys_and_others_do_not() -> None:
    messages, reactions = clean_logs(seed=1)
    same = messages.with_columns(content=pl.lit("hello"))
    accepted = validated(same, reactions).messages
    replies = accepted.filter(pl.col("role") == "assistant")
    found = ConversationPool(replies["conversation_id"], accepted.lazy()).contexts(replies, 10)
    found = found.with_columns(prompt_keys(found["prompt"]))
    assert found.group_by("prompt_key").agg(pl.col("turn_index").n_unique())["turn_index"].max() == 1
    assert found["prompt_key"].n_unique() == found["turn_index"].n_unique()
