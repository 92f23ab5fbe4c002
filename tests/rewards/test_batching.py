"""Batches keep the token budget, show every unit once per epoch, and agree between ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.rewards.batching import StepSampler, budget_batches, collate, make_unit, plan_epochs


def units_of(lengths, per_unit=1, share=True):
    rng = np.random.default_rng(0)
    return [
        make_unit([rng.integers(3, 9, n).astype(np.int32) for _ in range(per_unit)], [i], share)
        for i, n in enumerate(lengths)
    ]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=120), st.integers(20, 400), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_every_unit_stands_in_exactly_one_part_of_one_step(lengths, batch_tokens, parts):
    options = {"batch_tokens": batch_tokens, "seed": 1, "epochs": 1}
    (plan,) = plan_epochs(units_of(lengths), parts=parts, **options)
    seen = np.concatenate([part for step in plan for part in step])
    assert sorted(seen.tolist()) == list(range(len(lengths)))
    (alone,) = plan_epochs(units_of(lengths), parts=1, **options)
    assert [sorted(np.concatenate(step)) for step in plan] == [sorted(step[0]) for step in alone]
    assert all(len(part) for step in plan for part in step if sum(map(len, step)) >= parts)


def test_steps_keep_the_budget_and_waste_little_padding():
    lengths = np.random.default_rng(2).integers(20, 200, 2000)
    (plan,) = plan_epochs(units_of(lengths), batch_tokens=4096, parts=1, seed=3, epochs=1)
    padded = [len(step[0]) * lengths[step[0]].max() for step in plan]
    assert max(padded) <= 4096
    assert sum(padded) < 1.12 * lengths.sum()


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 3)), min_size=1, max_size=150),
    st.integers(20, 2000),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 3),
)
@settings(max_examples=50, deadline=None)
def test_no_micro_batch_and_no_step_outgrows_its_budget_in_any_epoch_at_any_number_of_ranks(
    units, batch_tokens, divisor, ranks, epochs
):
    units = [
        make_unit([np.arange(3, 3 + length, dtype=np.int32)] * rows, [i] * rows, share=False)
        for i, (length, rows) in enumerate(units)
    ]
    micro = max(1, batch_tokens // divisor)

    def padded(batch):
        return sum(len(units[i].trees) for i in batch) * max(units[i].longest for i in batch)

    samplers = [
        StepSampler(units, batch_tokens=batch_tokens, micro_tokens=micro, rank=rank, ranks=ranks, seed=3, epochs=epochs)
        for rank in range(ranks)
    ]
    for epoch in range(epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        batches = [list(sampler) for sampler in samplers]
        assert {len(share) for share in batches} == {len(samplers[0])}
        assert sorted(i for share in batches for batch in share for i in batch) == list(range(len(units)))
        assert all(len(batch) <= 1 or padded(batch) <= micro for share in batches for batch in share)
        rounds = samplers[0].rounds
        for start in range(0, len(batches[0]), rounds):
            step = [batch for share in batches for batch in share[start : start + rounds] if batch]
            assert step, "an empty step would divide by nothing"
            assert sum(map(padded, step)) <= batch_tokens or sum(map(len, step)) == 1


@pytest.mark.parametrize(("ranks", "rounds"), [(2, 1), (4, 1), (2, 2)])
def test_ranks_share_each_step_of_the_single_process_plan(ranks, rounds):
    units = units_of(np.random.default_rng(4).integers(5, 90, 300))
    options = {"batch_tokens": 1000, "micro_tokens": -(-1000 // (ranks * rounds)), "seed": 5, "epochs": 2}

    def batches(rank, ranks, rounds):
        sampler = StepSampler(units, rank=rank, ranks=ranks, **options)
        assert sampler.rounds == rounds
        sampler.set_epoch(1)
        return list(sampler)

    shares = [batches(rank, ranks, rounds) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    rows = sorted(i for share in shares for batch in share for i in batch)
    assert rows == list(range(300))
    assert shares == [batches(rank, ranks, rounds) for rank in range(ranks)]
    # The same number of parts, dealt otherwise, makes the same steps: 1 x 4 = 2 x 2 = 4 x 1.
    parts = ranks * rounds
    alone = batches(0, 1, parts)
    for step in range(len(alone) // parts):
        mine = sorted(i for batch in alone[step * parts : (step + 1) * parts] for i in batch)
        theirs = [share[step * rounds : (step + 1) * rounds] for share in shares]
        assert mine == sorted(i for share in theirs for batch in share for i in batch)


def test_epochs_differ_and_have_equally_many_steps():
    units = units_of(np.random.default_rng(6).integers(5, 90, 200))
    sampler = StepSampler(units, batch_tokens=700, rank=0, ranks=1, seed=7, epochs=3)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert len(epochs[-1]) == len(sampler)
        assert sorted(i for batch in epochs[-1] for i in batch) == list(range(200))
    assert epochs[0] != epochs[1]


def test_collate_pads_right_and_points_at_end_tokens():
    units = units_of([4, 7, 2])
    batch = collate(units, pad_id=0)
    assert batch["input_ids"].shape == (3, 7)
    assert "subtree_ends" not in batch
    assert batch["ends"].tolist() == [3, 6, 1]
    assert (batch["input_ids"][0, 4:] == 0).all()


def test_empty_part_gives_a_batch_without_examples():
    batch = collate([], pad_id=0)
    assert batch["input_ids"].shape == (1, 1)
    assert batch["ends"].numel() == batch["rows"].numel() == 0


def test_scoring_batches_hold_every_unit_within_budget():
    units = units_of(np.random.default_rng(8).integers(1, 50, 100))
    batches = list(budget_batches(units, 200))
    assert sorted(i for batch in batches for unit in batch for i in unit.examples) == list(range(100))
    assert all(len(batch) == 1 or len(batch) * batch[0].longest <= 200 for batch in batches)


@given(st.lists(st.integers(1, 60), min_size=8, max_size=120), st.integers(60, 9000), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_scoring_batches_follow_the_number_of_ranks(lengths, batch_tokens, ranks):
    units = units_of(lengths)
    batches = list(budget_batches(units, batch_tokens, ranks))
    assert sorted(i for batch in batches for unit in batch for i in unit.examples) == list(range(len(lengths)))
    assert all(len(batch) * batch[0].longest <= batch_tokens or len(batch) == 1 for batch in batches)
    if max(lengths) * ranks <= sum(lengths):
        assert len(batches) >= ranks
