"""Prefix trees hold every sequence, unaltered, and see of it exactly what it would see alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.rewards.model import tree_mask
from rluf_assets.rewards.trees import build_tree, common_prefix, group_rows

# A small alphabet makes shared prefixes, duplicates and prefixes of one another common.
SEQUENCES = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=8).map(lambda ids: np.array(ids, np.int32)), min_size=1, max_size=6
)


@given(SEQUENCES)
@settings(max_examples=200, deadline=None)
def test_each_end_token_sees_its_own_sequence_and_nothing_else(sequences):
    tree = build_tree(sequences)
    seen = tree_mask(torch.from_numpy(tree.subtree_ends)[None].long())[0, 0].numpy()
    for sequence, end in zip(sequences, tree.ends, strict=True):
        ancestors = np.flatnonzero(seen[end])
        np.testing.assert_array_equal(tree.token_ids[ancestors], sequence)
        np.testing.assert_array_equal(tree.depths[ancestors], np.arange(len(sequence)))


@given(SEQUENCES)
@settings(max_examples=100, deadline=None)
def test_no_token_is_stored_twice_under_one_parent(sequences):
    tree = build_tree(sequences)
    distinct = {tuple(sequence[:size]) for sequence in sequences for size in range(1, len(sequence) + 1)}
    assert len(tree) == len(distinct)
    assert tree.is_chain == (len(distinct) == max(len(s) for s in sequences))


@given(SEQUENCES, st.integers(4, 20))
@settings(max_examples=100, deadline=None)
def test_groups_partition_the_rows_within_the_limit(sequences, max_nodes):
    groups = group_rows(sequences, max_nodes)
    assert sorted(i for group in groups for i in group) == list(range(len(sequences)))
    for group in groups:
        if len(group) > 1:
            assert len(build_tree([sequences[i] for i in group])) <= max_nodes


def test_rows_that_share_little_stay_apart_and_rows_that_share_much_join():
    prompt = np.arange(50, dtype=np.int32)
    alike = [np.append(prompt, [100 + i]).astype(np.int32) for i in range(4)]
    apart = [np.append([0], np.arange(200 + 60 * i, 250 + 60 * i)).astype(np.int32) for i in range(2)]
    groups = group_rows([*alike, *apart], 512)
    assert sorted(map(len, groups)) == [1, 1, 4]
    assert common_prefix(alike[0], alike[1]) == 50
