"""What a terminal says of a unit that failed: why, what was observed and expected, where to look, and what is skipped."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from resources.launchers.local import LocalLauncher
from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.errors import DataError, JobFailed
from rluf_assets.materialise import Outcome, Unit, _end, outcome_of
from rluf_assets.runs.display import Display, headlines


@dg.asset
def orders() -> None:
    try:
        raise KeyError("price")
    except KeyError as error:
        named = DataError("orders.csv: no column 'price'; expected one of cost. Rename it.")
        named.__cause__ = error
        raise dg.RetryRequested(max_retries=0) from named


@dg.asset
def made() -> None:
    return None


@dg.asset_check(asset=made)
def not_negative() -> dg.AssetCheckResult:
    page = dg.MetadataValue.url("http://127.0.0.1:4001/lake/orders/_/abc/day%20one.html")
    metadata = {"observed": "3 of 10 rows", "expected": "values_between(min_value=0)", "page": page}
    return dg.AssetCheckResult(passed=False, description="3 of 10 rows", metadata=metadata)


def shown(outcomes: dict[Unit, Outcome], home: Path) -> str:
    console = Console(width=60, record=True, file=(home / "said").open("w"))
    with Display(console, home) as display:
        display.show(outcomes)
        display.show(outcomes)
    return console.export_text()


def test_a_failed_step_tells_the_named_error_not_what_wrapped_it(tmp_path: Path) -> None:
    outcome = outcome_of(dg.materialize([orders], raise_on_error=False))
    assert outcome.state == "failed"
    told = shown({Unit(("orders",)): outcome}, tmp_path)
    assert told.count("orders.csv: no column 'price'; expected one of cost. Rename it.") == 1
    assert "Traceback" not in told and "step failed" not in told


def test_a_failed_check_tells_what_was_expected_and_the_page(tmp_path: Path) -> None:
    page = tmp_path / "lake" / "orders" / "_" / "abc" / "day one.html"
    outcome = outcome_of(dg.materialize([made, not_negative], raise_on_error=False))
    told = shown({Unit(("made",)): outcome}, tmp_path)
    assert "made/not_negative: 3 of 10 rows" in told and "expected: values_between(min_value=0)" in told
    assert "open: http://127.0.0.1:4001/lake/orders/_/abc/day%20one.html" in told, "no such file: as it is served"
    page.parent.mkdir(parents=True)
    page.touch()
    assert f"open: {page}" in shown({Unit(("made",)): outcome}, tmp_path)


def test_what_is_downstream_is_skipped_at_once_and_named_once(tmp_path: Path) -> None:
    logs, labels, model, other = (Unit((name,)) for name in ("logs", "labels", "model", "other"))
    upstream = {logs: [], labels: [logs], model: [logs, labels], other: []}
    outcomes = {unit: Outcome() for unit in upstream}
    outcomes[other].state = "running"
    _end(logs, Outcome("failed", errors=["logs: no such file\nlog: job.log"]), upstream, outcomes)
    assert [outcome.state for outcome in outcomes.values()] == ["failed", "skipped", "skipped", "running"]
    told = shown(outcomes, tmp_path)
    assert "skipped because of it: labels, model" in told
    assert told.index("log: job.log") < told.index("skipped because")
    assert headlines(outcomes).splitlines() == [
        "1 of 4 runs failed, 2 were skipped because of it; the reasons in full stand above.",
        "logs: logs: no such file",
    ]


def test_a_job_that_crashed_is_told_by_the_error_its_log_ends_with(tmp_path: Path) -> None:
    source = InputArtifact(uri=str(tmp_path / "none"), content_hash="1")
    spec = JobSpec(
        name="copy", entrypoint="rluf_assets.jobs.adopt_tables", version="1", seed=0,
        output_uri=str(tmp_path / "artifact"), config={"tables": {"a.json": []}}, inputs={"source": source},
    )  # fmt: skip
    for _ in range(2):  # the second attempt's log follows the first one's
        with pytest.raises(JobFailed) as caught:
            LocalLauncher().run(None, spec)
        words = str(caught.value).split("\nLast lines of ")[0].splitlines()
        assert words[0] == "copy: the job ended with exit status 3."
        assert words[1].startswith("DataError: ") and "a.json" in words[1]


def test_a_schedulers_job_goes_on_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "rluf.yaml").write_text(
        "profile: tiny\njobs: {train_reward: {launcher: cluster}}\nlaunchers: {cluster: {kind: slurm}}\n"
    )
    units = {"p_love": "train_reward", "base_policy": "train_base_policy"}
    for asset, job in units.items():
        logs = tmp_path / "lake" / asset / "_" / "abc" / "logs"
        logs.mkdir(parents=True)
        spec = JobSpec(
            name=asset, entrypoint=f"rluf_assets.jobs.{job}", version="1", seed=0, output_uri=str(logs.parent)
        )
        (logs / "spec.json").write_text(spec.model_dump_json())
    outcomes = {Unit((asset,)): Outcome("ended", wall_s=60) for asset in units}
    assert "a job may be on its way to Slurm" in " ".join(shown(outcomes, tmp_path).split())
    record = tmp_path / "lake" / "p_love" / "_" / "abc" / "logs" / "submissions.json"
    record.write_text('[{"job_id": "41"}, {"job_id": "42"}]')
    told = " ".join(shown(outcomes, tmp_path).split())
    assert "p_love: Slurm job 42 goes on, and the same command comes back to it" in told
    assert "base_policy: the same command goes on where it was" in told
