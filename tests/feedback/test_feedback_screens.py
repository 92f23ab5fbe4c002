"""The screens before the row contract let too much through at most: with and without them the same rows are named."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rluf_assets.feedback import defects
from rluf_assets.feedback.config import ContractConfig
from rluf_assets.feedback.schemas import MESSAGES
from tests.feedback.logs import START, clean_logs

ODD: dict[str, list[Any]] = {
    "conversation_id": [None, "", "\u00a0", "c00-0000-0", "c00-0001-0", "c00-0000-1"],
    "message_id": [None, " ", "c00-0000-0-0-u", "c00-0000-0-0-a", "c00-0001-0-0-a"],
    "turn_index": [None, -1, 0, 1, 2, 77],
    "role": [None, "tool", "system", "user", "assistant"],
    "content": [None, "", " \n", "\u2003", "x" * 60, "é" * 40, "caf\ufffd", "so<span class=", "a < b", "answer c00-0000-0 0"],
    "user_id": [None, "\t", "u0000", "u0001"],
    "created_at": [None, START - timedelta(days=1), START, START + timedelta(hours=3), START + timedelta(days=9)],
}  # fmt: skip
edits = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(ODD)), st.integers(0, 9), st.booleans()), max_size=25
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), edits, st.integers(0, 30), st.sampled_from(["logged", "none"]))
def test_screened_and_unscreened_name_the_same_rows(
    seed: int, spoiled: list[tuple[int, str, int, bool]], held_back: int, time: str
) -> None:
    clean, _ = clean_logs(users_per_day=4, seed=seed)
    rows = clean.to_dicts()
    for place, column, nth, again in spoiled:
        row = rows[place % len(rows)]
        if again:  # delivered twice, the copy perhaps under other ids
            row = dict(row)
            rows.append(row)
        row[column] = ODD[column][nth % len(ODD[column])]
    messages = pl.DataFrame(rows, schema=dict(MESSAGES))
    previous, today = messages.head(held_back), messages.slice(held_back)
    config = ContractConfig(max_chars=50, as_of=START + timedelta(days=2), day=START.date(), time=time)
    screened = defects.judge_messages(today, config, previous)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defects, "suspect_messages", lambda config, times: pl.lit(True).repeat_by(pl.len()).explode())
        patch.setattr(defects, "touching", lambda previous, today: previous)
        patch.setattr(defects, "suspect_conversations", lambda rows, timed: pl.Series([True] * rows.height))
        unscreened = defects.judge_messages(today, config, previous)
    assert_frame_equal(screened, unscreened)
