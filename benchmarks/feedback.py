"""Speed and memory of the feedback plane, beside its rivals in the same run: `python -m benchmarks.feedback --replies 1`.

The log is the simulation's, at natural rates, written as daily zstd Parquet; ten times the rows are ten times the days.
Each measurement runs in a process of its own (peak memory is that process's) with the same number of threads:
- copy      scan_parquet -> sink_parquet of the same columns: the floor
- rluf      raw -> validated (contract, labels, redaction) -> signal set, through the jobs' own functions, day by day
- same_work ours without the contract, redaction, metrics, duplicates and caps: what DuckDB's SQL and pandas do, in our code
- redaction the redaction of all texts alone (part of rluf's time, told apart)
- contract  the row contract, labels and redaction of all days alone, as their job does it
- new_day   one more day: its validation with the day before it
- duckdb    the same joins, labels, split, sampling and ten-turn windows in SQL (no contract, no redaction)
- pandas    the same as DuckDB's, up to one million replies, where pyarrow is installed to read Parquet with
Nothing is cached between runs; repeats are the median. Figures are JSON on standard output, a table on standard error.

`--daily` measures what a small day costs: files of conversations to validated replies with their checks, as one run of the
graph, days of 50 and of 500 conversations and one day alone, which tells what of it is the run's, the day's and the rows'.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rluf_assets.feedback.config import SignalSetConfig

START, PER_DAY = date(2026, 1, 1), 40_000
HOLDOUT_DAYS, CTX_TURNS, TARGET, SEED = 10, 10, 0.1, 0

DUCKDB = """
CREATE TEMP TABLE last AS
  SELECT message_id, arg_max(value, reacted_at) AS value FROM read_parquet('{logs}/reactions/*/*.parquet')
  WHERE signal = 'love' GROUP BY message_id, user_id;
COPY (SELECT m.*, CASE WHEN m.reactions_shown THEN coalesce(l.value, 0) END AS label
      FROM read_parquet('{logs}/messages/*/*.parquet') m LEFT JOIN last l USING (message_id)
      WHERE m.role = 'assistant') TO '{out}/replies.parquet' (COMPRESSION zstd);
COPY (SELECT * FROM read_parquet('{logs}/messages/*/*.parquet')) TO '{out}/messages.parquet' (COMPRESSION zstd);
CREATE TEMP TABLE known AS SELECT user_id, min(created_at) AS first_seen FROM read_parquet('{out}/replies.parquet') GROUP BY 1;
CREATE TEMP TABLE staged AS
  SELECT message_id, conversation_id, turn_index, r.created_at, label,
         CASE WHEN r.created_at < TIMESTAMPTZ '{start}' THEN 'train'
              WHEN first_seen >= TIMESTAMPTZ '{start}' THEN 'holdout' END AS split,
         hash(message_id) / 18446744073709551615.0 AS u
  FROM read_parquet('{out}/replies.parquet') r JOIN known USING (user_id) WHERE label IS NOT NULL;
CREATE TEMP TABLE drawn AS
  SELECT * FROM staged WHERE split = 'holdout' OR (split = 'train' AND label = 1)
  UNION ALL (SELECT * FROM staged WHERE split = 'train' AND label = 0
             ORDER BY u LIMIT (SELECT 9 * count(*) FROM staged WHERE split = 'train' AND label = 1));
COPY (SELECT d.message_id, any_value(d.label) AS label, any_value(d.split) AS split,
             list({{'role': m.role, 'content': m.content}} ORDER BY m.turn_index, m.created_at) AS prompt
      FROM drawn d JOIN read_parquet('{out}/messages.parquet') m
        ON m.conversation_id = d.conversation_id AND m.created_at < d.created_at
       AND m.turn_index > d.turn_index - {turns} AND m.message_id <> d.message_id
      GROUP BY d.message_id) TO '{out}/set.parquet' (COMPRESSION zstd);
