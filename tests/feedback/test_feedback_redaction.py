"""Personal data is found (recall) and nothing else is (precision), on a labelled fixture; nothing of it is stored."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.feedback.config import PairsConfig, RedactionConfig
from rluf_assets.feedback.pairs import build_pairs
from rluf_assets.feedback.redaction import KINDS, excerpt, redact
from tests.feedback.logs import clean_logs, validated

FIXTURE = Path(__file__).parent / "fixtures" / "personal_data.jsonl"
ON = RedactionConfig()


# What every class must reach on the fixture, which has as many near misses as hits: (recall, precision).
FLOORS = {
    "secret": (0.95, 0.95), "url": (0.95, 0.95), "email": (0.97, 0.97), "account": (0.95, 0.95), "id": (0.95, 0.95),
    "birthdate": (0.95, 0.95), "card": (0.95, 0.95), "location": (0.9, 0.95), "ip": (0.95, 0.95), "phone": (0.9, 0.95),
    "handle": (0.9, 0.95),
}  # fmt: skip


def _labelled() -> list[dict[str, Any]]:
    """Rows of {text, found: [[kind, span]], near: kind}; a key is cut by a bar, so that nobody's scanner takes it for one."""
    lines = FIXTURE.read_text(encoding="utf-8").replace("¦", "").splitlines()
    return [json.loads(line) for line in lines]


def _placeholders(text: str) -> Counter[str]:
    return Counter({kind: text.count(f"<{kind.upper()}>") for kind in KINDS})


def test_precision_and_recall_of_every_class_on_the_labelled_fixture() -> None:
    """A span counts as found where it is gone and its placeholder is there; other placeholders are false alarms."""
    rows = _labelled()
    texts, counts = redact(pl.Series([row["text"] for row in rows]), ON)
    found, wanted, given_out = Counter[str](), Counter[str](), Counter[str]()
    for row, text in zip(rows, texts, strict=True):
        placeholders = _placeholders(text)
        hits = Counter(kind for kind, value in row["found"] if value not in text)
        found += hits & placeholders
        wanted += Counter(kind for kind, _ in row["found"])
        given_out += placeholders
    assert set(FLOORS) == set(KINDS) == set(wanted)
    for kind, (recall, precision) in FLOORS.items():
        assert wanted[kind] >= 12, kind
        assert found[kind] / wanted[kind] >= recall, (kind, found[kind], wanted[kind])
        assert found[kind] / given_out[kind] >= precision, (kind, found[kind], given_out[kind])
    assert sum(1 for row in rows if not row["found"]) >= sum(1 for row in rows if row["found"])
    assert counts == {kind: given_out[kind] for kind in KINDS}


def test_what_is_redacted_stays_as_it_is() -> None:
    once, _ = redact(pl.Series([row["text"] for row in _labelled()]), ON)
    twice, counts = redact(once, ON)
    assert twice.to_list() == once.to_list() and sum(counts.values()) == 0


@pytest.mark.parametrize(
    "around", ["{}", "see {}.", "x={}\n", "```\n{}\n```", '{{"a": "{}"}}', "¡{}!", "日本{}語", "a\r\n{}\r\nb"]
)
def test_secrets_are_found_whatever_stands_around_them(around: str) -> None:
    tokens = [value for row in _labelled() for kind, value in row["found"] if kind == "secret" and len(value) > 30]
    tokens = [
        one
        for one in tokens
        if re.match(r"sk-|AIza|gh[a-z]_|github_|glpat-|xox|SG\.|hf_|npm_|pypi-|eyJ|-----BEGIN|dop_|hvs\.|gsk_", one)
    ]
    assert len(tokens) >= 18
    texts, _ = redact(pl.Series([around.format(one) for one in tokens]), ON)
    assert [one for one, text in zip(tokens, texts, strict=True) if one in text] == []


def test_a_whole_pem_block_goes_also_where_its_end_is_cut_off() -> None:
    body = "\n".join("MIIEpAIBAAKCAQEA" + str(n) * 48 for n in range(6))
    texts, _ = redact(pl.Series([f"key:\n-----BEGIN PRIVATE KEY-----\n{body}\n\nregards, kim"]), ON)
    assert "MIIE" not in texts[0] and texts[0].endswith("regards, kim")


def test_an_excerpt_is_cut_and_without_personal_data_even_where_the_cut_falls() -> None:
    assert excerpt("write to kim@example.com or\n +1 415 555 2671") == "write to <EMAIL> or <PHONE>"
    assert excerpt("x" * 100, 10) == "x" * 9 + "…"
    for chars in range(5, 60):
        assert "kim@" not in excerpt("a line that ends with kim@example.com and goes on", chars)
    assert excerpt(None) == "None" and excerpt(["kim@example.com", 3]) == "[<EMAIL>', 3]"


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


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5), st.text(alphabet="abcxyz 019.,!🙂", max_size=20))
def test_an_address_is_found_whatever_stands_around_it(others: list[str], before: str) -> None:
    texts = pl.Series([*others, f"{before} kim@example.com {before}"], dtype=pl.String)
    cleaned, counts = redact(texts, ON)
    assert "kim@example.com" not in cleaned[-1] and counts["email"] >= 1
    assert len(cleaned) == len(texts)
    again, more = redact(cleaned, ON)
    assert again.to_list() == cleaned.to_list() and sum(more.values()) == 0  # placeholders are no personal data
