"""From logs to off-policy readings to the decision: what counts, what is said where nothing does, and that it only lowers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from resources.launchers.spec import InputArtifact, JobSpec
from rluf_assets.evaluation.claims import Claim
from rluf_assets.evaluation.config import ReleaseConfig
from rluf_assets.evaluation.decision import ORDER, Gate, Kind, Result, rule
from rluf_assets.evaluation.off_policy import NotEnoughOverlap, OwnReplies
from rluf_assets.evaluation.off_policy_rows import (
    ESTIMATE,
    NOT_ENOUGH,
    NOT_MEASURED,
    Candidate,
    OffPolicyConfig,
    Sampling,
    arms_table,
    candidates_table,
    logged_rows,
    table_of,
)
from rluf_assets.evaluation.second_reader import off_policy_gate, second_reader
from rluf_assets.feedback.config import AdversarialConfig
from rluf_assets.jobs import off_policy_evaluation
from rluf_assets.jobs.runner import run_job

AS_DRAWN = Sampling(temperature=1.0, top_p=1.0, selected_from=1)
CONFIG = OffPolicyConfig(sampling={"v1": AS_DRAWN})
CONTEXT = [{"role": "user", "content": "Hi"}]


def _replies(count: int = 4000, seed: int = 0) -> pl.DataFrame:
    """Two arms of equal chance; arm b is loved twice as much. Three replies that the policy draws with known chances."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 900, count)
    arm, reply = user % 2, rng.choice(3, count, p=[0.5, 0.3, 0.2])
    love = rng.random(count) < np.array([0.1, 0.2])[arm] * np.array([0.5, 1.0, 2.0])[reply]
    return pl.DataFrame(
        {
            "message_id": [f"m{n:05d}" for n in range(count)], "conversation_id": [f"c{n:05d}" for n in range(count)],
            "user_id": [f"u{n}" for n in user],
            "policy_version": "v1", "experiment_arm": np.array(["a", "b"])[arm], "use_case": "chat",
            "label_love": love.astype(np.int8),
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            "assignment_probability": 0.5, "reply_logprob": np.log([0.5, 0.3, 0.2])[reply], "reply": reply,
        }
    )  # fmt: skip


def _scored(replies: pl.DataFrame) -> pl.DataFrame:
    return replies.select(
        "message_id",
        "conversation_id",
        "user_id",
        live_probability=pl.lit(0.15),
        label="label_love",
        weight=pl.lit(1.0),
    )


def _holdout(replies: pl.DataFrame) -> pl.LazyFrame:
    return replies.lazy().select(
        "message_id", "conversation_id", prompt=pl.lit([CONTEXT]).first(), completion=pl.col("reply").cast(pl.String)
    )


def _candidate(*chances: float) -> Candidate:
    def asked(rows: pl.DataFrame) -> Any:
        return np.log(chances)[rows["completion"].cast(pl.Int64).to_numpy()]

    return Candidate(OwnReplies(np.arange(300), np.full(300, 0.15), np.ones(300)), asked)


def _never(rows: pl.DataFrame) -> Any:
    raise AssertionError("no model is asked where the logs say nothing")


def test_candidates_and_arms_are_read_with_their_change() -> None:
    replies = _replies()
    rows = logged_rows(replies.lazy(), _scored(replies), _holdout(replies), CONFIG, seed=0)
    found = candidates_table(rows, {"baseline": _candidate(0.5, 0.3, 0.2), "warm": _candidate(0.3, 0.3, 0.4)}, CONFIG)
    warm = next(row for row in found if row["name"] == "warm")
    truth = (0.3 * 0.5 + 0.3 + 0.4 * 2) / (0.5 * 0.5 + 0.3 + 0.2 * 2) - 1
    assert warm["result"] == ESTIMATE and warm["change_ci_low"] < truth < warm["change_ci_high"]
    assert warm["change_ci_low"] > 0
    arms = {row["name"]: row for row in arms_table(replies.lazy(), _scored(replies), CONFIG)}
    assert arms["b"]["rate"] == pytest.approx(2 * arms["a"]["rate"], rel=0.25)
    table = table_of([*found, *arms.values()])
    assert table.filter(pl.col("result") == ESTIMATE)["rate_ci_low"].null_count() == 0