"""


def generate(logs: Path, replies: int) -> None:
    """Daily raw Parquet of the simulated production, `PER_DAY` replies a day."""
    from rluf_assets.simulation.config import SimulationConfig
    from rluf_assets.simulation.production import play_production

    days = max(HOLDOUT_DAYS + 5, round(replies / PER_DAY))
    config = SimulationConfig.model_validate(
        {"start_date": START, "days": days, "replies_per_day": max(1, replies // days)}
    )
    play_production(config, SEED, logs, lambda *_, **__: None)


def copy(logs: Path, out: Path) -> None:
    import polars as pl

    for table in ("messages", "reactions"):
        scan = pl.scan_parquet(f"{logs}/{table}/*/*.parquet", hive_partitioning=False)
        scan.sink_parquet(out / f"{table}.parquet", compression="zstd")


def rluf(logs: Path, out: Path) -> None:
    from rluf_assets.feedback.config import SignalSetConfig

    contract(logs, out)
    config = SignalSetConfig(holdout_days=HOLDOUT_DAYS, ctx_turns=CTX_TURNS, target_positive_rate=TARGET)
    _build([out / day.isoformat() for day in _days(logs)], config, out)


def same_work(logs: Path, out: Path) -> None:
    import polars as pl

    from rluf_assets.feedback.config import AdversarialConfig, ContractConfig, SignalSetConfig
    from rluf_assets.feedback.labels import label_replies
    from rluf_assets.feedback.reactions import DOUBTS
    from rluf_assets.feedback.schemas import REPLY_COLUMNS

    days, love = _days(logs), ContractConfig(signals=("love",))
    for day in days:
        messages = pl.read_parquet(_table(logs, "messages", day)).unique("message_id", maintain_order=True)
        near = [_table(logs, "reactions", when) for when in (day, day + timedelta(days=1))]
        events = pl.concat([pl.read_parquet(path) for path in near if path.exists()])
        answers = messages.filter(pl.col("role") == "assistant").with_columns(continued=pl.lit(False))
        asked = answers.select("message_id", reply_conversation="conversation_id")
        events = events.join(asked, on="message_id").with_columns(defect=pl.lit(None, pl.String), at="reacted_at")
        replies = label_replies(answers, events, pl.DataFrame(schema=DOUBTS), love)
        folder = out / day.isoformat()
        folder.mkdir()
        replies.select(*REPLY_COLUMNS, "label_love").write_parquet(folder / "replies.parquet")
        messages.write_parquet(folder / "messages.parquet")
    config = SignalSetConfig(
        holdout_days=HOLDOUT_DAYS, ctx_turns=CTX_TURNS, target_positive_rate=TARGET, duplicates="keep",
        near_duplicate=None, user_cap=10**9, adversarial=AdversarialConfig(enabled=False),
    )  # fmt: skip
    _build([out / day.isoformat() for day in days], config, out)


def _build(folders: list[Path], config: SignalSetConfig, out: Path) -> None:
    from rluf_assets.feedback.signal_set import ROW_GROUP, build_signal_set
    from rluf_assets.feedback.splits import scan_days

    built = build_signal_set(scan_days(folders, "replies"), scan_days(folders, "messages"), config, seed=SEED)
    built.train.write_parquet(out / "train.parquet")
    built.holdout.sink_parquet(out / "holdout.parquet", maintain_order=True, row_group_size=ROW_GROUP)


def new_day(logs: Path, out: Path) -> None:
    days = _days(logs)
    _validate(logs, out, days[-1], days[-1])


def redaction(logs: Path, out: Path) -> None:
    import polars as pl

    from rluf_assets.feedback.config import RedactionConfig
    from rluf_assets.feedback.redaction import redact

    for day in _days(logs):
        redact(pl.read_parquet(_table(logs, "messages", day), columns=["content"])["content"], RedactionConfig())


def duckdb(logs: Path, out: Path) -> None:
    import duckdb as engine

    start = _days(logs)[-1] - timedelta(days=HOLDOUT_DAYS - 1)
    connection = engine.connect()
    connection.execute(f"SET threads TO {int(os.environ['POLARS_MAX_THREADS'])}; SET TimeZone = 'UTC';")
    connection.execute(DUCKDB.format(logs=logs, out=out, start=start.isoformat(), turns=CTX_TURNS))


def pandas(logs: Path, out: Path) -> None:
    import pandas as pd

    def read(table: str) -> Any:
        return pd.concat([pd.read_parquet(_table(logs, table, day)) for day in _days(logs)], ignore_index=True)

    messages, reactions = read("messages"), read("reactions")
    love = reactions[reactions["signal"] == "love"].sort_values("reacted_at", kind="stable")
    last = love.groupby(["message_id", "user_id"], as_index=False).last()[["message_id", "value"]]
    replies = messages[messages["role"] == "assistant"].merge(last, on="message_id", how="left")
    shown = replies[replies["reactions_shown"].fillna(False).astype(bool)].assign(label=lambda r: r["value"].fillna(0))
    replies.to_parquet(out / "replies.parquet", compression="zstd")
    messages.to_parquet(out / "messages.parquet", compression="zstd")
    start = pd.Timestamp(_days(logs)[-1] - timedelta(days=HOLDOUT_DAYS - 1), tz="UTC")
    first = shown.groupby("user_id")["created_at"].transform("min")
    train, holdout = shown[shown["created_at"] < start], shown[(shown["created_at"] >= start) & (first >= start)]
    ones = train[train["label"] == 1]
    zeros = train[train["label"] == 0].sample(n=9 * len(ones), random_state=SEED)
    drawn = pd.concat([ones, zeros, holdout])
    pairs = drawn[["message_id", "conversation_id", "turn_index", "created_at"]].merge(
        messages[["conversation_id", "turn_index", "created_at", "role", "content"]], on="conversation_id",
        suffixes=("", "_past"),
    )  # fmt: skip
    near = (pairs["created_at_past"] < pairs["created_at"]) & (
        pairs["turn_index_past"] > pairs["turn_index"] - CTX_TURNS
    )
    past = pairs[near].sort_values(["message_id", "turn_index_past", "created_at_past"])
    past.groupby("message_id")[["role", "content"]].agg(list).to_parquet(out / "set.parquet", compression="zstd")


def _days(logs: Path) -> list[date]:
    return sorted(date.fromisoformat(path.name.removeprefix("date=")) for path in (logs / "messages").glob("date=*"))


def _table(logs: Path, table: str, day: date) -> Path:
    return logs / table / f"date={day.isoformat()}" / f"{table}.parquet"


def _validate(logs: Path, out: Path, day: date, last: date) -> None:
    """One day as the job of `validated_replies` does it: its neighbours beside it, three tables out."""
    import polars as pl

    from data_checks.metrics import partition_metrics
    from rluf_assets.feedback.config import ContractConfig
    from rluf_assets.feedback.contract import validate
    from rluf_assets.feedback.schemas import conform

    def table(name: str, when: date) -> pl.LazyFrame | None:
        path = _table(logs, name, when)
        return conform(pl.scan_parquet(path), name, str(path)) if path.exists() else None

    as_of = min(last, day + timedelta(days=1)) + timedelta(days=1)
    config = ContractConfig.model_validate({"day": day, "as_of": f"{as_of}T00:00:00+00:00"})
    messages, reactions = table("messages", day), table("reactions", day)
    assert messages is not None
    assert reactions is not None
    one = timedelta(days=1)
    log = validate(messages, reactions, config, previous_messages=table("messages", day - one),
                   next_reactions=table("reactions", day + one))  # fmt: skip
    folder = out / day.isoformat()
    folder.mkdir()
    log.write(folder)
    partition_metrics(log, config.signals, day).write_parquet(folder / "metrics.parquet")


def contract(logs: Path, out: Path) -> None:
    days = _days(logs)
    for day in days:
        _validate(logs, out, day, days[-1])


WAYS = {
    "copy": copy, "rluf": rluf, "same_work": same_work, "contract": contract, "new_day": new_day, "redaction": redaction,
    "duckdb": duckdb, "pandas": pandas,
}  # fmt: skip


def write_home(home: Path, days: int, per_day: int, *, one_file: bool) -> None:
    """A home whose logs are JSON lines of conversations with undated marks, a file for each day or one for all."""
    chance, start = random.Random(0), datetime(2026, 1, 1, tzinfo=UTC)
    words = ("garden", "soup", "train", "first", "take", "slowly", "call", "again", "when", "kettle", "blue", "paint")

    def message(role: str, user: str, at: datetime, name: str, length: int) -> dict[str, Any]:
        text = " ".join(chance.choices(words, k=length))
        return {"id": name, "role": role, "content": text, "user": user, "created_at": at.isoformat()}

    lines: dict[str, list[str]] = {}
    for day, nth in itertools.product(range(days), range(per_day)):
        at, user = start + timedelta(days=day, seconds=chance.randrange(80_000)), f"u{chance.randrange(8 * per_day)}"
        said = []
        for turn in range(chance.randrange(1, 6)):
            said.append(message("user", user, at + timedelta(minutes=turn), f"{day}-{nth}-{turn}-u", 12))
            reply = message("assistant", user, at + timedelta(minutes=turn, seconds=9), f"{day}-{nth}-{turn}-a", 50)
            said.append(reply | {"marks": {"love": int(chance.random() < 0.1), "thumbs_down": 0}})
        name = "all" if one_file else f"{start + timedelta(days=day):%Y-%m-%d}"
        lines.setdefault(name, []).append(json.dumps({"conversation_id": f"{day}-{nth}", "messages": said}))
    (home / "logs").mkdir(parents=True)
    for name, written in lines.items():
        (home / "logs" / f"{name}.jsonl").write_text("\n".join(written) + "\n")
    source = f"logs/{'all' if one_file else '{day}'}.jsonl"
    settings = {
        "profile": "tiny",
        "production": {"kind": "logged", "first_day": f"{start:%Y-%m-%d}", "days": days, "log_format": "messages",
                       "messages": source, "reactions": source, "preferences": {}},
        "validated_replies": {"exposure": "all_shown", "undated_reactions": "at_message"},
    }  # fmt: skip
    (home / "rluf.yaml").write_text(json.dumps(settings))  # JSON is YAML


def run_days(home: Path) -> dict[str, float]:
    """All days of a home in one run of the graph, in this process; loading the graph is not counted, loading checks is."""
    import dagster as dg

    from rluf_assets.demo import load_code_location, make_folders
    from rluf_assets.materialise import Unit, quiet_environment, run_units

    make_folders(home)
    quiet_environment()
    defs = load_code_location(home)
    from rluf_assets.partitions import HomeSettings, register_candidates

    with dg.DagsterInstance.get() as instance:
        register_candidates(home, instance)
    days, wall, cpu = HomeSettings.of(home).days.get_partition_keys(), time.perf_counter(), time.process_time()
    unit = Unit(("raw_messages", "raw_reactions", "validated_replies"), day_range=(days[0], days[-1]))
    (outcome,) = run_units(defs, [unit], home=home, workers=1).values()
    if outcome.state != "done":
        raise SystemExit("\n".join([*outcome.errors, *outcome.failed_checks]))
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def daily(days: int = 30) -> dict[str, Any]:
    """What a day costs, and how much of it does not depend on its rows."""
    found: dict[str, dict[str, float]] = {}
    cases = {
        "50": (days, 50, False),
        "500": (days, 500, False),
        "50, one file": (days, 50, True),
        "one day of 50": (1, 50, False),
    }
    for name, (count, per_day, one_file) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            write_home(home, count, per_day, one_file=one_file)
            command = [sys.executable, "-m", "benchmarks.feedback", "--run-days", str(home)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:14} {found[name]['wall_s']:8.2f} s {found[name]['cpu_s']:8.2f} cpu-s", file=sys.stderr)
    run = (days * found["one day of 50"]["cpu_s"] - found["50"]["cpu_s"]) / (days - 1)
    day = (found["50"]["cpu_s"] - run) / days
    conversation = (found["500"]["cpu_s"] - found["50"]["cpu_s"]) / days / 450
    shares = {"run_cpu_s": run, "day_of_50_cpu_s": day, "conversation_cpu_ms": 1000 * conversation,
              "fixed_share_of_a_day_of_50": 1 - 50 * conversation / day}  # fmt: skip
    return {**found, **{name: round(value, 3) for name, value in shares.items()}}


def measure(way: str, logs: Path, repeats: int, threads: int) -> dict[str, float]:
    """Median wall time and peak memory of a way in processes of its own (imports not counted in the time)."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "benchmarks.feedback", "--way", way, "--logs", str(logs), "--out", out]
            env = {**os.environ, "POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in ("wall_s", "cpu_s", "peak_gb")}


def _ratio(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    return {name: round(ours[name] / theirs[name], 2) for name in ours}


def run_way(way: str, logs: Path, out: Path) -> dict[str, float]:
    """One way in this process."""
    import duckdb as _  # noqa: F401
    import pandas as __  # noqa: F401

    import rluf_assets.feedback.signal_set  # noqa: F401

    wall, cpu = time.perf_counter(), time.process_time()
    WAYS[way](logs, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replies", type=float, nargs="+", default=[1.0], help="millions of replies; e.g. 1 3 10")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--daily", action="store_true", help="what a small day costs, and nothing else")
    parser.add_argument("--run-days", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help="folder of logs by size (1M, 3M): made there once, and read again")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(run_way(arguments.way, arguments.logs, arguments.out)))
        return
    if arguments.run_days:
        print(json.dumps(run_days(arguments.run_days)))
        return
    results: dict[str, Any] = {"daily": daily()}
    if arguments.daily:
        print(json.dumps(results, indent=1))
        return
    for millions in arguments.replies:
        with tempfile.TemporaryDirectory() as folder:
            logs = (arguments.kept or Path(folder)) / f"{millions:g}M"
            if not logs.exists():
                generate(logs, round(millions * 1e6))
            ways = [way for way in WAYS if way != "pandas" or (millions <= 1 and find_spec("pyarrow"))]
            found = {way: measure(way, logs, arguments.repeats, arguments.threads) for way in ways}
        ratios = {
            f"{ours}_over": {way: _ratio(found[ours], found[way]) for way in ways} for ours in ("rluf", "same_work")
        }
        results[f"{millions:g}M"] = {"ways": found, **ratios}
        for way, one in found.items():
            shown = f"{millions:g}M {way:10} {one['wall_s']:8.2f} s {one['cpu_s']:8.2f} cpu-s {one['peak_gb']:6.2f} GB"
            print(f"{shown}   rluf takes {ratios['rluf_over'][way]} of it", file=sys.stderr)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
