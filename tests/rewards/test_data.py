"""What would spoil a model is refused by name, before any training."""

from __future__ import annotations

import gzip
import json

import polars as pl
import pytest

from rluf_assets.errors import DataError
from rluf_assets.rewards import data
from tests.rewards.conftest import labelled_frame, pair_frame, small_config

CONFIG = small_config()
PAIRS = small_config(objective="bradley_terry")


def test_good_rows_come_out_in_one_form(labelled):
    rows = data.labelled_rows(labelled, "train", CONFIG)
    assert rows.schema["completion"] == pl.String
    assert rows["label"].to_list() == labelled["label"].cast(pl.Float64).to_list()
    assert rows["weight"].unique().to_list() == [1.0]
    plain = pl.DataFrame({"prompt": ["a", "b"], "completion": ["x", "y"], "label": [0, 1], "sample_weight": [1.0, 2.0]})
    rows = data.labelled_rows(plain, "train", CONFIG)
    assert rows["prompt"].to_list()[0] == [{"role": "user", "content": "a"}]
    assert rows["weight"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("label"), r"missing column \['label'\]"),
        (lambda f: f.clear(), "no rows"),
        (lambda f: f.with_columns(label=pl.lit(True)), "both classes"),
        (lambda f: f.with_columns(label=pl.lit(float("nan"))), "NaN or null"),
        (lambda f: f.with_columns(label=pl.lit(None, pl.Int8)), "NaN or null"),
        (lambda f: f.with_columns(label=pl.lit(0.5)), "not 0 or 1"),
        (lambda f: f.with_columns(label=pl.lit(2)), "not 0 or 1"),
        (lambda f: f.with_columns(completion=[{"role": "user", "content": "hi"}]), "240 of 240 rows: wrong_role"),
        (lambda f: f.with_columns(label=pl.lit("yes")), "expected true/false or 0/1"),
        (lambda f: f.with_columns(completion=pl.lit("  ")), "240 of 240 rows: empty_reply - empty completion"),
        (lambda f: f.with_columns(completion=pl.lit(None, pl.String)), "empty completion"),
        (lambda f: f.with_columns(completion=pl.lit(3)), "expected text or a list"),
        (lambda f: f.with_columns(prompt=pl.lit(3)), "expected text or a list of messages"),
        (lambda f: f.with_columns(prompt=pl.col("prompt").list.head(0)), "prompt is empty"),
        (lambda f: f.with_columns(sample_weight=pl.lit(-1.0)), "sample_weight"),
    ],
)
def test_bad_labelled_rows_are_named(labelled, change, message):
    with pytest.raises(DataError, match=message):
        data.labelled_rows(change(labelled), "train", CONFIG)


def test_the_first_bad_rows_are_listed(labelled):
    bad = labelled.with_columns(label=pl.Series([1.0, 0.0, float("nan")] * 80))
    with pytest.raises(
        DataError, match=r"80 of 240 rows: no_label - label is NaN or null \(row 2, 5, 8, 11, 14, \.\.\.\)"
    ):
        data.labelled_rows(bad, "train", CONFIG)


def test_soft_labels_are_taken_when_asked_for(labelled):
    soft = labelled.with_columns(label=pl.Series([0.1, 0.9] * 120))
    assert data.labelled_rows(soft, "train", small_config(soft_labels=True))["label"].max() == 0.9
    with pytest.raises(DataError, match="from 0 to 1"):
        data.labelled_rows(soft.with_columns(label=pl.lit(1.5)), "train", small_config(soft_labels=True))


def test_empty_replies_can_be_dropped(labelled):
    some = labelled.with_columns(
        completion=pl.Series(["", *(r[0]["content"] for r in labelled["completion"].to_list()[1:])])
    )
    assert len(data.labelled_rows(some, "train", small_config(on_empty_completion="drop"))) == 239


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("rejected"), "missing column"),
        (lambda f: f.with_columns(chosen=pl.col("rejected")), "equals rejected in every pair"),
        (lambda f: f.with_columns(chosen=pl.col("chosen").list.concat("chosen")), "not exactly one message"),
        (lambda f: f.with_columns(chosen=pl.lit("")), "160 of 160 rows: empty_reply"),
    ],
)
def test_bad_pairs_are_named(pairs, change, message):
    with pytest.raises(DataError, match=message):
        data.pair_rows(change(pairs), "train", PAIRS)


def test_implicit_prompts_are_split_at_the_last_reply(pairs):
    whole = pairs.with_columns(pl.col("prompt").list.concat(side).alias(side) for side in ("chosen", "rejected"))
    explicit = data.pair_rows(pairs, "train", PAIRS)
    implicit = data.pair_rows(whole.drop("prompt"), "train", PAIRS)
    assert implicit.select("prompt", "chosen", "rejected").equals(explicit.select("prompt", "chosen", "rejected"))


def test_margins_are_required_where_used(pairs):
    with pytest.raises(DataError, match="margin"):
        data.pair_rows(pairs, "train", small_config(objective="bradley_terry", use_margin=True))


@pytest.mark.parametrize("content", [b"", b"{not json", b"PAR1 and rubbish"])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_unreadable_files_are_named(tmp_path, content, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="rows"):
        data.read_table(path)


