"""What the documentation says that can be tried: its fenced blocks, commands, settings and paths.

    blocks(page)        every fenced block with its language, title and first line
    commands(page)      every shell line of a page, with where it stands

A block with a title is a file, which the page's later blocks find in their working directory.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELLS = ("", "sh", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is its first line, counted from 1."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order. Raises ValueError for a fence that this cannot read."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start()) + 2, match["language"], match["title"], match["text"])
        for match in _FENCE.finditer(text)
    ]
    fences = len(re.findall(r"^\s*```", text, re.MULTILINE))
    if fences != 2 * len(found):
        raise ValueError(f"{page}: {fences} fences, {len(found)} blocks read; indented or unknown fences are not tried")
    return found


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every simple command of a page's shell blocks: where it stands, and its words. Here-documents are left out."""
    for block in blocks(page):
        if block.language not in SHELLS:
            continue
        text = re.sub(r"<<EOF\n.*?\nEOF$", "", block.text, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
        for number, line in enumerate(text.splitlines()):
            for simple in re.split(r"\||&&|&|;", re.sub(r"(^|\s)#.*", "", line)):
                try:
                    words = shlex.split(simple)
                except ValueError:  # a quote that holds a pipe: no command of ours
                    continue
                if words:
                    words[0] = words[0].removeprefix(".venv/bin/")
                    yield f"{block.page.name}:{block.line + number}", words


def inline(page: Path) -> Iterator[str]:
    """Everything in single backticks on a page, tables included."""
    yield from _INLINE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
