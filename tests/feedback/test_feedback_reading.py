"""One reader for every file: bytes, types, times and roles in their usual spellings, and every record accounted for."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rluf_assets.cli import app
from rluf_assets.errors import DataError, RlufError
from rluf_assets.feedback.config import IngestConfig
from rluf_assets.feedback.ingest import read_table
from rluf_assets.feedback.reading import read_day
from rluf_assets.feedback.sources import structural_errors
from rluf_assets.feedback.values import as_content
from rluf_assets.lake import Lake
from tests.feedback.logs import clean_logs, validated

CASES = Path(__file__).parent / "fixtures" / "cases"
AT = datetime(2026, 5, 3, 10, 0, 5, tzinfo=UTC)


def _read(source: Path | str, table: str = "messages", form: str = "canonical", **more: Any) -> pl.DataFrame:
    config = IngestConfig.model_validate({"source": str(source), "table": table, "format": form, **more})
    return read_table(config).collect(engine="streaming")


def _texts(source: Path | str, form: str = "canonical", **more: Any) -> list[str | None]:
    return _read(source, form=form, **more)["content"].to_list()


def _rluf(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, RlufError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


# ------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("name", ["feedback.json", "feedback.jsonl"])
def test_line_separators_within_texts_end_no_record(name: str) -> None:
    assert _texts(CASES / "06" / name, "open_webui") == [
        "Summarise this:\u2028first line\u2029second", "Two\x85lines.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "name"),
    [("messages", "messages.jsonl"), ("messages", "messages.json"), ("open_webui", "feedback.json"),
     ("canonical", "messages.csv"), ("langfuse", "observations.jsonl")],
)  # fmt: skip
def test_a_byte_order_mark_changes_nothing(form: str, name: str, tmp_path: Path) -> None:
    marked = CASES / "08" / name
    plain = tmp_path / name
    plain.write_bytes(marked.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    assert marked.read_bytes() != plain.read_bytes()
    assert _read(marked, form=form).equals(_read(plain, form=form)) and _read(marked, form=form).height == 2


ROWS = [
    {"conversation_id": "c", "message_id": "1", "turn_index": 0, "role": "user", "content": "Ω 😀 \u2028 \x0b \x0c \x85",
     "user_id": "u", "created_at": "2026-05-03T10:00:00Z"},
    {"conversation_id": "c", "message_id": "2", "turn_index": 0, "role": "assistant", "content": "a\tb, \"c\"; d",
     "user_id": "u", "created_at": "2026-05-03T10:00:05Z"},
]  # fmt: skip


def _csv(rows: list[dict[str, Any]], separator: str = ",") -> str:
    return pl.DataFrame(rows).write_csv(separator=separator)


WRITTEN = {
    "lines.jsonl": lambda: "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "escaped.jsonl": lambda: "\n".join(map(json.dumps, ROWS)),
    "crlf.jsonl": lambda: "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\r\n",
    "named_json_but_lines.json": lambda: "\n".join(map(json.dumps, ROWS)),
    "named_lines_but_array.jsonl": lambda: json.dumps(ROWS),
    "array.json": lambda: json.dumps(ROWS, indent=1, ensure_ascii=False),
    "array_of_a_line_each.json": lambda: "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
    "pretty.jsonl": lambda: "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "page.json": lambda: json.dumps({"data": ROWS, "meta": {"page": 1, "totalItems": 2}}),
    "pretty_page.json": lambda: json.dumps({"items": ROWS, "next_cursor": None}, indent=2),
    "pages.jsonl": lambda: "\n".join(json.dumps({"data": [row], "has_more": False}) for row in ROWS),
    "twice.jsonl": lambda: "\n".join(json.dumps(json.dumps(row)) for row in ROWS),
    "whole_text.json": lambda: json.dumps(json.dumps(ROWS)),
    "commas.jsonl": lambda: ",\n".join(map(json.dumps, ROWS)),
    "blank_lines.ndjson": lambda: "\n\n" + "\n \n".join(map(json.dumps, ROWS)) + "\n\n",
    "commas.csv": lambda: _csv(ROWS),
    "semicolons.csv": lambda: _csv(ROWS, ";"),
    "tabs.tsv": lambda: _csv(ROWS, "\t"),
}
ENCODED = {
    "": str.encode,
    "utf-8 with mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16 without mark": lambda text: text.encode("utf-16-le"),
    "gz": lambda text: gzip.compress(text.encode()),
    "gz of utf-16": lambda text: gzip.compress(text.encode("utf-16")),
    "bz2": lambda text: bz2.compress(text.encode()),
    "xz": lambda text: lzma.compress(text.encode()),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_rows_however_written_and_encoded(name: str, tmp_path: Path) -> None:
    wanted = pl.DataFrame(ROWS)["content"].to_list()
    for how, encode in ENCODED.items():
        ending = next((f".{one}" for one in ("gz", "bz2", "xz") if how.startswith(one)), "")
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(encode(WRITTEN[name]()))
        found = _read(path)
        assert found["content"].to_list() == wanted, how
        assert found["created_at"][1] == AT, how


def test_files_of_one_source_may_have_other_columns_in_another_order(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        folder = tmp_path / ending
        folder.mkdir()
        first = pl.DataFrame(ROWS[:1])
        second = pl.DataFrame(ROWS[1:]).select(pl.all().reverse()).with_columns(locale=pl.lit("en"))
        second = second.select(sorted(second.columns))
        for name, frame in (("a", first), ("b", second), ("c", first.head(0))):
            path = folder / f"{name}.{ending}"
            {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[ending](path)
        (folder / f"d.{ending}").write_bytes(b"" if ending != "parquet" else (folder / "c.parquet").read_bytes())
        found = _read(folder / f"*.{ending}")
        assert found["content"].to_list() == [row["content"] for row in ROWS]
        assert found["locale"].to_list() == [None, "en"]


@pytest.mark.parametrize("form", ["canonical", "langfuse", "messages"])
def test_half_a_surrogate_pair_costs_its_row_only(form: str, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS]
    if form == "langfuse":
        lines = [
            json.dumps({"id": f"o{n}", "trace_id": f"t{n}", "session_id": f"s{n}", "user_id": "u", "type": "GENERATION",
                        "start_time": "2026-05-03T10:00:00Z", "input": "hi", "output": f"reply {n}"})
            for n in range(2)
        ]  # fmt: skip
    elif form == "messages":
        lines = [
            json.dumps({"id": f"c{n}", "user": "u", "messages": [
                {"role": "user", "content": "hi", "created_at": "2026-05-03T10:00:00Z"},
                {"role": "assistant", "content": f"reply {n}", "created_at": "2026-05-03T10:00:05Z"}]})
            for n in range(2)
        ]  # fmt: skip
    else:
        lines = [line.replace("a\\tb", f"reply {n}") for n, line in enumerate([lines[0], lines[1]])]
    for half in (r"\ud83d", r"\uDE00", r"\ud83d\ud83d", r"\ude00\ud83d"):
        broken = [lines[0], lines[1].replace("reply 1", f"reply 1 {half} \\ud83d\\ude00")]
        path = tmp_path / "log.jsonl"
        path.write_text("\n".join(broken))
        log = validated(_read(path, form=form), pl.DataFrame(schema=_read(path, "reactions", "langfuse").schema))
        assert log.quarantine["defect"].to_list() == ["invalid_text"]
        assert "\ufffd" in log.quarantine["row"][0] and "😀" in log.quarantine["row"][0]
    path.write_text(
        "\n".join(line.replace("reply 1", r"reply 1 \\ud83d") for line in lines)
    )  # a backslash, and letters
    assert any(text.startswith("reply 1 \\ud83d") for text in _texts(path, form) if text)


def test_what_cannot_be_read_is_shown_with_file_and_line(tmp_path: Path) -> None:
    whole = [json.dumps(row) for row in ROWS]
    path = tmp_path / "log.jsonl"
    for lines, message in (
        ([*whole, whole[0][:40]], r'log\.jsonl, line 3, the last one: cut within a record: .*"message_id": "'),
        ([whole[0], "{'single': 'quotes'}", whole[1]], r"log\.jsonl, line 2: cannot be read as JSON .*\{'single'"),
        ([whole[0], "12"], r"log\.jsonl, line 2: found 12, expected a record"),
    ):
        path.write_text("\n".join(lines))
        for form in ("canonical", "langfuse"):
            with pytest.raises(DataError, match=message) as raised, structural_errors(str(path)):
                _read(path, form=form)
            assert ("fetch or export" in str(raised.value)) == ("cut" in message)


# ------------------------------------------------------------------------------------------------------------- types


def test_ids_and_texts_of_a_csv_stay_text_and_whole_floats_are_integers(tmp_path: Path) -> None:
    messages = _read(CASES / "17" / "messages.csv")
    assert messages.select("conversation_id", "message_id", "content", "user_id").row(1) == (
        "0012",
        "008",
        "144",
        "0991",
    )
    log = validated(messages, _read(CASES / "17" / "reactions.jsonl", "reactions"), exposure="all_shown")
    assert log.replies["label_love"].to_list() == [1]
    assert _read(CASES / "17" / "reactions_float.csv", "reactions")["value"].to_list() == [1]
    floats = _read(CASES / "17" / "messages_float_turn.csv")
    assert floats["turn_index"].to_list() == [0, 0] and floats["content"].to_list() == ["1.5", "2.25"]
    odd = [{**ROWS[0], "content": text, "message_id": text} for text in ("1e5", "true", "NULL", "nan", "-0", "1_000")]
    (tmp_path / "odd.csv").write_text(_csv(odd))
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, odd)))
    for name in ("odd.csv", "odd.jsonl"):
        assert (
            _texts(tmp_path / name) == _read(tmp_path / name)["message_id"].to_list() == [row["content"] for row in odd]
        )


@pytest.mark.parametrize("name", ["only_parts.jsonl", "mixed.jsonl", "mixed_parts_first.jsonl"])
def test_of_a_list_of_parts_the_text_parts_are_the_text(name: str) -> None:
    found = dict(_read(CASES / "13" / name, form="messages").select("message_id", "content").iter_rows())
    assert (found["m1"], found["m2"]) == ("What is on this picture?", "A cat.")


def test_json_of_parts_never_passes_as_text_and_other_json_does(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "image_url", "image_url": {"url": "x"}},
             {"type": "input_text", "text": "two"}]  # fmt: skip
    image = [{"type": "image", "source": {"data": "…"}}]
    own = '{"type": "cat", "name": "Tom"}', "[1, 2]", '["a"]', '[{"type": 5}]', '[{"type": "text", "text"'
    contents = [parts, json.dumps(parts), image, json.dumps(image), *own]
    rows = [{**ROWS[0], "message_id": str(n), "content": content} for n, content in enumerate(contents)]
    wanted = ["one two", "one two", None, None, *own]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert _texts(tmp_path / "m.jsonl") == wanted
    as_text = [{**row, "content": row["content"] if isinstance(row["content"], str) else json.dumps(row["content"])}
               for row in rows]  # fmt: skip
    (tmp_path / "m.csv").write_text(_csv(as_text))
    assert _texts(tmp_path / "m.csv") == wanted
    listed = pl.DataFrame({**ROWS[0], "content": [parts]})
    listed.write_parquet(tmp_path / "m.parquet")
    assert _texts(tmp_path / "m.parquet") == ["one two"]
    assert listed.select(c=as_content(pl.col("content"), listed.schema["content"]))["c"].to_list() == ["one two"]


def test_content_of_several_shapes_in_one_log(tmp_path: Path) -> None:
    contents = ["hi", [{"type": "text", "text": "a"}], {"type": "text", "text": "b"}, None, [{"type": "image", "n": 1}]]
    line = {"id": "c", "user": "u", "messages": [{"role": "user", "content": one} for one in contents]}
    for order in (contents, contents[::-1]):
        line["messages"] = [{"role": "user", "content": one} for one in order]
        (tmp_path / "m.jsonl").write_text(json.dumps(line))
        found = _texts(tmp_path / "m.jsonl", "messages")
        assert found == [{"hi": "hi"}.get(str(one)) or ("a" if one == contents[1] else "b" if one == contents[2] else None)
                         for one in order]  # fmt: skip


# ------------------------------------------------------------------------------------------------- nothing and others


@pytest.mark.parametrize("form", ["canonical", "messages", "sharegpt", "langfuse", "langsmith", "otel", "open_webui"])
@pytest.mark.parametrize("name", ["zero.jsonl", "empty.json", "blank.jsonl", "header.csv"])
def test_an_empty_file_is_a_day_of_no_rows(form: str, name: str, tmp_path: Path) -> None:
    for table in ("messages", "reactions"):
        assert _read(CASES / "19" / name, table, form).is_empty()
    pl.DataFrame(schema={"reaction_id": pl.String}).write_parquet(tmp_path / "r.parquet")
    assert _read(tmp_path / "r.parquet", "reactions", form).is_empty()
    found = read_day(IngestConfig(format=form, table="reactions", source=str(CASES / "19" / name)),  # type: ignore[arg-type]
                     tmp_path / "out.parquet", f"{tmp_path}/lake/raw_reactions/d/f")  # fmt: skip
    assert (found.records, found.rows) == (0, 0) and pl.read_parquet(tmp_path / "out.parquet").is_empty()


def test_what_is_not_recognised_is_an_error_that_says_what_it_looks_like(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path)]
    with pytest.raises(
        DataError, match=r"nothing recognised as otel in 1 records with info, data\. They look like mlflow"
    ):
        _rluf("ingest", "--format", "otel", "--source", str(CASES / "26" / "traces.jsonl"), *home)
    with pytest.raises(DataError, match=r"They look like chatgpt") as raised:
        _read(CASES / "24" / "conversations.json", form="messages")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 800
    with pytest.raises(DataError, match="They look like librechat"):
        _read(CASES / "25" / "export.json", form="messages")
    scores = Path(__file__).parent / "fixtures" / "langfuse_scores.jsonl"
    with pytest.raises(DataError, match=r"They look like langfuse\. Name the format: langfuse"):
        _rluf("ingest", "--format", "langsmith", "--source", str(scores), *home)
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"speaker": "me", "line": "hi"}\n' * 3)
    for form in ("canonical", "messages", "langfuse", "open_webui"):
        with pytest.raises(DataError, match=r"in 3 records with speaker, line"):
            _rluf("ingest", "--format", form, "--source", str(odd), *home)


def test_a_column_that_the_layout_names_wins_over_one_of_that_name(tmp_path: Path) -> None:
    layout = {"columns": {"message_id": "messageId", "conversation_id": "conversationId", "content": "text",
                          "user_id": "user", "role": "sender", "created_at": "createdAt"}}  # fmt: skip
    with pytest.raises(DataError, match="column 'turn_index' of the messages table is missing"):
        _read(CASES / "25" / "mongo.jsonl", layout=layout)
    lines = (CASES / "25" / "mongo.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "turn_index": 0} for line in lines]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = _read(tmp_path / "m.jsonl", layout=layout)
    assert found.select("role", "content").rows() == [("user", "Joke?"), ("assistant", "")]
    assert found["created_at"].null_count() == 0  # MongoDB's {"$date": ...}


def test_ingest_tells_what_it_read_and_what_it_left(tmp_path: Path) -> None:
    said = _rluf(
        "ingest", "--format", "open_webui", "--source", str(CASES / "40" / "feedback.json"), "--home", str(tmp_path)
    )
    assert said.splitlines() == [
        "1 records read: 0 messages, 0 users", "  1 records without messages (feedback without a chat)",
    ]  # fmt: skip
    reactions = _rluf("ingest", "--format", "open_webui", "--table", "reactions", "--home", str(tmp_path),
                      "--source", str(CASES / "40" / "feedback.json"))  # fmt: skip
    assert reactions.splitlines() == ["2026-05-03  2 reactions", "1 records read: 2 reactions, 1 users"]


# ------------------------------------------------------------------------------------------------------- accounting


def test_rows_without_a_time_go_to_the_first_day_asked_for(tmp_path: Path) -> None:
    source = str(CASES / "16" / "messages.csv")
    said = _rluf("ingest", "--format", "canonical", "--source", source, "--home", str(tmp_path / "all"))
    assert said.splitlines()[:3] == ["2026-05-03  4 messages", "2026-05-04  2 messages",
                                     "6 records read: 6 messages, 3 users"]  # fmt: skip
    assert "1 of 5 values of created_at cannot be read; the first is '05/04/2026 10:00'" in said
    assert "messages.csv, record 5" in said
    later = _rluf(
        "ingest", "--format", "canonical", "--source", source, "--day", "2026-05-04", "--home", str(tmp_path / "one")
    )
    assert later.startswith(
        "2026-05-04  4 messages"
    )  # the first asked for here: its own two, and the two without a time
    then = _rluf(
        "ingest", "--format", "canonical", "--source", source, "--day", "2026-05-03", "--home", str(tmp_path / "one")
    )
    assert then.splitlines()[:2] == ["2026-05-03  2 messages", "6 records read: 2 messages, 3 users"]
    assert "2 messages without a readable time: set aside with the first day of their file" in then
    for home in ("all", "one"):
        lake = Lake(str(tmp_path / home / "lake"))
        days = [lake.current("raw_messages", day) for day in lake.partitions("raw_messages")]
        ids = pl.concat([pl.read_parquet(day.path("messages.parquet")) for day in days])["message_id"]
        assert sorted(ids) == ["m1", "m2", "m3", "m4", "m5", "m6"]
        for day in days:
            assert (
                day.metrics["records"] == day.rows["messages"] + day.metrics["other_day"] + day.metrics["undated"] == 6
            )


def test_no_readable_time_at_all_shows_the_first(tmp_path: Path) -> None:
    rows = [{**row, "created_at": "05/04/2026 10:00"} for row in ROWS]
    (tmp_path / "m.csv").write_text(_csv(rows))
    with pytest.raises(DataError, match=r"none of the 2 values of created_at .*first is '05/04/2026 10:00' .*record 1"):
        _rluf("ingest", "--format", "canonical", "--source", str(tmp_path / "m.csv"), "--home", str(tmp_path))


def test_days_of_local_files_are_put_together_to_days_of_utc(tmp_path: Path) -> None:
    times = ["2026-05-02 23:30", "2026-05-03 00:30", "2026-05-03 12:00", "2026-05-04 01:59", "2026-05-04 02:01"]
    rows = [{**ROWS[0], "message_id": str(n), "created_at": at} for n, at in enumerate(times)]
    for day in ("2026-05-02", "2026-05-03", "2026-05-04"):
        mine = [row for row in rows if str(row["created_at"]).startswith(day)]
        (tmp_path / f"{day}.csv").write_text(_csv(mine))
    layout = {"time_zone": "Europe/Berlin"}
    found = {
        day: _read(tmp_path / "{day}.csv", day=date(2026, 5, day), layout=layout)["message_id"].to_list()
        for day in (2, 3, 4)
    }
    assert found == {2: ["0", "1"], 3: ["2", "3"], 4: ["4"]}  # two hours ahead of UTC


TABLES = st.sampled_from(["jsonl", "json", "csv", "parquet", "jsonl.gz", "bom.jsonl", "crlf.csv", "utf16.csv"])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), ending=TABLES, parts=st.integers(1, 3), shuffled=st.booleans(), lost=st.integers(0, 3)
)
def test_the_same_log_in_any_file_gives_the_same_days_and_every_record_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, seed: int, ending: str, parts: int, shuffled: bool, lost: int
) -> None:
    """Two days of messages, some without a time: written any way, every record stands in one day."""
    folder = tmp_path_factory.mktemp("log")
    messages, _ = clean_logs(days=2, users_per_day=3, seed=seed)
    untimed = pl.int_range(pl.len()) < lost
    messages = messages.with_columns(created_at=pl.when(~untimed).then("created_at"))
    written = messages.sample(fraction=1, shuffle=True, seed=seed) if shuffled else messages
    for n, part in enumerate(written.iter_slices(max(1, -(-written.height // parts)))):
        _write(part, folder / f"part-{n}.{ending}")
    source = str(folder / f"part-*.{ending}")
    days = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
    found = []
    for nth, day in enumerate(days):
        config = IngestConfig(table="messages", source=source, day=day, undated="other" if nth else "keep")
        read = read_day(config, folder / "out.parquet", f"{folder}/lake/raw_messages/d/f")
        table = pl.read_parquet(folder / "out.parquet")
        assert read.records == messages.height == table.height + sum(read.others.values())
        found.append(table)
    assert pl.concat(found).sort("message_id").equals(messages.sort("message_id"))


def _write(frame: pl.DataFrame, path: Path) -> None:
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        frame.write_parquet(path)
        return
    text = frame.with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z"))
    lines = text.write_ndjson()
    match kind:
        case "csv":
            path.write_text(text.write_csv())
        case "crlf.csv":
            path.write_bytes(text.write_csv().replace("\n", "\r\n").encode())
        case "utf16.csv":
            path.write_bytes(text.write_csv().encode("utf-16"))
        case "json":
            path.write_text("[" + ",".join(lines.splitlines()) + "]")
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "bom.jsonl":
            path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
        case _:
            path.write_text(lines)


def test_a_records_quote_that_never_closes_is_not_swallowed(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "message_id": "3"}]
    text = _csv(rows).replace("c,3,0,user,", 'c,3,0,user,"')
    (tmp_path / "m.csv").write_text(text + "c,4,0,user,x,u,2026-05-03T10:00:00Z\n")
    shutil.copy(tmp_path / "m.csv", tmp_path / "copy.csv")
    with pytest.raises(DataError):
        _rluf("ingest", "--format", "canonical", "--source", str(tmp_path / "m.csv"), "--home", str(tmp_path))
