"""Prefix trees: rows that begin alike share one pass over what they share.

A set of token sequences becomes a trie laid out in depth-first order. A token attends to its ancestors only, and its
position is its depth, so every sequence gets the hidden states it would have alone: chosen and rejected share their
prompt, the replies of one conversation share one causal pass, several completions share theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Sharing pays where it saves this share of the shorter row's tokens; below, a longer row costs more attention.
MIN_SHARED = 0.2


@dataclass(frozen=True)
class Tree:
    """A trie in depth-first order; arrays are int32 of shape (nodes,), `ends` of shape (sequences,).

    Node j is an ancestor of node i (or i itself) exactly if `j <= i < subtree_ends[j]`.
    """

    token_ids: np.ndarray
    depths: np.ndarray
    subtree_ends: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether every sequence is a prefix of the longest: plain causal attention is right then."""
        return bool(self.subtree_ends[-1] == len(self)) and bool((self.subtree_ends == len(self)).all())


def build_tree(sequences: Sequence[np.ndarray]) -> Tree:
    """The trie of some non-empty token sequences; `ends[i]` is the node of sequence i's last token."""
    if len(sequences) == 1:
        (only,) = sequences
        size = len(only)
        return Tree(
            only, np.arange(size, dtype=np.int32), np.full(size, size, np.int32), np.array([size - 1], np.int32)
        )
    total = sum(len(sequence) for sequence in sequences)
    token_ids, depths, subtree_ends = (np.empty(total, np.int32) for _ in range(3))
    ends = np.empty(len(sequences), np.int32)
    path, before, size = np.empty(0, np.int32), np.empty(0, np.int32), 0
    for i in sorted(range(len(sequences)), key=lambda index: sort_key(sequences[index])):
        sequence = sequences[i]
        shared = common_prefix(before, sequence)
        subtree_ends[path[shared:]] = size
        added = len(sequence) - shared
        token_ids[size : size + added] = sequence[shared:]
        depths[size : size + added] = np.arange(shared, len(sequence))
        path = np.concatenate([path[:shared], np.arange(size, size + added, dtype=np.int32)])
        before, size = sequence, size + added
        ends[i] = path[-1]
    subtree_ends[path] = size
    return Tree(token_ids[:size], depths[:size], subtree_ends[:size], ends)


def group_rows(sequences: Sequence[np.ndarray], max_nodes: int) -> list[list[int]]:
    """Partition sequences into groups worth sharing a tree, of at most `max_nodes` tokens (single ones aside)."""
    groups: list[list[int]] = []
    size = 0
    before = np.empty(0, np.int32)
    for i in sorted(range(len(sequences)), key=lambda index: sort_key(sequences[index])):
        sequence = sequences[i]
        shared = common_prefix(before, sequence)
        worth = shared >= MIN_SHARED * min(len(before), len(sequence)) and size + len(sequence) - shared <= max_nodes
        if groups and worth:
            groups[-1].append(i)
            size += len(sequence) - shared
        else:
            groups.append([i])
            size = len(sequence)
        before = sequence
    return groups


def sort_key(sequence: np.ndarray) -> bytes:
    """Bytes that sort as the token ids do, so that sequences with a common prefix stand together."""
    return sequence.astype(">i4").tobytes()


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Number of leading tokens two sequences share."""
    size = min(len(a), len(b))
    differ = a[:size] != b[:size]
    return int(differ.argmax()) if differ.any() else size
