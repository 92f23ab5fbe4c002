"""Rows that cannot be used are set aside with a reason and told; the rest is used; none vanishes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from rluf_assets.cli import app
from rluf_assets.errors import DataError
from rluf_assets.rewards import data
from rluf_assets.rewards.calibration import load_calibration
from rluf_assets.rewards.encoding import Encoder
from rluf_assets.rewards.fitting import encode_rows
from rluf_assets.rewards.messages import Unread, messages_of
from rluf_assets.rewards.set_aside import ROW
from tests.rewards.conftest import labelled_frame, make_tokenizer, pair_frame, small_config

SETTINGS = {"epochs": 1, "batch_tokens": 1024, "max_length": 128, "evaluation": {"bootstrap_resamples": 50}}
USER = [{"role": "user", "content": "tell me a story"}]
GOOD = {"prompt": USER, "completion": "Here is what to do."}


def parts(text, *more):
    return [{"type": "text", "text": text}, *more]


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
BAD_LABELLED = {
    "empty_reply": {"completion": " \n "},
    "empty_prompt": {"prompt": [{"role": "user", "content": None}]},
    "wrong_role": {"completion": [{"role": "user", "content": "mine"}]},
    "not_one_message": {"completion": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "no_label": {"label": None},
    "bad_label": {"label": 0.5},
    "bad_weight": {"sample_weight": float("inf")},
    "parts_other_than_text": {"prompt": [{"role": "user", "content": parts("what is this", IMAGE)}]},
    "not_messages": {"prompt": [{"from": "human", "value": "hi"}]},
    "too_long": {"completion": "word " * 300},
}


def write_lines(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def rluf(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(base, tmp_path_factory):
    """A model trained on a file with one row of each kind that cannot be used; and what was said."""
    home = tmp_path_factory.mktemp("home")
    records = [{**record, "sample_weight": 1.0} for record in labelled_frame(400).to_dicts()]
    for place, change in enumerate(BAD_LABELLED.values()):
        records.insert(30 * place + 7, {**records[0], **change})
    write_lines(home / "train.jsonl", records)
    write_lines(
        home / "eval.jsonl", [*labelled_frame(200, seed=2).to_dicts(), {**GOOD, "label": True, "completion": ""}]
    )
    (home / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    result = rluf(
        *("train-reward", "--objective", "love", "--train", home / "train.jsonl", "--eval", home / "eval.jsonl"),
        *("--base", base, "--out", home / "model", "--config", home / "config.yaml"),
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return home / "model", result.output


def test_training_goes_on_without_them_and_says_so_everywhere(model):
    folder, said = model
    aside = [json.loads(line) for line in (folder / "set_aside.jsonl").read_text().splitlines()]
    assert [(a["row"], a["reason"]) for a in aside if a["file"] == "train"] == [
        (30 * place + 7, reason) for place, reason in enumerate(BAD_LABELLED)
    ]
    assert [(a["row"], a["reason"]) for a in aside if a["file"] == "holdout"] == [(200, "empty_reply")]
    line = "Set aside: 10 of 410 rows of train ("
    assert line in said
    assert "1 of 201 rows of holdout (1 empty_reply)" in said
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["set_aside"]["train"]["set_aside"] == 10
    assert metrics["set_aside"]["train"]["reasons"] == dict.fromkeys(metrics["set_aside"]["train"]["reasons"], 1)
    training = metrics["training"]
    assert training["train"] + training["validation"] + training["left_out"] + training["set_aside"] == 410
    assert (metrics["baseline_train_rows"], metrics["model_train_rows"]) == (training["train"], training["train"])
    report = (folder / "report.html").read_text()
    assert line in report
    assert "The baselines learned from" in report


def test_a_file_of_too_many_such_rows_is_refused_before_training_with_counts(base, tmp_path):
    records = [
        {**record, "completion": ""} if i < 30 else record for i, record in enumerate(labelled_frame(400).to_dicts())
    ]
    frame = data.read_table(write_lines(tmp_path / "train.jsonl", records))
    with pytest.raises(
        DataError, match=r"train: 30 of 400 rows cannot be used, more than the 5%.*30 of 400 rows: empty_reply"
    ):
        data.labelled_rows(frame, "train", small_config())
    assert len(data.labelled_rows(frame, "train", small_config(max_set_aside_share=0.1))) == 370
    assert len(data.labelled_rows(frame, "train", small_config(on_empty_completion="drop"))) == 370
    with pytest.raises(DataError, match="empty completion in 30 of 400 rows"):
        data.labelled_rows(frame, "train", small_config(on_empty_completion="error"))


def test_scoring_sets_aside_what_has_no_score_and_keeps_the_order_of_the_rest(model, tmp_path):
    bad = [GOOD | BAD_LABELLED[reason] for reason in
           ("empty_reply", "empty_prompt", "wrong_role", "parts_other_than_text", "too_long")]  # fmt: skip
    records = [GOOD | {"id": i, "completion": f"Reply {i}."} for i in range(120)]
    for place, change in enumerate([*bad, GOOD | {"completion": None}]):
        records.insert(10 * place + 3, {"id": None, **change})
    source = write_lines(tmp_path / "in.jsonl", records)
    arguments = ["score", "--model", model[0], "--input", source, "--output", tmp_path / "out" / "scored.jsonl"]
    result = rluf(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    scored = pl.read_ndjson(tmp_path / "out" / "scored.jsonl")
    assert scored["id"].to_list() == list(range(120))
    assert scored["score"].is_finite().all()
    aside = [json.loads(line) for line in (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()]
    assert [(a["row"], a["reason"]) for a in aside] == [
        (3, "empty_reply"), (13, "empty_prompt"), (23, "wrong_role"), (33, "parts_other_than_text"), (43, "too_long"),
        (53, "empty_reply"),
    ]  # fmt: skip
    assert len(scored) + len(aside) == len(records)
    assert "Set aside: 6 of 126 rows" in result.output
    refused = rluf(*arguments, "--max-set-aside-share", "0.01")
    assert isinstance(refused.exception, DataError)
    # Refused for what the texts show, before the model that would tell what is too long is loaded.
    assert "5 of 126 rows cannot be used, more than the 1%" in str(refused.exception)


@pytest.mark.parametrize(
    "content",
    [
        "tell me a story",
        parts("tell me a story"),
        parts("tell me ", {"type": "text", "text": "a story"}),
        json.dumps(parts("tell me a story")),
        ["tell me ", {"type": "input_text", "text": "a story"}],
    ],
)
def test_one_text_has_one_score_however_it_is_written(model, tmp_path, content):
    prompts = [
        "tell me a story",
        USER,
        [{"role": "USER", "content": content}],
        json.dumps(USER),
        {"role": "human", "content": content},
    ]
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": prompt, "completion": "hello"} for prompt in prompts])
    result = rluf("score", "--model", model[0], "--input", source, "--output", tmp_path / "out.parquet")
    assert result.exit_code == 0, (result.output, result.exception)
    assert pl.read_parquet(tmp_path / "out.parquet")["score"].n_unique() == 1


@pytest.mark.parametrize(
    "text", ['[{"type": "fruit", "name": "apple"}]', "[1, 2]", '[{"role": "admin", "content": 1}]', "[", "{}"]
)
def test_a_reply_that_is_json_of_its_own_stays_the_text_it_is(text):
    assert messages_of(text, "assistant") == [{"role": "assistant", "content": text}]
    with pytest.raises(Unread, match="parts_other_than_text"):
        messages_of(json.dumps([IMAGE]), "user")


def test_parts_in_parquet_and_pairs_are_read_too(tmp_path):
    texts = [("hi", "hello", "no"), ("hey", "hello", "never")]
    for name, form in (("parts", parts), ("mixed", lambda t: parts(t) if t == "hi" else t), ("plain", str)):
        rows = [
            {
                "prompt": [{"role": "user", "content": form(asked)}],
                "chosen": [{"role": "assistant", "content": form(chosen)}],
                "rejected": [{"role": "assistant", "content": form(rejected)}],
            }
            for asked, chosen, rejected in texts
        ]
        frames = [data.read_table(write_lines(tmp_path / f"{name}.jsonl", rows))]
        if name != "mixed":
            pl.DataFrame(rows).write_parquet(tmp_path / f"{name}.parquet")
            frames.append(data.read_table(tmp_path / f"{name}.parquet"))
        for frame in frames:
            pairs = data.pair_rows(frame, "train", small_config(objective="bradley_terry"))
            found = [
                (row["prompt"][0]["content"], row["chosen"], row["rejected"]) for row in pairs.iter_rows(named=True)
            ]
            assert found == texts, name


def test_pairs_that_are_one_text_when_cut_or_rendered_are_set_aside(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    frame = pl.concat([pair_frame(60), pair_frame(1).with_columns(
        chosen=[{"role": "assistant", "content": "No. "}], rejected=[{"role": "assistant", "content": "No."}],
    )])  # fmt: skip
    config = small_config(objective="bradley_terry")
    aside = data.new_aside(frame, "train", config)
    rows, encoding, counts = encode_rows(
        data.pair_rows(frame, "train", config, aside), Encoder(tokenizer, 128), config, aside
    )
    assert aside.rows == {60: "alike_when_cut"}
    assert rows[ROW].to_list() == list(range(60))
    assert len(encoding.token_ids) == 120
    assert counts["dropped_too_long"] == 0


def test_rows_that_the_models_template_refuses_are_set_aside_alone():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    )
    frame = labelled_frame(60).with_columns(
        prompt=pl.when(pl.int_range(pl.len()) == 17)
        .then(pl.lit([{"role": "system", "content": "be kind"}, *USER], dtype=data.PROMPT))
        .otherwise("prompt")
    )
    config = small_config()
    aside = data.new_aside(frame, "train", config)
    rows, _, _ = encode_rows(data.labelled_rows(frame, "train", config, aside), Encoder(tokenizer, 128), config, aside)
    assert aside.rows == {17: "refused_by_template"}
    assert len(rows) == 59
    tokenizer.chat_template = tokenizer.chat_template.replace("endfor", "endfr")
    rows = data.labelled_rows(frame, "train", config, data.new_aside(frame, "train", config))
    with pytest.raises(DataError, match=r"train, every row: .*unknown tag 'endfr'"):
        encode_rows(rows, Encoder(tokenizer, 128), config, data.new_aside(frame, "train", config))


def test_rows_that_name_neither_user_nor_conversation_are_counted_by_their_first_message():
    frame = labelled_frame(60).select("prompt", "completion", "label")
    assert data.grouped_by(frame) == {"first message": 60}
    assert data.grouped_by(frame.with_columns(user_id=pl.lit("u"))) == {"user_id": 60}


@pytest.mark.parametrize("users", ["all null", "some null", "no conversations either"])
def test_rows_without_users_are_split_by_the_next_key_there_is_and_this_is_said(base, tmp_path, users):
    frame = labelled_frame(240).with_columns(
        user_id=pl.when(pl.lit(users == "some null") & (pl.int_range(pl.len()) < 120)).then("user_id")
    )
    if users == "no conversations either":
        frame = frame.drop("conversation_id").with_columns(
            prompt=pl.concat_list(
                pl.struct(role=pl.lit("user"), content=pl.format("question {}", pl.int_range(pl.len()) // 2))
            )
        )
    keys = {"all null": {"conversation_id": 240}, "some null": {"user_id": 120, "conversation_id": 120}}
    assert data.grouped_by(frame) == keys.get(users, {"first message": 240})
    learned, held = data.split_validation(frame, 0.2, seed=1)
    assert 0.1 < held.mean() < 0.3
    groups = data.groups_of(frame)
    assert not set(groups.filter(held)) & set(groups.filter(learned))


def test_training_says_how_rows_without_users_are_split(base, tmp_path):
    frame = labelled_frame(120).with_columns(user_id=pl.lit(None, pl.String))
    write_lines(tmp_path / "train.jsonl", frame.to_dicts())
    write_lines(tmp_path / "eval.jsonl", labelled_frame(60, seed=2).to_dicts())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    result = rluf(
        *(
            "train-reward",
            "--objective",
            "love",
            "--train",
            tmp_path / "train.jsonl",
            "--eval",
            tmp_path / "eval.jsonl",
        ),
        *("--base", base, "--out", tmp_path / "model", "--config", tmp_path / "config.yaml"),
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "split by conversation_id in 120 rows" in result.output
    assert load_calibration(tmp_path / "model").validation_rows > 0
