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
    from rluf_assets.home import open_home

    lines = read_decisions(open_home(home).lake)
    for line in lines:
        under = f"plan {line['plan']}, evidence {line['evidence_hash']}, weights {line['policy'][:16]}"
        typer.echo(
            f"{line['at'][:19]}  {line['verdict']:<9}  {line['candidate']}  ({under}, asked by {line['asked_by']})"
        )
        typer.echo(f"  {line['because']}")
    if not lines:
        typer.echo("No decision is on record: materialise release_report.")


@app.command()
def power(home: Home = DEFAULT_HOME) -> None:
    """Say how many users and days the A/B test of `ab_plan` must have, from the variance of the home's own logs."""
    from rluf_assets.evaluation.joint_power import joint_power, size_table, sizings
    from rluf_assets.evaluation.own_logs import days_needed
    from rluf_assets.evaluation.words import number, percent, points

    users, config = _own_users(home)
    found, plan = sizings(users, config), config.plan
    table = size_table(found, plan)
    typer.echo(f"{len(users):,} users of the last {plan.planned_days} days of the logs; plan {plan.hash}.")
    typer.echo("Users that each shows what the plan asks of it, in both arms together:")
    for row in table.iter_rows(named=True):
        days = days_needed(users["first_day"], row["users_needed"], plan.planned_days)
        margins = [] if row["asked"] is None else [percent(row["asked"])]
        if row["asked_absolute"] is not None:
            margins.append(f"{points(row['asked_absolute'], signed=False)} of users at risk")
        asked = "a lift of" if row["role"] == "goal" else "at most worse by"
        when = "never at this traffic" if days is None else f"after {days:,.0f} days"
        typer.echo(
            f"  {row['metric']} ({row['role']}, {asked} {' or '.join(margins)}): {row['users_needed']:,} users, {when}; "
            f"power at the planned {plan.planned_users:,}: {percent(row['power'])}"
        )
    together = joint_power(found, plan)
    typer.echo(
        f"A goal and every guardrail together, at the planned looks: {percent(together)} (asked: {percent(plan.power)})."
    )
    if together < plan.power:
        typer.echo(
            "Too little: raise ab_plan.planned_users and planned_days, ask for a larger minimum_detectable_effect, or tolerate "
            "more in the margins, before users meet a candidate."
        )
    days = days_needed(users["first_day"], plan.planned_users, plan.planned_days)
    when = "more days than can be told" if days is None else f"{days:,.0f} days"
    typer.echo(f"{number(plan.planned_users)} users come in {when}; the plan says {plan.planned_days}.")
    _tell_unsized(set(table["metric"]), plan)


def _tell_unsized(known: set[str], plan: Any) -> None:
    """Goals and guardrails that the logs cannot size: they are in no figure, and may hold every candidate."""
    missing = [name for name in (*plan.goals, *plan.guardrails) if name not in known]
    if missing:
        typer.echo(
            f"Not counted above: {', '.join(missing)}. The logs lack their columns, have no event, or no user differs from "
            "another. What the exposures do not measure holds every candidate, unless ab_plan.excused names it."
        )


@app.command(name="aa-test")
def aa_test_command(
    home: Home = DEFAULT_HOME,
    runs: Annotated[int, typer.Option(help="Random splits.", min=10)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the splits.")] = 0,
) -> None:
    """Split the home's own past users at random, again and again: does the readout keep its error rate on these logs?"""
    import polars as pl

    from rluf_assets.evaluation.own_logs import aa_test
    from rluf_assets.evaluation.words import percent

    users, config = _own_users(home)
    table = aa_test(users, config, runs=runs, seed=seed)
    typer.echo(
        f"{len(users):,} users split {runs:,} times; {percent(1 - config.confidence)} should be called different."
    )
    for row in table.iter_rows(named=True):
        if row["keeps"] is None:
            typer.echo(f"  {row['metric']}: not measured, an arm had no event")
            continue
        said = "DOES NOT keep it: its intervals are too narrow on these logs"
        if row["keeps"]:
            told = row["high"] <= 2 * (1 - config.confidence)
            said = "keeps it" if told else "no sign of more, but too few runs to tell: raise --runs"
        typer.echo(
            f"  {row['metric']}: {percent(row['share'])} ({percent(row['low'])} to {percent(row['high'])}), {said}"
        )
    measured = set(table.filter(pl.col("keeps").is_not_null())["metric"])
    missing = [name for name in (*config.plan.goals, *config.plan.guardrails) if name not in measured]
    if missing:
        typer.echo(
            f"Of the plan, not tested: {', '.join(missing)}. The logs lack their columns, or an arm had no event."
        )
    if False in table["keeps"].to_list() or not measured:
        raise typer.Exit(1)


def _own_users(home: Path) -> tuple[Any, Any]:
    """Users of the home's validated replies, and the readout's settings."""
    from rluf_assets.errors import ArtifactMissing
    from rluf_assets.evaluation.exposures import FILTER
    from rluf_assets.evaluation.own_logs import users_of_logs
    from rluf_assets.feedback.splits import scan_days
    from rluf_assets.home import open_home

    opened = open_home(home)
    profile = opened.settings
    config, made = profile.readout, profile.signal_set
    folders = [
        Path(opened.lake.current("validated_replies", day).uri) for day in opened.lake.partitions("validated_replies")
    ]
    if not folders:
        raise ArtifactMissing("validated_replies: no day is published. Materialise it first.")
    try:
        scores = opened.rewards["love"].held_out_scores
    except (ArtifactMissing, OSError):  # P[signal] is not trained yet: behaviour alone
        scores = None
    replies, filtered = scan_days(folders, "replies"), FILTER in config.plan.exclude
    users = users_of_logs(
        replies, config.plan.planned_days, scores, signal=made.signal,
        adversarial=made.adversarial if filtered else None,
    )  # fmt: skip
    return users, config


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept beside the release.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Put the policy back in force that was released before, and keep the withdrawn one from being released again."""
    from rluf_assets.home import open_home
    from rluf_assets.rollback import note_in_dagster, roll_back

    opened = open_home(home)
    result = roll_back(opened.lake, reason)
    note_in_dagster(opened.folder, result)
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
    from rluf_assets.home import open_home

    opened = open_home(home)
    candidate = opened.policies[policy]
    candidate.check()
    typer.echo(f"{policy}, from {opened.folder}. An empty line ends the conversation.")
    conversation: list[Message] = []
    while said := _ask():
        conversation.append(Message(role="user", content=said))
        row = candidate.reply(conversation, seed=seed + len(conversation)).row(0, named=True)
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
    from rluf_assets.objectives import REWARDS

    scores = [
        f"{o} {percent(row[o]) if o == 'love' else number(row[o], signed=True)} "
        f"(above {percent(row[f'{o}_rank'], digits=0)} of the baseline's replies)"
        for o in REWARDS
    ]
    verdicts = f"✗ {', '.join(row['failed'])}: {row['reasons']}" if row["failed"] else "✓ no judge objects"
    return f"  {' · '.join(scores)}\n  {verdicts}"
