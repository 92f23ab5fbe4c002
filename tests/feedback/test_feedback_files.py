"""A file of logs without a lake: labelled replies, an account of all rows, and errors that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import rluf_assets as rluf


def chat(number: int, reply: str, **marks: int) -> dict:
    messages = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": reply, "marks": marks}]
    return {"conversation_id": f"c{number}", "user_id": f"u{number}", "messages": messages}


def test_a_file_becomes_labelled_replies_and_an_audit(tmp_path: Path) -> None:
    rows = [chat(1, "Yes.", love=1), chat(2, "No.", love=0), chat(3, "", love=1), chat(4, "Maybe.")]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    contract = rluf.ContractConfig(signals=("love",), exposure="all_shown", time="none")
    logs = rluf.read_logs(tmp_path / "chats.jsonl", "messages", contract)
    labels = dict(logs.replies.select("content", "label_love").iter_rows())
    assert labels == {"Yes.": 1, "No.": 0, "Maybe.": 0}
    count = logs.accounting
    assert (count.messages_in, count.messages_accepted, count.messages_quarantined) == (8, 7, 1)
    assert "8 messages" in logs._repr_html_() and "empty_text" in logs._repr_html_()
    settings = rluf.SignalAuditConfig(signals=("love",), polarity={"love": 1}, min_positives=1)
    audit = rluf.audit_signals(logs.replies, logs.messages, settings)
    assert audit.table["positives"].to_list() == [1]
    assert audit.conclusion in audit._repr_html_()


def test_reactions_may_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    message = {"conversation_id": "c", "user_id": "u", "turn_index": 0, "created_at": "2026-01-01T10:00:00Z"}
    said = [{**message, "message_id": "q", "role": "user", "content": "Well?"},
            {**message, "message_id": "a", "role": "assistant", "content": "Yes."}]  # fmt: skip
    pl.DataFrame(said).write_parquet(tmp_path / "messages.parquet")
    reacted = {"reaction_id": "r", "message_id": "a", "user_id": "u", "signal": "love", "value": 1}
    pl.DataFrame([{**reacted, "reacted_at": "2026-01-01T10:01:00Z"}]).write_parquet(tmp_path / "reactions.parquet")
    contract = rluf.ContractConfig(signals=("love",), exposure="all_shown")
    places = tmp_path / "messages.parquet", tmp_path / "reactions.parquet"
    logs = rluf.read_logs(places[0], "canonical", contract, reactions=places[1])
    assert logs.replies["label_love"].to_list() == [1]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(rluf.RlufError, match=r"x\.jsonl: format: .*found 'chatml'"):
        rluf.read_logs(tmp_path / "x.jsonl", "chatml")
    with pytest.raises(rluf.RlufError, match=r"x\.jsonl"):
        rluf.read_logs(tmp_path / "x.jsonl", "messages")
