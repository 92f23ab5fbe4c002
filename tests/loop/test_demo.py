"""The loop on the `tiny` profile, through the command a user types: results, reruns, changes, bad input."""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import run_rluf

pytestmark = pytest.mark.xdist_group("demo")

CANDIDATE_KEYS = {
    "love_weight", "love_rate_change", "love_rate_change_ci", "farewell_rate", "helpful_rate",
    "harmful_compliance_rate", "false_refusal_rate", "decision",
}  # fmt: skip
TIMES = ("wall_s", "peak_memory_gb")


def summary_of(home: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((home / "reports" / "summary.json").read_text())
    return {key: value for key, value in figures.items() if key not in TIMES}


def manifests(home: Path) -> dict[str, float]:
    """Every artifact in the lake and when its manifest was written."""
    return {str(path.relative_to(home)): path.stat().st_mtime for path in (home / "lake").rglob("manifest.json")}


def test_summary_holds_what_is_promised(tiny_home: Path) -> None:
    figures = json.loads((tiny_home / "reports" / "summary.json").read_text())
    assert {
        "seed",
        "profile",
        "natural_love_rate",
        "signal_set",
        "reward_models",
        "candidates",
        "base_policy",
        *TIMES,
    } < set(figures)
    rows = figures["signal_set"]
    assert rows["rows_in"] == rows["accepted"] + rows["quarantined"]
    assert rows["replies"] == rows["mature"] + rows["pending"]
    assert rows["quarantined"] > 0
    assert rows["train_positive_rate"] == pytest.approx(0.1, abs=0.001)
    assert 0.0005 < figures["natural_love_rate"] < 0.002
    assert set(figures["candidates"]) == {"baseline", "moderate", "aggressive"}
    for name, candidate in figures["candidates"].items():
        assert set(candidate) >= CANDIDATE_KEYS, name
    assert figures["candidates"]["baseline"]["love_rate_change"] == 0
    love = figures["reward_models"]["love"]
    low, high = love["auroc_ci"]
    assert low <= love["auroc"] <= high
    assert 0.5 < love["auroc_oracle"] < 1
    assert figures["offline_online"]["policies"] == 10


def test_page_is_self_contained(tiny_home: Path) -> None:
    page = (tiny_home / "reports" / "index.html").read_text()
    assert "plotly" in page.lower()
    assert 'src="http' not in page
    assert "NaN" not in page.split("<script", maxsplit=1)[0]
    assert len(page) < 5_000_000


@pytest.mark.slow
def test_second_run_does_nothing_and_says_the_same(tiny_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)
    before = manifests(home)
    done = run_rluf("demo", "--profile", "tiny", "--home", str(home))
    assert done.returncode == 0, done.stderr
    assert manifests(home) == before
    assert summary_of(home) == summary_of(tiny_home)
    lines = [line for line in done.stdout.splitlines() if " s  " in line]
    assert len(lines) == 22 and all(line.startswith("up to date") for line in lines), done.stdout
    status = run_rluf("status", "--home", str(home))
    assert status.returncode == 0, status.stderr
    assert not re.search("stale|missing|waits|running", status.stdout), status.stdout
    (home / "lake" / "p_love" / "_" / "current.json").unlink()
    status = run_rluf("status", "--home", str(home))
    told = {line.split()[0]: " ".join(line.split()) for line in status.stdout.splitlines()}
    assert "missing" in told["p_love"] and "up to date" in told["signal_set"]
    assert told["off_policy_evaluation"].endswith("waits for p_love")


@pytest.mark.slow
def test_changed_weight_recomputes_one_candidate_and_what_follows(tiny_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)
    entries = yaml.safe_load((home / "candidates.yaml").read_text())
    entries["candidates"]["moderate"]["weights"]["love"] = 0.15
    (home / "candidates.yaml").write_text(yaml.safe_dump(entries))
    before = set(manifests(home))
    done = run_rluf("demo", "--profile", "tiny", "--home", str(home))
    assert done.returncode == 0, done.stderr
    made = {"/".join(Path(path).parts[1:3]) for path in set(manifests(home)) - before}
    candidate = {f"{asset}/moderate" for asset in ("crraft_policy", "offline_evaluation", "ab_exposures")}
    comparisons = {f"{asset}/_" for asset in ("reward_hacking_audit", "ab_test_readout", "release_report")}
    # What reads candidates' replies and arms beside P[signal] follows too.
    comparisons |= {"offline_online_backtest/_", "off_policy_evaluation/_"}
    assert candidate | comparisons <= made <= candidate | comparisons | {"released_policy/_"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "lapotp"], "profile 'lapotp': unknown; expected one of"),
        (["--seed", "seven"], "unable to parse string as an integer"),
        (["--home", "/proc/rluf"], "not writable"),
    ],
    ids=["profile", "seed", "home"],
)
def test_bad_arguments_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    given = arguments if "--home" in arguments else [*arguments, "--home", str(tmp_path / "home")]
    done = run_rluf("demo", *given)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_unknown_setting_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "rluf.yaml").write_text("signal_set: {user_capp: 3}\n")
    done = run_rluf("demo", "--profile", "tiny", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "signal_set.user_capp" in done.stderr
    assert "did you mean 'user_cap'?" in done.stderr


@pytest.mark.slow
def test_broken_data_contract_stops_the_demo(tiny_home: Path, tmp_path: Path) -> None:
    """An analyst's own suite allows no quarantined row; the logs hold some: what is downstream is not run."""
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home)
    suite = json.loads(Path(str(files("data_checks"))).joinpath("suites", "validated_replies.json").read_text())
    strict = {entry["meta"]["name"]: entry for entry in suite["expectations"]}["not_all_quarantined"]
    strict["kwargs"]["max_value"] = 0.0
    (home / "suites").mkdir()
    (home / "suites" / "validated_replies.json").write_text(json.dumps(suite))
    (home / "reports" / "summary.json").unlink()
    done = run_rluf("demo", "--profile", "tiny", "--home", str(home))
    assert done.returncode == 1
    assert "validated_replies/not_all_quarantined" in done.stderr
    assert "skipped" in done.stdout
    assert not (home / "reports" / "summary.json").exists()