ROWS = [
    {"prompt": f"Q {i} Ω", "completion": f"A {i} \u2028 😀", "label": i % 2, "user_id": f"00{i}",
     "created_at": 1_767_225_600 + i}
    for i in range(4)
]  # fmt: skip
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
WRITTEN = {
    "plain.jsonl": LINES.encode(), "bom.jsonl": b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(),
    "wide.jsonl": LINES.encode("utf-16"), "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "array.json": json.dumps(ROWS, indent=1).encode(), "page.json": json.dumps({"data": ROWS, "total": 4}).encode(),
    "rows.csv": pl.DataFrame(ROWS).write_csv().encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_rows_are_read_however_they_are_written(tmp_path, name):
    (tmp_path / name).write_bytes(WRITTEN[name])
    rows = data.labelled_rows(data.read_table(tmp_path / name), "train", small_config())
    assert [prompt[0]["content"] for prompt in rows["prompt"]] == [row["prompt"] for row in ROWS]
    assert rows["completion"].to_list() == [row["completion"] for row in ROWS]
    assert rows["label"].to_list() == [0, 1, 0, 1] and rows["user_id"].to_list() == ["000", "001", "002", "003"]
    assert data.times_of(rows).dt.epoch("s").to_list() == [row["created_at"] for row in ROWS]


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000, 0.5])
def test_epochs_in_any_unit_and_texts_are_times(unit):
    at = [1_767_225_600 + 3600 * i for i in range(3)]
    numbers = pl.DataFrame({"created_at": at if unit == 0.5 else [one * unit for one in at]})
    texts = pl.DataFrame({"created_at": [f"2026-01-01 0{i}:00:00+00" for i in range(3)]})
    assert data.times_of(numbers).equals(data.times_of(texts))


def test_what_was_no_text_costs_its_row():
    first = pl.col("completion").list.first().struct.field("content")
    frame = labelled_frame(100).with_columns(
        completion=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("caf\ufffd")).otherwise(first)
    )
    aside = data.new_aside(frame, "train", small_config())
    assert len(data.labelled_rows(frame, "train", small_config(), aside)) == 99
    assert aside.rows == {3: "invalid_text"}


def test_validation_keeps_users_whole_and_stays_put_when_rows_are_added():
    frame, more = labelled_frame(600), labelled_frame(900)
    learned, held = data.split_validation(frame, 0.2, seed=3)
    assert 0.1 < held.mean() < 0.3
    assert (learned == ~held).all()
    both = set(frame.filter(held)["user_id"]) & set(frame.filter(~held)["user_id"])
    assert not both
    grown = data.split_validation(more, 0.2, seed=3)[1]
    of_user = dict(zip(more["user_id"], grown, strict=True))
    assert all(of_user[user] == mine for user, mine in zip(frame["user_id"], held, strict=True))


def timed_frame(rows, seed=0):
    """Rows over 100 hours; every second user comes back at the end."""
    frame = labelled_frame(rows, seed)
    hours = pl.int_range(rows, eager=True) * 100 // rows
    start = pl.lit("2026-01-01").str.to_datetime(time_zone="UTC")
    return frame.with_columns(
        created_at=start + pl.duration(hours=hours),
        user_id=pl.Series([f"u{i % 7}" if i % 2 else f"new{i}" for i in range(rows)]),
    )


@pytest.mark.parametrize("as_text", [False, True])
def test_validation_rows_are_later_than_training_rows_and_of_new_users(as_text):
    frame = timed_frame(600)
    if as_text:
        frame = frame.with_columns(pl.col("created_at").dt.to_string("iso:strict"))
    learned, held = data.split_validation(frame, 0.2, seed=3)
    assert not (learned & held).any()
    assert frame.filter(learned)["created_at"].max() < frame.filter(held)["created_at"].min()
    assert not set(frame.filter(learned)["user_id"]) & set(frame.filter(held)["user_id"])
    # What is late but of known users is in neither.
    assert learned.sum() > 450
    assert held.sum() == pytest.approx(60, abs=10)


def test_rows_at_one_moment_or_of_one_crowd_are_split_by_users():
    frame = labelled_frame(600).with_columns(created_at=pl.lit("2026-01-01").str.to_datetime(time_zone="UTC"))
    learned, held = data.split_validation(frame, 0.2, seed=3)
    assert 0.1 < held.mean() < 0.3
    assert (learned == ~held).all()


def test_warm_start_replays_the_asked_share_of_old_rows():
    old, new = labelled_frame(300, seed=1), labelled_frame(100, seed=2)
    times = [pl.Series(["2026-01-01T00:00:00"] * 300), pl.Series(["2026-02-01T00:00:00"] * 100)]
    frame = pl.concat(
        [f.with_columns(created_at=t.str.to_datetime(time_zone="UTC")) for f, t in zip((old, new), times, strict=True)]
    )
    rows = data.new_and_replayed(frame, "2026-01-15T00:00:00+00:00", 0.5, seed=0)
    assert rows["created_at"].dt.month().value_counts(sort=True)["count"].to_list() == [100, 100]
    assert len(data.new_and_replayed(frame, "2026-01-15T00:00:00+00:00", 0.0, seed=0)) == 100
    assert len(data.new_and_replayed(frame, None, 0.5, seed=0)) == 400


def test_limit_is_a_seeded_uniform_sample():
    frame = pair_frame(100)
    kept = data.limit_rows(frame, 30, seed=1)
    assert len(kept) == 30
    assert kept.equals(data.limit_rows(frame, 30, seed=1))
    assert not kept.equals(data.limit_rows(frame, 30, seed=2))
