"""Formats in, canonical tables out; a structural defect names file, column, found and expected."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.errors import ConfigError, DataError
from rluf_assets.feedback import ingest
from rluf_assets.feedback.config import IngestConfig, MessagesLayout
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.schemas import MESSAGES, REACTIONS
from rluf_assets.feedback.sources import hash_files
from tests.conftest import DATA
from tests.feedback.logs import clean_logs, validated

HALIE = DATA / "halie_dialogue" / "conversations.jsonl.gz"
TOPICAL = DATA / "topical_chat" / "conversations.jsonl.gz"


def _write(path: Path, *lines: Any) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def _read(source: str, table: str = "messages", **settings: Any) -> pl.DataFrame:
    config = IngestConfig.model_validate({"source": source, "table": table, "format": "messages", **settings})
    return read_table(config).collect(engine="streaming")


def test_a_file_of_several_days_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    days = ("2026-01-01", "2026-01-02")

    def line(day: str, text: str) -> dict[str, Any]:
        said = [{"role": role, "content": text, "created_at": f"{day}T12:00:00Z"} for role in ("user", "assistant")]
        return {"id": day, "user": "u", "messages": said}

    def read() -> list[list[str]]:
        return [_read(source, day=day)["content"].to_list() for day in days]

    source = _write(tmp_path / "log.jsonl", line(days[0], "one"), line(days[1], "two"))
    assert read() == [["one", "one"], ["two", "two"]]
    held, before = list(ingest._HELD)[-1], hash_files(source)
    assert read() == [["one", "one"], ["two", "two"]]
    assert list(ingest._HELD)[-1] is held
    _write(tmp_path / "log.jsonl", line(days[0], "six"), line(days[1], "ten"))  # as many bytes as before
    assert read() == [["six", "six"], ["ten", "ten"]]
    assert hash_files(source) != before
    assert len(ingest._HELD) <= 2


OPENAI = [
    {"id": "t1", "user": "u1", "model": "gpt", "messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello 🎉", "reactions": [{"name": "love"}, {"name": "thumbs_down", "value": 0}]},
        {"role": "user", "content": "more"}, {"role": "assistant", "content": "no"}]},
    {"id": "t2", "user": "u2", "model": "gpt", "messages": [{"role": "assistant", "content": "welcome"}]},
]  # fmt: skip


def test_openai_messages_with_reactions(tmp_path: Path) -> None:
    source = _write(tmp_path / "log.jsonl", *OPENAI)
    messages = _read(source)
    assert messages.schema == pl.Schema(MESSAGES)
    assert messages["message_id"].to_list() == ["t1/0", "t1/1", "t1/2", "t1/3", "t1/4", "t2/0"]
    assert messages["turn_index"].to_list() == [0, 0, 0, 1, 1, -1]
    assert messages["policy_version"].unique().to_list() == ["gpt"]
    assert messages["created_at"].null_count() == messages["reactions_shown"].null_count() == 6  # never invented
    reactions = _read(source, "reactions")
    assert reactions.schema == pl.Schema(REACTIONS)
    found = reactions.select("message_id", "user_id", "signal", "value").rows()
    assert found == [("t1/2", "u1", "love", 1), ("t1/2", "u1", "thumbs_down", 0)]
    log = validated(messages, reactions, time="none", exposure="all_shown")
    assert log.quarantine.is_empty() and log.accounting.greetings == 1
    assert log.replies.select("label_love", "label_thumbs_down").rows() == [(1, 0), (0, 0)]


def test_sharegpt_conversations_as_one_user_each(tmp_path: Path) -> None:
    line = {"id": "s1", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}
    source = _write(tmp_path / "share.jsonl", line)
    with pytest.raises(DataError, match=r"share\.jsonl: no column for \['user_id'\].*per_conversation"):
        _read(source)
    messages = _read(source, layout={"users": "per_conversation"})
    assert messages.select("role", "content", "user_id").rows() == [("user", "hi", "s1"), ("assistant", "yo", "s1")]
    assert _read(source, "reactions", layout={"users": "per_conversation"}).is_empty()


def test_empty_conversations_and_messages_lose_nothing(tmp_path: Path) -> None:
    lines = [OPENAI[0], {"id": "none", "user": "u", "messages": []}, {"id": "null", "user": "u", "messages": None}]
    assert _read(_write(tmp_path / "log.jsonl", *lines)).height == 5


def _write_table(frame: pl.DataFrame, path: Path) -> None:
    text = frame.with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z"))
    match path.name.partition(".")[2]:
        case "parquet":
            frame.write_parquet(path)
        case "csv":
            text.write_csv(path)
        case "jsonl":
            text.write_ndjson(path)
        case _:
            path.write_bytes(gzip.compress(text.write_ndjson().encode()))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "jsonl.gz"])
def test_canonical_tables_round_trip_through_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    messages, reactions = clean_logs(seed=1)
    for table, frame in (("messages", messages), ("reactions", reactions)):
        path = tmp_path / f"{table}.{ending}"
        _write_table(frame, path)
        assert _read(str(path), table, format="canonical").equals(frame)


def test_days_by_template_and_by_filter(tmp_path: Path) -> None:
    messages, _ = clean_logs(days=3, seed=2)
    messages.write_parquet(tmp_path / "all.parquet")
    day = date(2026, 1, 2)
    mine = messages.filter(pl.col("created_at").dt.date() == day)
    (tmp_path / "2026-01-02").mkdir()
    mine.write_parquet(tmp_path / "2026-01-02" / "part-0.parquet")
    for source in (str(tmp_path / "all.parquet"), str(tmp_path / "{day}" / "*.parquet")):
        assert _read(source, format="canonical", day=day).equals(mine)
    with pytest.raises(ConfigError, match=r"has \{day\} but no day is given"):
        _read(str(tmp_path / "{day}.parquet"), format="canonical")


def test_mixed_time_zones_become_utc(tmp_path: Path) -> None:
    times = ["2026-01-01T12:00:00Z", "2026-01-01T14:00:00+02:00", "2026-01-01 12:00:00", "noon", None]
    rows = [{"reaction_id": str(i), "message_id": "m", "user_id": "u", "signal": "love", "value": 1, "reacted_at": at}
            for i, at in enumerate(times)]  # fmt: skip
    found = _read(_write(tmp_path / "r.jsonl", *rows), "reactions", format="canonical")["reacted_at"].to_list()
    assert found == [datetime(2026, 1, 1, 12, tzinfo=UTC)] * 3 + [None, None]


def test_raw_user_ids_are_hashed_with_the_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _write(tmp_path / "log.jsonl", *OPENAI)
    with pytest.raises(ConfigError, match="RLUF_USER_SALT, which is not set"):
        _read(source, user_ids="raw")
    seen = []
    for salt in ("a", "b"):
        monkeypatch.setenv("RLUF_USER_SALT", salt)
        ids = [
            _read(source, table, user_ids="raw")["user_id"].unique().sort().to_list()
            for table in ("messages", "reactions")
        ]
        assert set(ids[1]) < set(ids[0]) and len(ids[0]) == 2  # the same user is the same in both tables
        seen += ids[0]
    assert len(set(seen)) == 4 and not {"u1", "u2"} & set(seen)


BAD_FILES = {
    "absent": (None, r"no such file"),
    "cut.parquet": ("parquet", r"cut\.parquet: cannot be read"),
    "cut.jsonl.gz": ("gzip", r"cut\.jsonl\.gz: cannot be read \(EOFError: .*end-of-stream.*fetch or export it again"),
    "broken.jsonl": (
        b'{"conversation_id": "c", \n',
        r"broken\.jsonl, line 1: cannot be read as JSON .*The file is cut",
    ),
    "log.xlsx": (b"PK", r"found kind 'xlsx', expected \.parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_not_whole(tmp_path: Path, name: str) -> None:
    made, message = BAD_FILES[name]
    messages, _ = clean_logs(users_per_day=200)
    path = tmp_path / name
    if made == "parquet":
        messages.write_parquet(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif made == "gzip":
        whole = gzip.compress(messages.with_columns(pl.col(pl.Datetime).cast(pl.String)).write_ndjson().encode())
        path.write_bytes(whole[: len(whole) // 2])
    elif isinstance(made, bytes):
        path.write_bytes(made)
    with pytest.raises(DataError, match=message):
        _read(str(path), format="canonical")


def test_missing_column_and_wrong_type_are_named(tmp_path: Path) -> None:
    messages, reactions = clean_logs()
    messages.drop("content").write_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m\.parquet: column 'content' of the messages table is missing; found \["):
        _read(str(tmp_path / "m.parquet"), format="canonical")
    reactions.with_columns(value=pl.lit([0.5])).write_parquet(tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"r\.parquet: column 'value' has type List\(Float64\), expected Int8"):
        _read(str(tmp_path / "r.parquet"), "reactions", format="canonical")
    renamed = reactions.rename({"signal": "emoji"})
    renamed.write_parquet(tmp_path / "named.parquet")
    layout = MessagesLayout(columns={"signal": "emoji"})
    assert _read(str(tmp_path / "named.parquet"), "reactions", format="canonical", layout=layout).equals(reactions)


def test_value_out_of_range_is_a_row_defect_not_a_lost_file(tmp_path: Path) -> None:
    messages, reactions = clean_logs()
    wide = reactions.with_columns(
        value=pl.when(pl.int_range(pl.len()) == 0).then(900).otherwise(pl.col("value").cast(pl.Int64))
    )
    wide.write_parquet(tmp_path / "r.parquet")
    log = validated(messages, _read(str(tmp_path / "r.parquet"), "reactions", format="canonical"))
    assert log.quarantine["defect"].to_list() == ["bad_value"]


ODD_TEXTS = (
    "NaN", "null", "None", "a\x00b", "\u200d\U0001f469\u200d\U0001f467 ❤️", "\ufeffbyte order mark",
    'say "hi",\nthen\r\ngo', "\u05e2\u05d1\u05e8\u05d9\u05ea \u202e",
)  # fmt: skip


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz", "csv"])
def test_odd_texts_are_texts(tmp_path: Path, ending: str) -> None:
    messages, reactions = clean_logs(seed=4)
    nth = pl.int_range(pl.len()) % (2 * len(ODD_TEXTS))
    odd = messages.with_columns(content=nth.replace_strict(dict(enumerate(ODD_TEXTS)), default=pl.col("content")))
    path = tmp_path / f"m.{ending}"
    _write_table(odd, path)
    read = _read(str(path), format="canonical")
    assert read["content"].to_list() == odd["content"].to_list()
    log = validated(read, reactions)
    assert log.quarantine.is_empty()
    assert set(ODD_TEXTS) <= set(log.messages["content"])


def test_one_huge_message_is_set_aside(tmp_path: Path) -> None:
    messages, reactions = clean_logs(seed=3)
    huge = messages.head(2).with_columns(
        message_id=pl.format("{}-huge", "message_id"), turn_index=pl.lit(99, pl.Int32), conversation_id=pl.lit("huge"),
        content=pl.when(pl.col("role") == "assistant").then(pl.lit("x" * 50_000_000)).otherwise("content"),
    )  # fmt: skip
    log = validated(pl.concat([messages, huge]), reactions)
    assert log.quarantine["defect"].to_list() == ["overlong_text"]


needs_halie = pytest.mark.skipif(not HALIE.exists(), reason="needs shared/data/halie_dialogue")
LAYOUT = MessagesLayout(columns={"experiment_arm": "arm", "use_case": "scenario_source"})
MARKS = ("interestingness", "boringness", "preference", "fluency", "sensibility", "specificity", "humanness")


@needs_halie
def test_halie_dialogue_counts_match_its_description() -> None:
    messages, reactions = (_read(str(HALIE), table, layout=LAYOUT) for table in ("messages", "reactions"))
    log = validated(messages, reactions, time="none", exposure="all_shown", signals=MARKS)
    assert messages.filter(pl.col("role") == "assistant").height == 2063
    assert log.replies["conversation_id"].n_unique() == log.replies["user_id"].n_unique() == 189
    assert log.replies["experiment_arm"].n_unique() == 4
    # Three replies are blank, and two are cut at `<span class=`, an upstream slip; their seven marks each go with them.
    named = dict(log.quarantine.group_by("table", "defect").len().select(pl.col("defect"), "len").iter_rows())
    assert named == {"empty_text": 3, "cut_markup": 2, "quarantined_message": 35}
    assert log.replies.height == log.accounting.mature == 2058
    marked = reactions["message_id"].n_unique()
    rate = reactions.filter(pl.col("signal") == "interestingness")["value"].mean()
    assert rate == pytest.approx(0.313, abs=0.0005)
    assert 0 <= round(rate * marked) - log.replies["label_interestingness"].sum() <= 5


@needs_halie
def test_halie_dialogue_becomes_a_signal_set() -> None:
    from rluf_assets.feedback.config import SignalSetConfig
    from rluf_assets.feedback.signal_set import build_signal_set

    messages, reactions = (_read(str(HALIE), table, layout=LAYOUT) for table in ("messages", "reactions"))
    log = validated(messages, reactions, time="none", exposure="all_shown", signals=MARKS)
    config = SignalSetConfig(
        signal="boringness", target_positive_rate=0.5, holdout_share=0.2, adversarial={"min_shown": 999}
    )
    built = build_signal_set(log.replies.lazy(), log.messages.lazy(), config, seed=0)
    holdout = built.holdout.collect()
    assert built.train["label"].mean() == 0.5
    assert not set(built.train["user_id"]) & set(holdout["user_id"])
    assert built.train["prompt"].list.len().max() == 19  # ten user messages, nine replies between them


needs_topical = pytest.mark.skipif(not TOPICAL.exists(), reason="needs shared/data/topical_chat")
# Each partner rates what the other says: of the two, the second stands for the assistant.
RATED = MessagesLayout(
    role=("agent",), roles={"agent_1": "user", "agent_2": "assistant"}, users="per_conversation",
    ratings={"partner_rating": {"Excellent": "love", "Not Good": "thumbs_down", "Poor": "thumbs_down"}},
)  # fmt: skip


@needs_topical
def test_topical_chat_counts_match_its_description() -> None:
    messages, reactions = (_read(str(TOPICAL), table, layout=RATED) for table in ("messages", "reactions"))
    assert messages.height == 46_903 and messages["conversation_id"].n_unique() == 2156
    log = validated(messages, reactions, time="none", exposure="all_shown")
    # Nothing is broken in it, and all conversations begin with agent_1. Ratings of the other side say nothing of a reply.
    assert dict(log.quarantine["defect"].value_counts().iter_rows()) == {"not_a_reply": 11_111 + 217 + 100}
    assert log.messages.height == 46_903 and log.replies.height == 22_678
    assert log.replies["label_love"].sum() == 11_751
    assert log.replies["label_thumbs_down"].sum() == 174 + 41


@needs_topical
def test_topical_chat_becomes_a_signal_set() -> None:
    from rluf_assets.feedback.config import SignalSetConfig
    from rluf_assets.feedback.signal_set import build_signal_set

    messages, reactions = (_read(str(TOPICAL), table, layout=RATED) for table in ("messages", "reactions"))
    log = validated(messages, reactions, time="none", exposure="all_shown")
    config = SignalSetConfig(signal="thumbs_down", target_positive_rate=0.2, holdout_share=0.2)
    built = build_signal_set(log.replies.lazy(), log.messages.lazy(), config, seed=0)
    holdout = built.holdout.collect()
    assert built.train["label"].mean() == 0.2
    assert not set(built.train["conversation_id"]) & set(holdout["conversation_id"])
    assert (
        built.rates["eligible_positives"] + built.rates["holdout_positives"] <= log.replies["label_thumbs_down"].sum()
    )


def test_reactions_in_a_side_file(tmp_path: Path) -> None:
    side = _write(tmp_path / "side.jsonl", {"message_id": "t1/2", "name": "love", "created_at": "2026-01-01T00:00:00Z"},
                  {"message_id": "t1/4", "name": "thumbs_down", "created_at": None})  # fmt: skip
    found = _read(side, "reactions", layout={"columns": {"reacted_at": "created_at"}})
    assert found.select("message_id", "signal", "value", "user_id").rows() == [
        ("t1/2", "love", 1, None), ("t1/4", "thumbs_down", 1, None),
    ]  # fmt: skip
    assert found["reaction_id"].n_unique() == 2
    assert found["reacted_at"].to_list() == [datetime(2026, 1, 1, tzinfo=UTC), None]
    messages = _read(_write(tmp_path / "log.jsonl", *OPENAI))
    log = validated(messages, found, time="none", exposure="all_shown")
    assert dict(log.replies.select("message_id", "label_love").iter_rows()) == {"t1/2": 1, "t1/4": 0}
