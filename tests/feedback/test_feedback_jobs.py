"""The feedback jobs through the runner: files, counts, equal bytes on equal input, and errors that name the file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import ConfigError, DataError
from rluf_assets.jobs import (
    evaluation_prompts,
    ingest,
    preference_pairs,
    signal_audit,
    signal_set,
    validate_replies,
)  # fmt: skip
from rluf_assets.jobs.runner import Job, run_job
from rluf_assets.lake import Artifact, Produced, read_json
from tests.feedback.logs import SIGNALS, clean_logs

DAYS = 6


def _run(stage: Callable[[Job], Produced], out: Path, config: dict[str, Any], seed: int = 0, **inputs: Any) -> Artifact:
    name = stage.__module__.rpartition(".")[2]
    known = {
        key: value if isinstance(value, InputArtifact) else InputArtifact.of(value) for key, value in inputs.items()
    }
    spec = JobSpec(
        name=name, entrypoint=stage.__module__, version="1", seed=seed, output_uri=str(out), config=config, inputs=known
    )
    return run_job(spec, stage, lambda message: None)[0]


def _lake(root: Path) -> dict[str, Artifact]:
    """Store -> raw -> validated, day by day, as the assets do it; gives the inputs of the stages that follow."""
    messages, reactions = clean_logs(days=DAYS, users_per_day=25, love_rate=0.04, seed=21)
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(DAYS)]
    raw: dict[tuple[str, date], Artifact] = {}
    for table, frame, column in (("messages", messages, "created_at"), ("reactions", reactions, "reacted_at")):
        for day in days:
            store = root / "store" / table / f"date={day}"
            store.mkdir(parents=True)
            frame.filter(pl.col(column).dt.date() == day).write_parquet(store / f"{table}.parquet")
            source = InputArtifact(uri=str(store), content_hash=str(day))
            config = {"table": table, "source": f"{table}.parquet"}
            raw[table, day] = _run(ingest.run, root / f"raw_{table}" / str(day), config, source=source)
    found = {}
    for day in days:
        inputs = {"messages": raw["messages", day], "reactions": raw["reactions", day]}
        if day > days[0]:
            inputs["previous_messages"] = raw["messages", day - timedelta(1)]
        if day < days[-1]:
            inputs["next_reactions"] = raw["reactions", day + timedelta(1)]
        as_of = min(day + timedelta(2), days[-1] + timedelta(1))
        config = {"signals": SIGNALS, "day": str(day), "as_of": f"{as_of}T00:00:00+00:00"}
        found[f"validated_replies/{day}"] = _run(
            validate_replies.run, root / "validated_replies" / str(day), config, **inputs
        )
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return _lake(tmp_path_factory.mktemp("lake"))


def test_day_by_day_equals_all_at_once(lake: dict[str, Artifact]) -> None:
    from tests.feedback.logs import validated

    messages, reactions = clean_logs(days=DAYS, users_per_day=25, love_rate=0.04, seed=21)
    whole = validated(messages, reactions, as_of="2026-01-07T00:00:00+00:00")
    parts = pl.concat([pl.read_parquet(day.path("replies.parquet")) for day in lake.values()])
    assert parts.sort("message_id").equals(whole.replies.sort("message_id"))
    rows = [pl.read_parquet(day.path("metrics.parquet")) for day in lake.values()]
    assert sum(row["messages_in"].item() for row in rows) == messages.height
    assert all(
        artifact.metrics["replies"] == row["replies"].item() for artifact, row in zip(lake.values(), rows, strict=True)
    )


def test_every_stage_writes_its_files_and_the_same_bytes_again(lake: dict[str, Artifact], tmp_path: Path) -> None:
    stages: list[tuple[Callable[[Job], Produced], dict[str, Any], set[str]]] = [
        (signal_set.run, {"holdout_days": 2}, {"train.parquet", "holdout.parquet", "funnel.parquet", "dropped.parquet",
         "set_aside.parquet", "rates.json"}),
        (signal_audit.run, {"signals": SIGNALS, "return_days": 2},
         {"audit.parquet", "by_use_case.parquet", "by_day.parquet", "report.html"}),
        (evaluation_prompts.run, {"holdout_days": 2, "optimisation_prompts": 50, "evaluation_prompts": 20},
         {"prompts.parquet"}),
    ]  # fmt: skip
    for nth, (stage, config, files) in enumerate(stages):
        one, again, other = (_run(stage, tmp_path / f"{nth}-{run}", config, seed, **lake)
                             for run, seed in (("a", 0), ("b", 0), ("c", 1)))  # fmt: skip
        assert {path.name for path in (tmp_path / f"{nth}-a").iterdir()} - {"manifest.json", "logs"} == files
        assert one.content_hash == again.content_hash
        assert stage is signal_audit.run or one.content_hash != other.content_hash
    rates = read_json(str(tmp_path / "0-a" / "rates.json"))
    assert rates["train_positive_rate"] == 0.1
    assert pl.read_parquet(tmp_path / "0-a" / "holdout.parquet").height == rates["holdout_rows"]
    metrics = _run(signal_set.run, tmp_path / "0-a", {"holdout_days": 2}, **lake).metrics
    assert metrics["rows_in"] == metrics["accepted"] + metrics["quarantined"]
    assert metrics["replies"] == metrics["mature"] + metrics["pending"]


def test_pairs_job(tmp_path: Path) -> None:
    user, reply = (
        (lambda text: [{"role": "user", "content": text}]),
        (lambda text: [{"role": "assistant", "content": text}]),
    )
    rows = [{"pair_id": f"p{i}", "prompt": user(f"q{i}"), "chosen": reply("a"), "rejected": reply("a" if i == 3 else "b"),
             "use_case": "chat"} for i in range(40)]  # fmt: skip
    (tmp_path / "store" / "preferences").mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(tmp_path / "store" / "preferences" / "helpfulness.parquet")
    source = InputArtifact(uri=str(tmp_path / "store"), content_hash="1")
    made = _run(preference_pairs.run, tmp_path / "out", {"source": "preferences/helpfulness.parquet"}, source=source)
    assert made.rows["train"] + made.rows["eval"] == 39 and made.rows["quarantine"] == 1
    assert made.metrics == {"rows_in": 40, "defect_equal_replies": 1}
    assert pl.read_parquet(made.path("eval.parquet")).height == made.rows["eval"] > 0


def test_errors_name_the_file_and_nothing_is_published(lake: dict[str, Artifact], tmp_path: Path) -> None:
    folder = Path(next(iter(lake.values())).uri).parents[1] / "raw_messages" / "2026-01-01"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "messages.parquet").write_bytes((folder / "messages.parquet").read_bytes()[:1000])
    reactions = InputArtifact(uri=str(folder.parents[1] / "raw_reactions" / "2026-01-01"), content_hash="1")
    with pytest.raises(DataError, match=r"broken/messages\.parquet: cannot be read"):
        _run(validate_replies.run, tmp_path / "out", {}, messages=InputArtifact(uri=str(broken), content_hash="1"),
             reactions=reactions)  # fmt: skip
    with pytest.raises(ConfigError, match="signal 'luv'"):
        _run(signal_set.run, tmp_path / "set", {"signal": "luv", "holdout_days": 2}, **lake)
    assert not list(tmp_path.rglob("manifest.json"))