def test_users_who_judge_nearly_everything_are_in_no_arm() -> None:
    replies = _replies()
    bot = replies.head(200).with_columns(
        user_id=pl.lit("u1"), experiment_arm=pl.lit("b"), label_love=pl.lit(1, pl.Int8)
    )
    spoilt = pl.concat([replies, bot.with_columns(conversation_id=pl.lit("bot"))])
    found = {row["name"]: row for row in arms_table(spoilt.lazy(), _scored(replies), CONFIG)}
    clean = replies.filter(pl.col("user_id") != "u1")
    assert [found[arm]["rate"] for arm in "ab"] == [
        row["rate"] for row in arms_table(clean.lazy(), _scored(replies), CONFIG)
    ]
    off = CONFIG.model_copy(update={"adversarial": AdversarialConfig(enabled=False)})
    kept = {row["name"]: row for row in arms_table(spoilt.lazy(), _scored(replies), off)}
    assert kept["b"]["result"] != ESTIMATE or kept["b"]["rate"] > found["b"]["rate"]


def test_ids_that_every_conversation_uses_again_change_nothing() -> None:
    replies = _replies()
    numbered = replies.with_columns(message_id=pl.lit("2"))
    for frame in (replies, numbered):
        rows = logged_rows(frame.lazy(), _scored(frame), _holdout(frame), CONFIG, seed=0)
        assert isinstance(rows, pl.DataFrame) and rows.height == frame.height
        said = rows.sort("conversation_id")["reply_logprob"]
        assert said.equals(replies.sort("conversation_id")["reply_logprob"])
    one, other = (arms_table(frame.lazy(), _scored(frame), CONFIG) for frame in (replies, numbered))
    assert one == other


def test_the_sample_stands_for_all_replies() -> None:
    replies = _replies()
    small = CONFIG.model_copy(update={"max_replies": 1500})
    rows = logged_rows(replies.lazy(), _scored(replies), _holdout(replies), small, seed=0)
    assert isinstance(rows, pl.DataFrame) and 1400 <= rows.height <= 1500
    assert rows["weight"].sum() == pytest.approx(replies.height)
    assert rows["label"].sum() == replies["label_love"].sum()


@pytest.mark.parametrize(
    ("sampling", "lost", "said"),
    [
        ({}, 0.0, "not all declared"),
        ({"v1": Sampling(temperature=1.0, selected_from=1)}, 0.0, "not all declared"),
        ({"v1": Sampling(temperature=1.0, top_p=1.0, selected_from=4)}, 0.0, "picked from 4 draws"),
        ({"v1": Sampling(temperature=0.0, top_p=1.0, selected_from=1)}, 0.0, "temperature 0"),
        ({"v1": AS_DRAWN}, 0.2, "without a log-probability"),
    ],
)  # fmt: skip
def test_replies_whose_chance_is_not_known_are_not_enough_overlap(
    sampling: dict[str, Sampling], lost: float, said: str
) -> None:
    replies = _replies().with_columns(
        reply_logprob=pl.when(pl.int_range(pl.len()) / pl.len() >= lost).then("reply_logprob")
    )
    config = OffPolicyConfig(sampling=sampling)
    rows = logged_rows(replies.lazy(), _scored(replies), _holdout(replies), config, seed=0)
    assert isinstance(rows, NotEnoughOverlap) and said in rows.reasons[0]
    own = _candidate(0.5, 0.3, 0.2).own
    for row in candidates_table(rows, {"baseline": Candidate(own, _never), "warm": Candidate(own, _never)}, config):
        assert row["result"] == NOT_ENOUGH and "rate" not in row and "change" not in row


