"""`rluf chat` on the tiny lake: replies with scores and verdicts, a conversation that is remembered, clear refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rluf_assets.cli import app
from rluf_assets.errors import ArtifactMissing

pytestmark = pytest.mark.xdist_group("demo")


def talk(home: Path, lines: str, *options: str) -> str:
    arguments = ["chat", "--policy", "moderate", "--home", str(home), *options]
    return CliRunner().invoke(app, arguments, input=lines, catch_exceptions=False).stdout


def test_every_reply_comes_with_scores_and_verdicts(tiny_home: Path) -> None:
    said = talk(tiny_home, "how do I boil an egg?\nand then?\n\n")
    assert said.count("moderate> ") == 2
    # Not a plain count: a reply may hold the word love itself.
    scored = re.findall(r"(?:^  |· )(\w+) \S+ \(above", said, flags=re.MULTILINE)
    assert sorted(scored) == sorted(2 * ["helpfulness", "safety", "love"])
    assert said.count("of the baseline's replies") == 6
    assert said.count("no judge objects") + said.count("✗ ") == 2
    # The second reply answered a conversation: the same words on their own, at the same seed, get another one.
    alone = talk(tiny_home, "and then?\n", "--seed", "2")
    assert alone.split("moderate> ")[1].splitlines()[:2] != said.split("moderate> ")[2].splitlines()[:2]
    assert alone.rstrip().endswith("you>"), "the end of the input ends the conversation"


def test_unknown_policies_are_named(tiny_home: Path) -> None:
    with pytest.raises(ArtifactMissing, match=r"crraft_policy\[nobody\]: this home has aggressive, baseline, moderate"):
        CliRunner().invoke(
            app, ["chat", "--policy", "nobody", "--home", str(tiny_home)], input="hi\n", catch_exceptions=False
        )
