"""Expert pairs by format and defect; fixed prompts by split and use case."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback.config import PairsConfig, PromptsConfig
from rluf_assets.feedback.pairs import COLUMNS, DEFECTS, build_pairs, parse_transcript
from rluf_assets.feedback.prompts import allocate, build_prompts
from tests.conftest import DATA
from tests.feedback.logs import START, clean_logs, validated

HH = DATA / "hh_rlhf"
PARTS = Path(__file__).parent / "fixtures" / "cases" / "44-pairs-with-parts"


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _reply(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


GOOD = [
    {"prompt": _user(f"question {i}"), "chosen": _reply(f"good {i}"), "rejected": _reply(f"bad {i}")}
    for i in range(200)
]
BROKEN: dict[str, dict[str, Any]] = {
    "malformed": {"chosen": []},
    "no_user_message": {"prompt": [*_user("q"), *_reply("and then?")]},
    "not_a_reply": {"rejected": _reply("me again", "user")},
    "empty_reply": {"rejected": _reply(" ")},
    "equal_replies": {"chosen": _reply("same"), "rejected": _reply("same ")},
    "overlong_text": {"chosen": _reply("x" * 600)},
    "duplicate_pair": GOOD[7],
}


def _pairs(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = PairsConfig.model_validate({"source": str(path), "max_chars": 500, **settings})
    return build_pairs(config, seed=0)


def test_broken_pairs_are_quarantined_by_reason(tmp_path: Path) -> None:
    bad = [dict(GOOD[0], prompt=_user(f"other {name}")) | spoiled for name, spoiled in BROKEN.items()]
    found = _pairs(tmp_path / "p.jsonl", [*GOOD, *bad])
    assert dict(Counter(found.quarantine["defect"])) == dict.fromkeys(BROKEN, 1)
    assert found.quarantine["source_row"].to_list() == list(range(200, 200 + len(bad)))
    assert found.train.height + found.eval.height == 200
    assert 15 <= found.eval.height <= 50
    assert found.train.columns == found.eval.columns == COLUMNS
    assert json.loads(found.quarantine["row"][0])["prompt"] == bad[0]["prompt"]


@pytest.mark.parametrize("name", ["pairs", "mixed"])
def test_typed_parts_alone_and_mixed_with_text(name: str) -> None:
    found = build_pairs(PairsConfig(source=str(PARTS / f"{name}.jsonl")), seed=0)
    rows = pl.concat([found.train, found.eval]).sort("pair_id").to_dicts()
    said = [[row[side][-1]["content"] for side in ("prompt", "chosen", "rejected")] for row in rows]
    assert said == [["hi", "hello", "no"], ["hey", "hello", "no"]][: len(rows)] and found.quarantine.is_empty()


def test_parts_lists_and_texts_in_one_column(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    rows: list[dict[str, Any]] = [
        {"prompt": "plain", "chosen": "a", "rejected": _reply("b")},
        {"prompt": [{"role": "human", "content": [picture, {"type": "text", "text": "What is it?"}]}],
         "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A "}, {"type": "text", "text": "cat."}]}],
         "rejected": "A dog."},
        {"prompt": _user("[1, 2] as a set?"), "chosen": "{1, 2}", "rejected": '[{"a": 1}]'},
        {"prompt": [{"role": "user", "content": [picture]}], "chosen": "a", "rejected": "b"},
    ]  # fmt: skip
    found = _pairs(tmp_path / "p.jsonl", rows)
    made = pl.concat([found.train, found.eval]).sort("pair_id").to_dicts()
    assert [[row[side][-1]["content"] for side in ("prompt", "chosen", "rejected")] for row in made] == [
        ["plain", "a", "b"], ["What is it?", "A cat.", "A dog."], ["[1, 2] as a set?", "{1, 2}", '[{"a": 1}]'],
    ]  # fmt: skip
    assert found.quarantine["defect"].to_list() == ["no_user_message"]  # a picture alone asks nothing that is read


def test_first_messages_never_cross_the_split(tmp_path: Path) -> None:
    deeper = [
        {"prompt": [*row["prompt"], *_reply("yes?"), *_user(f"more {n}")], "chosen": _reply("a"), "rejected": _reply("b")}
        for row in GOOD for n in range(2)
    ]  # fmt: skip
    found = _pairs(tmp_path / "p.jsonl", [*GOOD, *deeper])
    first = pl.col("prompt").list.first().struct.field("content")
    assert found.quarantine.is_empty()
    assert not set(found.train.select(first).to_series()) & set(found.eval.select(first).to_series())


def test_plain_text_and_implicit_prompts(tmp_path: Path) -> None:
    plain = _pairs(tmp_path / "plain.jsonl", [{"prompt": "q?", "chosen": "yes", "rejected": "no"}], use_case="chat")
    (row,) = pl.concat([plain.train, plain.eval]).to_dicts()
    assert (row["prompt"], row["chosen"], row["use_case"]) == (_user("q?"), _reply("yes"), "chat")
    both = [
        {"chosen": [*_user("q"), *_reply("a")], "rejected": [*_user("q"), *_reply("b")]},
        {"chosen": [*_user("q"), *_reply("a")], "rejected": [*_user("other"), *_reply("b")]},
    ]
    implicit = _pairs(tmp_path / "implicit.jsonl", both)
    assert implicit.quarantine["defect"].to_list() == ["no_shared_prompt"]
    assert set(BROKEN) | {"no_shared_prompt"} == set(DEFECTS)


def test_structural_defects_of_pairs_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl: column 'rejected' is missing; found \['source_row', 'chosen'\]"):
        _pairs(tmp_path / "p.jsonl", [{"chosen": "a"}])
    with pytest.raises(DataError, match="column 'chosen' has type Int64, expected text or a list"):
        _pairs(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": 3, "rejected": "b"}])


def test_transcripts() -> None:
    text = "\n\nHuman: hi\n\nthere\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:"
    assert parse_transcript(text) == [*_user("hi\n\nthere"), *_reply("hello"), *_user("bye"), *_reply("")]
    assert parse_transcript("no speaker") is None and parse_transcript(None) is None


@pytest.mark.skipif(not HH.exists(), reason="needs shared/data/hh_rlhf")
def test_hh_rlhf_counts_match_its_description() -> None:
    found = build_pairs(PairsConfig(source=f"{HH}/*.jsonl.gz", format="transcripts"), seed=0)
    named = Counter(found.quarantine["defect"])
    assert found.rows_in == 4397 + 1642
    assert named["equal_replies"] == 29
    assert 12 <= named["no_shared_prompt"] <= 17  # "about 14"
    assert found.train.height + found.eval.height == found.rows_in - sum(named.values())
    assert set(named) <= {"equal_replies", "no_shared_prompt", "empty_reply"}


def test_prompts_by_split_and_use_case() -> None:
    messages, reactions = clean_logs(days=8, users_per_day=60, seed=1)
    log = validated(messages, reactions)
    config = PromptsConfig(optimisation_prompts=120, evaluation_prompts=60, holdout_days=3, min_share={"case2": 0.6})
    found = build_prompts(log.replies.lazy(), log.messages.lazy(), config, seed=0)
    assert dict(found.group_by("split").len().iter_rows()) == {"optimisation": 120, "evaluation": 60}
    shares = found.group_by("split").agg((pl.col("use_case") == "case2").mean())["use_case"].to_list()
    assert shares == [0.6, 0.6]
    where = found.join(log.replies, left_on="prompt_id", right_on="message_id")
    by_split = {split: part for (split,), part in where.partition_by("split", as_dict=True).items()}
    assert by_split["optimisation"]["created_at"].max() < by_split["evaluation"]["created_at"].min()
    assert not set(by_split["optimisation"]["user_id"]) & set(by_split["evaluation"]["user_id"])
    assert where["conversation_id"].is_unique().all()
    assert by_split["evaluation"]["user_id"].is_unique().all()
    assert (by_split["evaluation"]["user_id_right"] == by_split["evaluation"]["user_id"]).all()
    # The weights take the least share back out: by use case they are what the traffic is.
    held = log.replies.with_columns(first=pl.col("created_at").min().over("user_id"))
    held = held.filter(pl.col("first") >= START + timedelta(days=5))
    weights = dict(by_split["evaluation"].group_by("use_case").agg(pl.col("weight").sum() / 60).iter_rows())
    assert weights == pytest.approx({name: n / held.height for name, n in held["use_case"].value_counts().iter_rows()})
    assert found.equals(build_prompts(log.replies.lazy(), log.messages.lazy(), config, seed=0))
    assert not found.equals(build_prompts(log.replies.lazy(), log.messages.lazy(), config, seed=1))


def test_an_average_over_weighted_prompts_is_one_over_replies() -> None:
    """Stock words that a third of the traffic says, busy users, a lifted use case: over seeds the average is the log's."""
    messages, reactions = clean_logs(days=6, users_per_day=40, seed=4)
    stock = (pl.col("use_case") == "case1") & (pl.col("turn_index") == 0)
    said = pl.when(stock).then(pl.lit("hello")).otherwise("content")
    log = validated(messages.with_columns(content=said), reactions)
    held = log.replies.with_columns(first=pl.col("created_at").min().over("user_id"))
    held = held.filter(pl.col("first") >= START + timedelta(days=3))
    config = PromptsConfig(optimisation_prompts=20, evaluation_prompts=30, holdout_days=3, min_share={"case2": 0.6})
    means, plain = [], []
    for seed in range(40):
        found = build_prompts(log.replies.lazy(), log.messages.lazy(), config, seed=seed)
        found = found.filter(pl.col("split") == "evaluation")
        greets = (found["use_case"] == "case1") & (found["turn_index"] == 0)
        means.append((greets * found["weight"]).sum() / found["weight"].sum())
        plain.append(greets.mean())
    true = held.select(stock.mean()).item()
    assert abs(np.mean(means) - true) <= 4.5 * np.std(means, ddof=1) / 40**0.5 + 0.01
    assert np.mean(plain) < 0.5 * true  # unweighted, the words and the least share hide it