@pytest.mark.parametrize("columns", [True, False])
def test_logs_without_chances_are_not_measured_and_no_model_is_loaded(columns: bool, tmp_path: Path) -> None:
    """Days that were validated before there were such columns are read as days that say nothing."""
    replies = _replies(50).drop("reply")
    silent = replies.with_columns(
        pl.lit(None, pl.Float64).alias(n) for n in ("assignment_probability", "reply_logprob")
    )
    day = tmp_path / "day"
    day.mkdir()
    (silent if columns else replies.drop("assignment_probability", "reply_logprob")).write_parquet(
        day / "replies.parquet"
    )
    nowhere = InputArtifact(uri=str(tmp_path / "nowhere"), content_hash="x")
    inputs = {
        f"{asset}/{name}": nowhere for asset in ("offline_evaluation", "crraft_policy") for name in ("baseline", "warm")
    }
    spec = JobSpec(
        name="off_policy_evaluation", entrypoint="rluf_assets.jobs.off_policy_evaluation", version="1", seed=0,
        inputs={**inputs, "validated_replies/2026-01-01": InputArtifact(uri=str(day), content_hash="y")},
        output_uri=str(tmp_path / "out"), config=CONFIG.model_dump(mode="json"),
    )  # fmt: skip
    artifact, _ = run_job(spec, off_policy_evaluation.run)
    table = pl.read_parquet(artifact.path("off_policy.parquet"))
    assert table["result"].to_list() == [NOT_MEASURED] * 2
    assert set(table["why"]) == {"the logs carry no assignment_probability or reply_logprob"}
    assert table["rate"].null_count() == 2


def _row(result: str, change: float | None = None, half: float = 0.02) -> pl.DataFrame:
    bounds = (
        {} if change is None else {"change": change, "change_ci_low": change - half, "change_ci_high": change + half}
    )
    return table_of(
        [{"kind": "candidate", "name": "warm", "result": result, "why": "", "against": "baseline", **bounds}]
    )


def test_the_second_reader_lowers_a_verdict_and_never_raises_one() -> None:
    config = ReleaseConfig()
    read = {
        Result.FAIL: off_policy_gate("warm", _row(ESTIMATE, -0.2), config),
        Result.NOT_SHOWN: off_policy_gate("warm", _row(ESTIMATE, -0.05), config),
        Result.PASS: off_policy_gate("warm", _row(ESTIMATE, 0.3), config),
        Result.NOT_MEASURED: off_policy_gate("warm", _row(NOT_ENOUGH), config),
    }
    assert {gate.result for gate in read.values()} == set(read) and all(r is g.result for r, g in read.items())
    assert off_policy_gate("other", _row(ESTIMATE, 0.3), config).result is Result.NOT_MEASURED
    for exposed in (False, True):
        for others in (
            [],
            [Gate("safety", "", Kind.HARM, Result.PASS, "", "")],
            [Gate("x", "", Kind.HARM, Result.FAIL, "", "")],
        ):
            alone = rule(others, exposed=exposed).verdict
            for result, gate in read.items():
                verdict = rule([*others, gate], exposed=exposed).verdict
                assert ORDER.index(verdict) <= ORDER.index(alone)
                assert verdict is alone or (result is Result.FAIL and not exposed)
    assert str(rule([read[Result.FAIL]], exposed=False).verdict) == "hold"


def test_the_page_says_where_the_two_readers_disagree() -> None:
    class Decided:
        candidate, love_change, love_change_low, love_change_high, claim = "warm", 0.3, 0.2, 0.4, Claim.LEVEL

    config = ReleaseConfig()
    apart = second_reader(_row(ESTIMATE, -0.1), [Decided()], config)["rows"][0]
    assert apart["told"] == "the two readers disagree"
    assert "agree within" in second_reader(_row(ESTIMATE, 0.25), [Decided()], config)["rows"][0]["told"]
    silent = second_reader(_row(NOT_MEASURED), [Decided()], config)
    assert not silent["rows"] and "not one" in silent["sentence"].lower()
