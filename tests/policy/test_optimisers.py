"""CRRAFT, RAFT, CRPG and CODPO on hand-computed examples, and the lazy search against filter-then-argmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rluf_assets.policy import codpo, crpg, crraft, raft
from rluf_assets.policy.batch import BASELINE, Batch, Example, Reply

KL_MAX = 10.0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def batch(
    reward: list[list[float]],
    passed: list[list[bool]] | None = None,
    log_ratio: list[list[float]] | None = None,
    baseline_reward: list[float] | None = None,
    baseline_passed: list[bool] | None = None,
    baseline_ratio: list[float] | None = None,
    slow: list[list[bool]] | None = None,
    asked: list[Reply] | None = None,
) -> Batch:
    rewards = np.array(reward, dtype=float)
    prompts = len(rewards)
    ratios = np.zeros(rewards.shape) if log_ratio is None else np.array(log_ratio, dtype=float)
    baseline_ratios = baseline_ratio or [0.0] * prompts

    def ratio(replies: Sequence[Reply]) -> np.ndarray:
        if asked is not None:
            asked.extend(replies)
        return np.array([baseline_ratios[r.prompt] if r.completion == BASELINE else ratios[r] for r in replies])

    def costly(replies: Sequence[Reply]) -> np.ndarray:
        if slow is None:
            return np.ones(len(replies), dtype=bool)
        return np.array([r.completion == BASELINE or slow[r.prompt][r.completion] for r in replies])

    return Batch(
        reward=rewards,
        passed=np.ones(rewards.shape, dtype=bool) if passed is None else np.array(passed),
        baseline_reward=np.array(baseline_reward or [0.0] * prompts),
        baseline_passed=np.array(baseline_passed if baseline_passed is not None else [True] * prompts),
        kl_max=KL_MAX,
        log_ratio=ratio,
        costly=costly,
    )


class TestCrraft:
    def test_by_hand(self) -> None:
        """Prompt 0: best reply fails a judge, next leaves the KL bound; 1: ordinary; 2: no survivor, fallback; 3: skip."""
        selection = crraft.select(
            batch(
                reward=[[4, 3, 2, 1], [0, 5, 1, 2], [1, 1, 1, 1], [9, 9, 9, 9]],
                passed=[[False, True, True, True], [True] * 4, [False] * 4, [False] * 4],
                log_ratio=[[0, 10.01, 10.0, 0], [0, -3, 0, 0], [0] * 4, [0] * 4],
                baseline_reward=[1.5, 6, 0, 0],
                baseline_passed=[True, True, True, False],
            )
        )
        assert selection.examples == [
            Example(Reply(0, 2), pytest.approx(sigmoid(0.5))),
            Example(Reply(1, 1), pytest.approx(sigmoid(-1))),
            Example(Reply(2, BASELINE), 0.5),
        ]
        assert [outcome.split(":")[0] for outcome in selection.outcome] == [
            "selected",
            "selected",
            "fallback",
            "skipped",
        ]

    def test_negative_rewards_do_not_let_a_violating_reply_win(self) -> None:
        selection = crraft.select(batch([[-5, -1, -3]], [[True, False, True]], baseline_reward=[-3.0]))
        assert selection.examples == [Example(Reply(0, 2), 0.5)]

    def test_all_tied_takes_the_first_survivor(self) -> None:
        selection = crraft.select(batch([[2, 2, 2]], [[False, True, True]], baseline_reward=[2.0]))
        assert selection.examples == [Example(Reply(0, 1), 0.5)]

    def test_all_violating_falls_back_on_the_baseline_reply_only_if_that_is_within_the_kl_bound(self) -> None:
        beyond = batch([[1.0, 2.0]], [[False, False]], baseline_ratio=[KL_MAX + 0.1])
        assert crraft.select(beyond).examples == []
        assert crraft.select(batch([[1.0, 2.0]], [[False, False]])).examples == [Example(Reply(0, BASELINE), 0.5)]

    def test_slow_judges_are_constraints_too(self) -> None:
        selection = crraft.select(batch([[3, 2, 1]], slow=[[False, False, True]], baseline_reward=[1.0]))
        assert selection.examples == [Example(Reply(0, 2), 0.5)]

    def test_replies_are_tested_in_descending_order_until_one_passes(self) -> None:
        asked: list[Reply] = []
        crraft.select(batch([[1, 3, 2], [5, 4, 6]], log_ratio=[[0, 99, 0], [0, 0, 0]], asked=asked))
        assert asked == [Reply(0, 1), Reply(1, 2), Reply(0, 2)]

    def test_weights_are_divided_by_the_rows_that_count(self) -> None:
        np.testing.assert_allclose(crraft.mean_weights(np.array([0.5, 0.0, 0.9])), [0.25, 0.0, 0.45])
        assert crraft.mean_weights(np.zeros(2)).tolist() == [0.0, 0.0]

    @settings(deadline=None, max_examples=200)
    @given(data=st.data(), shape=st.tuples(st.integers(1, 6), st.integers(1, 5)))
    def test_lazy_search_equals_filter_then_argmax(self, data: st.DataObject, shape: tuple[int, int]) -> None:
        reward = data.draw(hnp.arrays(float, shape, elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])))
        eligible = data.draw(hnp.arrays(bool, shape))
        passes = data.draw(hnp.arrays(bool, shape))
        tested: list[Reply] = []

        def test(replies: Sequence[Reply]) -> np.ndarray:
            tested.extend(replies)
            return np.array([passes[reply] for reply in replies])

        found = crraft.first_passing(reward, eligible, test)
        np.testing.assert_array_equal(found, crraft.best_survivor(reward, eligible & passes))
        assert len(tested) == len(set(tested)) <= eligible.sum()


def test_raft_takes_the_best_reply_whatever_the_judges_say() -> None:
    selection = raft.select(
        batch([[1, 4, 2], [-1, -3, -2]], [[True, False, True], [False] * 3], [[0, 99, 0], [99] * 3])
    )
    assert selection.examples == [Example(Reply(0, 1), 1.0), Example(Reply(1, 0), 1.0)]


class TestCrpg:
    def test_by_hand(self) -> None:
        selection = crpg.select(batch([[2, 1], [0, 3]], [[True, False], [True, True]], [[5, 0], [0, 12]], [0, 1]))
        reward = np.array([[0.5 * sigmoid(2), 0], [sigmoid(-1), 0]])  # half of the KL room used; none left for the last
        expected = (reward - reward.mean()).ravel()
        assert [example.reply for example in selection.examples] == [Reply(0, 0), Reply(0, 1), Reply(1, 0), Reply(1, 1)]
        np.testing.assert_allclose([example.weight for example in selection.examples], expected)

    def test_all_violating_is_skipped(self) -> None:
        selection = crpg.select(batch([[2, 1]], [[False, False]]))
        assert selection.examples == []
        assert selection.outcome[0].startswith("skipped")

    def test_log_ratio_is_asked_for_only_where_judges_pass(self) -> None:
        asked: list[Reply] = []
        crpg.select(batch([[2, 1, 0]], [[False, True, False]], asked=asked))
        assert asked == [Reply(0, 1)]


class TestCodpo:
    def test_pairs_by_hand(self) -> None:
        selection = codpo.select(
            batch(
                reward=[[-4, -1, -2, -3], [1, 2, 3, 0], [1, 2, 3, 4], [5, 5, 5, 5]],
                passed=[[True, False, True, False], [True] * 4, [False] * 4, [True] * 4],
            )
        )
        assert selection.examples == [
            Example(Reply(0, 2), 1.0, "winner"),
            Example(Reply(0, 3), 1.0, "loser"),
            Example(Reply(1, 2), 1.0, "winner"),
            Example(Reply(1, 3), 1.0, "loser"),
        ]
        assert [outcome.split(":")[0] for outcome in selection.outcome] == ["selected"] * 2 + ["skipped"] * 2

    def test_loss_by_hand(self) -> None:
        loss = codpo.loss(
            torch.tensor([-4.0]),
            torch.tensor([-6.0]),
            torch.tensor([-5.0]),
            torch.tensor([-5.0]),
            torch.tensor([8.0]),
            beta=0.5,
            nll_weight=2.0,
        )
        assert loss.item() == pytest.approx(-(math.log(sigmoid(0.5 * 2)) + 2.0 * -4.0 / 8.0))
