"""The documentation is tried: it builds without a warning, its code runs, its settings load, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from resources.profiles import Profile, candidate_config, load_candidates, load_profile
from rluf_assets.cli import app
from rluf_assets.feedback.config import MessagesLayout
from tests.docs.pages import PAGES, ROOT, Block, blocks, commands, inline

NAMES = [page.name for page in PAGES]
WITH_CODE = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
TRAINS = {"adding-an-objective.md"}  # some twenty seconds
FOLDERS = ("rluf_assets", "resources", "data_checks", "docs", "examples", "notebooks", "tests", "benchmarks", ".ci")


def test_the_site_builds_and_warns_on_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    reference = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "Which signal deserves trust" in reference or "audit_signals" in reference
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:link|script|img)[^>]+(?:href|src)=\"https?://", front), (
        "pages load nothing from elsewhere"
    )


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in TRAINS else []) for page in WITH_CODE],
)
def test_code_runs(page: Path, tiny_home: Path, tmp_path: Path) -> None:
    """A page's Python, top to bottom in one process on a finished demo; titled blocks are the files it finds."""
    code: list[str] = []
    for block in blocks(page):
        if block.title:
            code.append(f"open({block.title!r}, 'w').write({block.text!r})")
        elif block.language == "python":
            code.append("\n" * (block.line - sum(part.count("\n") + 1 for part in code) - 1) + block.text.rstrip("\n"))
    # Padded to the page's own lines, so that a traceback names them; a titled block is shorter than its source.
    script = tmp_path / page.with_suffix(".py").name
    script.write_text("\n".join(code), encoding="utf-8")
    environment = {"RLUF_HOME": str(tiny_home), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{page}:\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_load(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks(page):
        if block.language == "python" and block.title:
            (tmp_path / block.title).write_text(block.text)
        if block.language == "yaml":
            folder = tmp_path / str(block.line)
            folder.mkdir()
            _load(block, folder)


def _load(block: Block, folder: Path) -> None:
    """A YAML block as what it is: candidates, settings of a home folder, or the layout of a log."""
    keys = set(yaml.safe_load(block.text))
    if keys == {"candidates"}:
        (folder / "candidates.yaml").write_text(block.text)
        shared = load_profile(folder, "tiny").crraft_policy
        for name in load_candidates(folder):
            candidate_config(folder, name, shared).check_names(["love", "helpfulness", "safety"])
    elif keys <= set(Profile.model_fields):
        text = block.text if "profile" in keys else f"profile: tiny\n{block.text}"
        (folder / "rluf.yaml").write_text(text)
        load_profile(folder)
    else:
        MessagesLayout.model_validate(yaml.safe_load(block.text))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page: Path) -> None:
    for where, words in commands(page):
        if words[0] == "rluf":
            _parse(where, words[1:])
        elif words[0] == "make":
            assert words[1] in _targets(), where
        elif words[:2] == ["python", "-m"] and words[2].split(".")[0] in FOLDERS:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), where
    for said in inline(page):
        words = said.split()
        if words[0] == "rluf" and len(words) > 1 and words[1].isidentifier():
            assert words[1] in _group().commands, f"{page.name}: {said}"
        elif words[0] == "make" and len(words) > 1 and words[1].islower():
            assert words[1] in _targets(), f"{page.name}: {said}"
        elif words[:2] == ["python", "-m"] and words[2].split(".")[0] in FOLDERS and "<" not in said:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), f"{page.name}: {said}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_exist(page: Path) -> None:
    for said in inline(page):
        if re.fullmatch(rf"(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*", said) and "*" not in said:
            assert (ROOT / said).exists() or (ROOT / f"{said}.py").exists(), f"{page.name}: {said}"
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: links to {target}"


def test_every_command_is_told_somewhere() -> None:
    told = {
        words[1] for page in PAGES for said in inline(page) if (words := said.split())[0] == "rluf" and len(words) > 1
    }
    told |= {words[1] for page in PAGES for _, words in commands(page) if words[0] == "rluf" and len(words) > 1}
    assert set(_group().commands) <= told


def _group() -> Any:
    return typer.main.get_command(app)


def _parse(where: str, words: list[str]) -> None:
    """The command's own parser takes these words; those in brackets may be left out, so they are right too."""
    group, words = _group(), [word.strip("[]") for word in words]
    assert words[0] in group.commands, f"{where}: no command {words[0]!r}"
    try:
        group.commands[words[0]].make_context(words[0], words[1:], parent=group.make_context("rluf", words))
    except Exception as error:
        pytest.fail(f"{where}: rluf {' '.join(words)}: {error!r}")


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def numbers(cell: str) -> list[float]:
    return [float(found) for found in re.findall(r"[+-]?\d+(?:\.\d+)?", cell)]


def test_the_readme_s_table_is_that_of_the_results() -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in (ROOT / "docs" / "results.md").read_text().splitlines()
        if "| " in line
    ]
    header = next(cells for cells in rows if cells[0] == "figure")
    results = {cells[0]: dict(zip(header, cells, strict=False)) for cells in rows}
    readme = [
        line.strip("| ").split(" | ") for line in (ROOT / "README.md").read_text().splitlines() if "| seed " in line
    ]
    assert [cells[0] for cells in readme] == header[2:]
    for seed, moderate, aggressive, farewells, verdicts in readme:
        for name, cell in (("moderate", moderate), ("aggressive", aggressive)):
            assert numbers(cell) == pytest.approx(numbers(results[f"{name}: love change"][seed]), abs=0.51)
        found = [numbers(results[f"{name}: farewell rate"][seed])[0] for name in ("baseline", "moderate", "aggressive")]
        assert numbers(farewells) == pytest.approx(found, abs=0.051)
        assert verdicts.split(", ") == [results[f"{name}: decision"][seed] for name in ("moderate", "aggressive")]


def test_every_module_at_the_root_has_its_line() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Modules at the root")[1].split("\n## ")[0]
    named = re.findall(
        r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    )
    there = sorted(path.stem for path in (ROOT / "rluf_assets").glob("*.py") if path.stem != "__init__")
    assert sorted(named) == there
    said = page.split("## Where is ...?")[1].split("\n## ")[0]
    for path in re.findall(r"`([a-z_/]+\.py)`", said):
        assert any((ROOT / folder / path).is_file() for folder in ("", "rluf_assets")), path
