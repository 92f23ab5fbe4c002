"""One more day arrives, through the commands a user types; eight days unattended end where one backfill does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rluf_assets.lake import Lake
from tests.conftest import run_rluf

SMALL = {
    "production": {
        "kind": "simulated",
        "logs": {"helpfulness_pairs": 300, "safety_pairs": 200},
        "launches": {"users_per_arm": 2000, "contexts": 1000},
        "ab_test": {"contexts": 60, "exposed_users": 500},
    },
    "evaluation_prompts": {"optimisation_prompts": 60, "evaluation_prompts": 40},
    "base_policy": {"steps": 120},
    "crraft_policy": {"iterations": 1, "prompts_per_iteration": 16, "reference_samples": 32},
}
CANDIDATES = {
    "baseline": {"weights": {"helpfulness": 0.7, "safety": 0.3, "love": 0.0}},
    "moderate": {"weights": {"helpfulness": 0.7, "safety": 0.3, "love": 0.1}},
}
# Logs alone, with a signal frequent enough for every two days' new users to give it: a holdout without any stops the day.
LOGS_ONLY = {
    "profile": "tiny",
    "production": {
        "kind": "simulated",
        "days": 8,
        "logs": {"replies_per_day": 1500, "helpfulness_pairs": 20, "safety_pairs": 20},
    },
    "signal_set": {"signal": "copy", "holdout_days": 2},
}


def write_home(home: Path, settings: dict[str, object], candidates: dict[str, object] | None = None) -> Path:
    home.mkdir()
    (home / "rluf.yaml").write_text(yaml.safe_dump(settings))
    if candidates:
        (home / "candidates.yaml").write_text(yaml.safe_dump({"candidates": candidates}))
    return home


def days_made(home: Path, asset: str) -> set[str]:
    return set(Lake(str(home / "lake")).partitions(asset))


@pytest.mark.slow
def test_one_more_day_is_told_of_and_rebuilds_no_more_than_it_changes(tmp_path: Path) -> None:
    home = write_home(tmp_path / "home", SMALL, CANDIDATES)
    done = run_rluf("demo", "--profile", "tiny", "--home", str(home), "--days", "3", "--then-day")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = " ".join(done.stdout.split("One more day arrives: 2026-01-04")[1].split())
    assert "raw_messages .. raw_reactions [2026-01-04 .. 2026-01-04]: it arrived -> new content" in told
    assert "signal_set: new content of validated_replies -> new content" in told
    assert "base_policy" in told.split("not run")[1]
    lake = Lake(str(home / "lake"))
    assert days_made(home, "validated_replies") == {f"2026-01-0{day}" for day in range(1, 5)}
    p_love = lake.current("p_love").manifest["spec"]["inputs"]
    adopted = "adopted: " in told
    assert adopted != ("refused: " in told)
    policy = lake.current("crraft_policy", "moderate").manifest["spec"]["inputs"]
    assert ("previous" in p_love) == adopted
    assert policy["rewards/love"]["content_hash"] == lake.current("p_love").content_hash
    assert ("crraft_policy [moderate]" in told) == adopted
    assert policy["base_policy"]["content_hash"] == lake.current("base_policy").content_hash
    again = run_rluf("update", "--home", str(home), "--day", "2026-01-04")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("\nran ") == 0  # the one run is the day that was read again
    assert "same content as before" in again.stdout


IN_ONE_PROCESS = """
import sys
from pathlib import Path
from rluf_assets.update import update
from rluf_assets.errors import JobFailed
for day in sys.argv[2:]:
    try:
        update(Path(sys.argv[1]), day=day)
    except JobFailed as error:
        print(day, error)
"""


@pytest.mark.slow
def test_eight_days_unattended_end_where_one_backfill_does(
    tmp_path: Path,
) -> None:
    """Day by day, each a set of Dagster runs; on the other side all in one run."""
    soaked, at_once = (write_home(tmp_path / name, LOGS_ONLY) for name in ("soaked", "at_once"))
    days = [f"2026-01-{day:02}" for day in range(1, 9)]
    command = [sys.executable, "-W", "ignore", "-c", IN_ONE_PROCESS, str(soaked), *days]
    soak = subprocess.run(command, capture_output=True, text=True, check=False)
    assert soak.returncode == 0, soak.stderr[-3000:]
    told = soak.stdout
    # The first two days are too few to hold any out; after that nobody had to look.
    assert [line.split()[0] for line in told.splitlines() if "update stopped" in line] == days[:2], told[-3000:]
    done = run_rluf("update", "--home", str(at_once))
    assert done.returncode == 0, done.stdout + done.stderr
    for home in (soaked, at_once):
        assert days_made(home, "validated_replies") == set(days)
    one, other = (Lake(str(home / "lake")) for home in (soaked, at_once))
    assert one.current("signal_set").content_hash == other.current("signal_set").content_hash
    assert one.current("signal_set").rows["train"] > 0
