"""Personal data is found (recall) and nothing else is (precision), on a labelled fixture; nothing of it is stored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import PairsConfig, RedactionConfig
from rluf_assets.feedback.pairs import build_pairs
from rluf_assets.feedback.redaction import KINDS, redact
from tests.feedback.logs import clean_logs, validated

FIXTURE = Path(__file__).parent / "fixtures" / "personal_data.jsonl"
ON = RedactionConfig()


def _labelled() -> list[dict[str, list[list[str]] | str]]:
    return [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]


def _placeholders(text: str) -> Counter[str]:
    return Counter({kind: text.count(f"<{kind.upper()}>") for kind in KINDS})


def test_precision_and_recall_on_the_labelled_fixture() -> None:
    """A span counts as found where it is gone and its placeholder is there; other placeholders are false alarms."""
    rows = _labelled()
    texts, counts = redact(pl.Series([row["text"] for row in rows]), ON)
    found = wanted = alarms = 0
    for row, text in zip(rows, texts, strict=True):
        spans = [(kind, value) for kind, value in row["found"]]
        hits = Counter(kind for kind, value in spans if value not in text)
        given_out = _placeholders(text)
        found += sum((hits & given_out).values())
        alarms += sum((given_out - hits).values())
        wanted += len(spans)
    assert wanted >= 50 and sum(1 for row in rows if not row["found"]) >= 35
    assert found / wanted >= 0.97
    assert found / (found + alarms) >= 0.97
    assert sum(counts.values()) == found + alarms
    assert all(counts[kind] for kind in KINDS)


def test_texts_without_any_come_back_as_they_are() -> None:
    rows = pl.Series([row["text"] for row in _labelled() if not row["found"]] + [None, "", "NaN", "\x00🎉"])
    texts, _ = redact(rows, ON)
    assert texts.to_list() == rows.to_list()


def test_stored_tables_hold_none_of_it_and_counts_are_kept() -> None:
    messages, reactions = clean_logs(seed=6)
    secret = "write to kim@example.com or +1 415 555 2671"
    place = pl.int_range(pl.len())
    spoiled = messages.with_columns(
        content=pl.when(place < 2).then(pl.lit(secret)).otherwise("content"),
        role=pl.when(place == 1).then(pl.lit("tool")).otherwise("role"),  # this one goes to the quarantine
    )
    log = validated(spoiled, reactions)
    stored = [log.messages["content"], log.replies["content"], log.quarantine["row"]]
    assert not any(text.str.contains("example.com|2671").any() for text in stored)
    assert log.messages["content"][0] == "write to <EMAIL> or <PHONE>"
    assert log.quarantine["row"].str.contains("<EMAIL>", literal=True).any()
    assert log.redacted == {**dict.fromkeys(KINDS, 0), "email": 2, "phone": 2}
    off = validated(spoiled, reactions, redaction={"enabled": False})
    assert off.messages["content"][0] == secret and sum(off.redacted.values()) == 0


def test_pairs_are_redacted_too(tmp_path: Path) -> None:
    rows = [{"prompt": "who?", "chosen": "ask kim@example.com", "rejected": "no"},
            {"prompt": "my ip is 203.0.113.42", "chosen": "same", "rejected": "same"}]  # fmt: skip
    pl.DataFrame(rows).write_ndjson(tmp_path / "pairs.jsonl")
    made = build_pairs(PairsConfig(source=str(tmp_path / "pairs.jsonl")), seed=0)
    pair = pl.concat([made.train, made.eval]).row(0, named=True)
    assert pair["chosen"][0]["content"] == "ask <EMAIL>"
    assert "<IP>" in made.quarantine["row"][0] and "203.0" not in made.quarantine["row"][0]
    assert made.redacted["email"] == 1


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5), st.text(alphabet="abcxyz 019.,!🙂", max_size=20))
def test_an_address_is_found_whatever_stands_around_it(others: list[str], before: str) -> None:
    texts = pl.Series([*others, f"{before} kim@example.com {before}"], dtype=pl.String)
    cleaned, counts = redact(texts, ON)
    assert "kim@example.com" not in cleaned[-1] and counts["email"] >= 1
    assert len(cleaned) == len(texts)
    again, more = redact(cleaned, ON)
    assert again.to_list() == cleaned.to_list() and sum(more.values()) == 0  # placeholders are no personal data
