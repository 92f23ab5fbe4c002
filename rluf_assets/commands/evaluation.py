"""`rluf report`, `rluf chat`, `rluf rollback`: the release's pages, talking to a candidate, taking a release back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()

Home = Annotated[Path, typer.Option("--home", help="Folder of the lake, the Dagster instance and the reports.")]
DEFAULT_HOME = Path("rluf-demo")


@app.command()
def report(home: Home = DEFAULT_HOME) -> None:
    """Rebuild the release's pages from the lake: index.html and one page per candidate."""
    from rluf_assets.rebuild import rebuild_pages

    for page in rebuild_pages(home):
        typer.echo(page)


@app.command()
def decisions(home: Home = DEFAULT_HOME) -> None:
    """Show every release decision on record: when, on which candidate, under which plan, who or what asked, and why."""
    from rluf_assets.evaluation.decision_log import read_decisions
    from rluf_assets.workbench import open_lake

    lines = read_decisions(open_lake(home).lake)
    for line in lines:
        under = f"plan {line['plan']}, evidence {line['evidence_hash']}, weights {line['policy'][:16]}"
        typer.echo(
            f"{line['at'][:19]}  {line['verdict']:<9}  {line['candidate']}  ({under}, asked by {line['asked_by']})"
        )
        typer.echo(f"  {line['because']}")
    if not lines:
        typer.echo("No decision is on record: materialise release_report.")


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept beside the release.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Put the policy back in force that was released before, and keep the withdrawn one from being released again."""
    from rluf_assets.rollback import note_in_dagster, roll_back
    from rluf_assets.workbench import open_lake

    bench = open_lake(home)
    result = roll_back(bench.lake, reason)
    note_in_dagster(bench.home, result)
    typer.echo(f"Withdrawn: {result.withdrawn['candidate']}. In force: {result.restored['candidate']}.")
    typer.echo(f"Its weights: {result.restored['policy']['uri']}")


@app.command()
def chat(
    policy: Annotated[str, typer.Option(help="Candidate to talk to.")],
    home: Home = DEFAULT_HOME,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Talk to a candidate; every reply comes with its scores and the judges' verdicts. An empty line ends it."""
    from rluf_assets.chat import Message
    from rluf_assets.workbench import open_lake

    bench = open_lake(home)
    bench.player.check(policy)
    typer.echo(f"{policy}, from {bench.home}. An empty line ends the conversation.")
    conversation: list[Message] = []
    while said := _ask():
        conversation.append(Message(role="user", content=said))
        row = bench.reply(policy, conversation, seed=seed + len(conversation)).row(0, named=True)
        conversation.append(Message(role="assistant", content=row["reply"]))
        typer.echo(f"{policy}> {row['reply']}\n{_told(row)}")


def _ask() -> str:
    """The next line, or nothing at the end of the input."""
    try:
        return input("you> ").strip()
    except EOFError:
        typer.echo()
        return ""


def _told(row: Mapping[str, Any]) -> str:
    """Scores and verdicts of a reply in two lines."""
    from rluf_assets.evaluation.words import number, percent
    from rluf_assets.workbench import REWARDS

    scores = [
        f"{o} {percent(row[o]) if o == 'love' else number(row[o], signed=True)} "
        f"(above {percent(row[f'{o}_rank'], digits=0)} of the baseline's replies)"
        for o in REWARDS
    ]
    verdicts = f"✗ {', '.join(row['failed'])}: {row['reasons']}" if row["failed"] else "✓ no judge objects"
    return f"  {' · '.join(scores)}\n  {verdicts}"
