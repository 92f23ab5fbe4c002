"""PSI against a hand count, drift seen where it was planted and nowhere else, and the pages that show it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2

from data_checks.checks import day_metrics
from data_checks.docs import build_data_docs
from data_checks.drift import DISTRIBUTIONS, with_drift
from data_checks.metrics import partition_metrics
from data_checks.suites import run_suite, suite_path
from rluf_assets.lake import Lake, Produced, publish
from tests.feedback.logs import SIGNALS, clean_logs, validated

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(10)]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Ten days; on the last one replies are Cyrillic, and far longer."""
    made = Lake(str(tmp_path_factory.mktemp("lake")))
    for nth, day in enumerate(DAYS):
        messages, reactions = clean_logs(users_per_day=60, seed=nth, love_rate=0.01)
        shift = pl.duration(days=nth)
        messages = messages.with_columns(pl.col("created_at") + shift)
        if day == DAYS[-1]:
            foreign = pl.when(pl.col("role") == "assistant").then(pl.lit("привет " * 40)).otherwise("content")
            messages = messages.with_columns(content=foreign)
        log = validated(messages, reactions.with_columns(pl.col("reacted_at") + shift))
        folder = Path(made.folder("validated_replies", day.isoformat(), f"{nth:016d}"))
        folder.mkdir(parents=True)
        partition_metrics(log, SIGNALS, day).write_parquet(folder / "metrics.parquet")
        log.replies.write_parquet(folder / "replies.parquet")
        made.set_current(
            "validated_replies", day.isoformat(), publish(str(folder), fingerprint="f", produced=Produced())
        )
    return made


def test_drift_is_seen_where_it_was_planted(lake: Lake) -> None:
    days = [day.isoformat() for day in DAYS]
    rows = day_metrics(lake, days, days)
    assert rows["day"].to_list() == DAYS and not any(name.startswith("hist_") for name in rows.columns)
    psi = rows.select(f"psi_{name}" for name in DISTRIBUTIONS)
    assert psi.head(7).null_count().row(0) == (7,) * psi.width  # fewer than seven days before them
    assert all(0 <= value < 0.1 for row in psi.slice(7, 2).iter_rows() for value in row)
    moved = {name for name in psi.columns if psi[name][-1] > 0.25}
    assert moved == {"psi_reply_length", "psi_scripts"}
    failed = {one.name for one in run_suite(rows, suite_path("validated_replies"), key="day") if not one.passed}
    assert failed >= {"no_drift_in_reply_length", "no_drift_in_scripts"} and "no_drift_in_turns" not in failed
    alone = day_metrics(lake, days[-1:], days)  # one day's check reads its trailing days too
    assert alone.row(0) == rows.row(-1)


def test_psi_equals_the_formula() -> None:
    def row(day: int, counts: dict[str, int]) -> dict[str, object]:
        hist = [{"value": name, "n": n} for name, n in counts.items()]
        return {"day": FIRST + timedelta(days=day), "users": 40, **{f"hist_{name}": hist for name in DISTRIBUTIONS}}

    before = [row(day, {"a": 10, "b": 30}) for day in range(7)]
    psi = with_drift(pl.DataFrame([*before, row(7, {"a": 20, "c": 20})]))["psi_turns"][-1]
    p = [(n + 0.5) / 41.5 for n in (20, 0, 20)]
    q = [(n + 0.5) / 281.5 for n in (70, 210, 0)]
    plain = sum((x - y) * math.log(x / y) for x, y in zip(p, q, strict=True))
    assert psi == pytest.approx(max(0.0, plain - (1 / 40 + 1 / 280) * chi2.ppf(0.999, 2)), abs=0.02)


def _week(rng: np.random.Generator, shares: np.ndarray, today: np.ndarray, users: int, each: int) -> float:
    """PSI of a day drawn from `today` after seven drawn from `shares`; every user's replies are all of one kind."""
    rows, still = [], {f"hist_{name}": [{"value": "a", "n": users}] for name in DISTRIBUTIONS}
    for day, p in enumerate([shares] * 7 + [today]):
        hist = [{"value": str(k), "n": int(n) * each} for k, n in enumerate(rng.multinomial(users, p)) if n]
        rows.append({"day": FIRST + timedelta(days=day), "users": users, **still, "hist_hours": hist})
    return float(with_drift(pl.DataFrame(rows))["psi_hours"][-1])


@pytest.mark.parametrize(("users", "each"), [(100, 1), (20, 5), (3000, 1)])
def test_small_days_do_not_alarm_and_real_drift_does(users: int, each: int) -> None:
    """A hundred replies over the hours of a day, of a hundred users or of twenty: no alarm in 40 days without a change."""
    rng = np.random.default_rng(users)
    shares = rng.dirichlet(np.full(24, 3.0))
    quiet = [_week(rng, shares, shares, users, each) for _ in range(40)]
    assert max(quiet) < 0.1
    moved = 0.25 * shares + 0.75 * np.eye(24)[3]  # three quarters of the day fall into one hour
    assert _week(rng, shares, moved, users, each) > 0.25
    if users == 3000:  # large days see what the rule of thumb calls a change, no more and no less
        slight = shares * np.exp(0.55 * rng.standard_normal(24))
        slight /= slight.sum()
        true = float(((slight - shares) * np.log(slight / shares)).sum())
        assert true > 0.15 and _week(rng, shares, slight, users, each) == pytest.approx(true, abs=0.08)


def test_data_docs_show_metrics_and_rows_and_an_analysts_own_suite(lake: Lake, tmp_path: Path) -> None:
    own = json.loads(suite_path("reply_rows").read_text())
    own["expectations"] = own["expectations"][:1]
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "reply_rows.json").write_text(json.dumps(own))
    index = build_data_docs(lake, tmp_path)
    assert index.is_file()
    pages = list((tmp_path / "reports" / "data-docs" / "validations").rglob("*.html"))
    assert {page.parts[-4] for page in pages} == {"validated_replies", "reply_rows"}
    text = "".join(page.read_text() for page in pages)
    assert "psi_scripts" in text and "no_address_left" not in text


@pytest.mark.slow
def test_suites_are_in_the_wheel(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(root),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    suites = {path.name for path in (root / "data_checks" / "suites").glob("*.json")}
    assert {f"data_checks/suites/{name}" for name in suites} <= set(names) and len(suites) >= 3
