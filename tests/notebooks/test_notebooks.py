"""The five stories run top to bottom on the tiny lake, the sixth on a file of logs; no outputs in git, one import of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import rluf_assets as rluf
from rluf_assets.evaluation.readout import no_readout

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PLOTS = {"1": 5, "2": 3, "3": 3, "4": 4, "5": 3}
# What a reader gets to play with, and what the story must have said by its last cell.
SAID = {
    "1": "rows came in",
    "2": "→",
    "3": "ranks a reacted reply above another",
    "4": "Your weights: predicted love",
    "5": "By your rules",
}


def test_there_are_six_stories() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == list("123456")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert code[0].source.startswith(("HOME = None", "LOGS, ")), "what is read is named by one variable, first of all"
    ours = {line.strip() for cell in code for line in cell.source.splitlines() if "rluf_assets" in line}
    assert ours == {"import rluf_assets as rluf"}, "no deep imports"
    assert "plotly" not in "".join(cell.source for cell in code), "no figure plumbing"
    assert sum(cell.cell_type == "markdown" for cell in book.cells) >= len(code) / 2


@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("path", NOTEBOOKS[:5], ids=lambda path: path.stem)
def test_story_runs_on_the_tiny_lake(path: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLUF_HOME", str(tiny_home))
    outputs = run_story(path)
    figures = [
        data["application/vnd.plotly.v1+json"] for data in _data(outputs) if "application/vnd.plotly.v1+json" in data
    ]
    assert len(figures) >= PLOTS[path.name[0]]
    assert all(any(_points(trace) for trace in figure["data"]) for figure in figures), "a plot without a point"
    said = "\n".join(str(data.get("text/markdown", "")) for data in _data(outputs))
    assert SAID[path.name[0]] in said
    assert "nan" not in said.lower().split()
    assert not [output for output in outputs if output.output_type == "stream"], "warnings or progress bars on the page"


@pytest.mark.slow  # half a minute: it trains a model
def test_a_file_of_logs_becomes_an_audit_and_a_first_model() -> None:
    outputs = run_story(NOTEBOOKS[5])
    figures = [data for data in _data(outputs) if "application/vnd.plotly.v1+json" in data]
    assert len(figures) == 3
    shown = "\n".join(str(data.get("text/html", "")) for data in _data(outputs))
    assert "1,124 replies" in shown
    assert "Which signal" not in shown and "use with care: " in shown
    assert "ranks a reacted reply above another" in shown


@pytest.mark.xdist_group("demo")
def test_the_last_story_does_without_an_ab_test(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_home, home, ignore=shutil.ignore_patterns("dagster", "raw_*", "production_store"))
    readout, folder = no_readout(), Path(rluf.open_home(home).lake.current("ab_test_readout").uri)
    for name, frame in (("readout", readout.metrics), ("checks", readout.checks), ("by_day", readout.days)):
        frame.write_parquet(folder / f"{name}.parquet")
    monkeypatch.setenv("RLUF_HOME", str(home))
    said = "\n".join(str(data.get("text/markdown", "")) for data in _data(run_story(NOTEBOOKS[4])))
    assert said.count("There is no A/B test in this lake") == 2
    assert SAID["5"] in said


def run_story(path: Path) -> list[dict]:
    """Execute a notebook; every output of its code cells."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def _data(outputs: list[dict]) -> list[dict]:
    return [output["data"] for output in outputs if "data" in output]


def _points(trace: dict) -> bool:
    return any(len(json.dumps(trace.get(axis))) > 4 for axis in ("x", "y", "z"))