def test_equal_prompts_are_taken_once_and_evaluation_goes_first() -> None:
    messages, reactions = clean_logs(days=6, users_per_day=30, seed=2)
    log = validated(messages.with_columns(content=pl.col("role")), reactions)
    config = PromptsConfig(optimisation_prompts=90, evaluation_prompts=80, holdout_days=3)
    with pytest.raises(DataError, match=r"no prompt for \['optimisation'\]"):
        build_prompts(log.replies.lazy(), log.messages.lazy(), config, seed=0)


def test_unknown_use_case_names_the_known_ones() -> None:
    messages, reactions = clean_logs(days=4, seed=3)
    log = validated(messages, reactions)
    with pytest.raises(ConfigError, match=r"no use case \['harmful'\]; known are \['case0', 'case1', 'case2'\]"):
        build_prompts(
            log.replies.lazy(), log.messages.lazy(), PromptsConfig(holdout_days=2, min_share={"harmful": 0.1}), seed=0
        )
    with pytest.raises(ValidationError, match="add up to at most 1"):
        PromptsConfig(min_share={"a": 0.7, "b": 0.6})


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1), st.integers(10, 3000),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 0.16)),
)  # fmt: skip
def test_allocation_adds_up_and_keeps_the_least_shares(
    counts: dict[str, int], n: int, floors: dict[str, float]
) -> None:
    floors = {name: share for name, share in floors.items() if name in counts}
    quotas = allocate(counts, n, floors)
    slack = len(floors)  # floors are whole prompts, rounded up
    assert n <= sum(quotas.values()) <= n + slack if set(floors) == set(counts) else sum(quotas.values()) == n
    assert all(quotas[name] >= share * n - 1 for name, share in floors.items())
    assert set(quotas) == set(counts)


def test_a_prompt_ends_with_what_the_user_said() -> None:
    """Every reply in two parts: the later part's context holds the first one, a fixed prompt does not."""
    messages, reactions = clean_logs(days=6, users_per_day=20, seed=2)
    later = messages.filter(pl.col("role") == "assistant").with_columns(
        message_id=pl.col("message_id") + "2", created_at=pl.col("created_at").dt.offset_by("1s")
    )
    log = validated(pl.concat([messages, later]), reactions)
    assert log.replies.height == 2 * later.height
    config = PromptsConfig(optimisation_prompts=40, evaluation_prompts=10, holdout_days=2)
    found = build_prompts(log.replies.lazy(), log.messages.lazy(), config, seed=0)
    assert found["prompt_id"].str.ends_with("2").any()
    assert {prompt[-1]["role"] for prompt in found["prompt"]} == {"user"}
    assert all(prompt[0]["role"] == "user" for prompt in found["prompt"])
