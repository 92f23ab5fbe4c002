"""A/B tests whose users share replies: intervals that count them as clusters, use cases and days from the reply log."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm, t

from rluf_assets.errors import DataError
from rluf_assets.evaluation.clustering import TwoWay, reply_log
from rluf_assets.evaluation.config import Metric, ReadoutConfig
from rluf_assets.evaluation.exposures import Arm, per_user
from rluf_assets.evaluation.metric import compare_metric
from rluf_assets.evaluation.readout import read_out
from tests.evaluation.test_ab_readout import LOVE, within_binomial_bound

RUNS, USERS, BANK = 300, 400, 60


def arm_of(name: str, rng: np.random.Generator, *, lift: float = 0.0, users: int = USERS, wears_off: bool = False):
    """Users who share a bank of replies of unequal worth: their rows, and one row per reply they saw."""
    worth = 0.05 * rng.gamma(0.5, 2.0, BANK)
    shown = 1 + rng.poisson(4, users)
    user = np.repeat(np.arange(users), shown)
    reply = rng.integers(BANK, size=len(user))
    day = rng.integers(5, size=len(user))
    chance = worth[reply] * rng.gamma(2.0, 0.5, users)[user] * (1 + lift * (np.exp(-day) if wears_off else 1))
    frame = pl.DataFrame(
        {
            "user_id": [f"{name}{u:05d}" for u in user],
            "reply_id": [f"{name}-{r}" for r in reply],
            "use_case": np.where(reply < BANK // 2, "chat", "coding"),
            "day": day,
            "replies": np.ones(len(user), np.int64),
            "love": (rng.random(len(user)) < np.minimum(chance, 1)).astype(np.int64),
        }
    )
    exposed = frame.group_by("user_id", maintain_order=True).agg(pl.col("replies", "love").sum())
    return exposed.with_columns(arm=pl.lit(name)), frame


def compared(rng: np.random.Generator, metric: Metric = LOVE) -> tuple[dict, dict]:
    """The metric's row with users as the only clusters, and with replies as clusters too."""
    arms = []
    for name in ("a", "b"):
        exposed, shown = arm_of(name, rng)
        users = per_user(name, exposed)
        arms.append(Arm(users, reply_log(name, shown, users)))
    base, arm = arms
    assert base.log is not None and arm.log is not None
    by_user = compare_metric(metric, Arm(arm.users), Arm(base.users), ReadoutConfig())
    both = compare_metric(metric, arm, base, ReadoutConfig(), TwoWay.of(arm.log, base.log))
    assert by_user is not None and both is not None
    return by_user, both


def test_a_a_tests_hold_their_level_only_when_replies_are_clusters_too() -> None:
    rng = np.random.default_rng(0)
    rows = [compared(rng) for _ in range(RUNS)]
    naive, both = (np.mean([r[k]["p_value"] < 0.05 for r in rows]) for k in (0, 1))
    assert naive > 0.15, "the flaw this is for"
    assert within_binomial_bound(round(both * RUNS), RUNS, 0.06)
    covered = sum(r[1]["ci_low"] <= 0 <= r[1]["ci_high"] for r in rows if r[1]["ci_low"] is not None)
    assert covered / sum(r[1]["ci_low"] is not None for r in rows) > 0.91
    assert all(r[0]["lift"] == r[1]["lift"] for r in rows), "clustering moves no estimate"


def test_two_way_variance_is_the_textbook_one() -> None:
    rng = np.random.default_rng(1)
    exposed, shown = arm_of("a", rng, users=50)
    users = per_user("a", exposed)
    log = reply_log("a", shown, users)
    other = reply_log("b", *reversed(_as_arm("b", rng)))
    e = rng.normal(size=len(shown))
    zero = np.zeros(len(other.frame))
    by_reply = np.array([e[(shown["reply_id"] == r).to_numpy()].sum() for r in shown["reply_id"].unique()])
    pairs = (
        shown.select("user_id", "reply_id")
        .with_columns(e=e)
        .group_by("user_id", "reply_id")
        .agg(pl.col("e").sum())["e"]
    )
    added = TwoWay.of(log, other).added(e, zero)
    groups, cells = len(by_reply), len(pairs)
    expected = by_reply @ by_reply * groups / (groups - 1) - (pairs.to_numpy() ** 2).sum() * cells / (cells - 1)
    assert added[0] == pytest.approx(expected)
    assert added[1] == added[2] == 0


def test_few_replies_give_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(6)
    metric = Metric(name="love_rate", numerator="love", denominator="replies", role="goal")
    arms = [Arm(users, reply_log(n, shown, users)) for n in ("a", "b") for users, shown in [_as_arm(n, rng)]]
    logs = [arm.log for arm in arms]
    assert logs[0] is not None and logs[1] is not None
    two_way = TwoWay.of(logs[0], logs[1])
    assert two_way.replies.counts == tuple(log.frame["reply_id"].n_unique() for log in logs if log is not None)
    assert not two_way.replies.shared
    assert TwoWay.of(logs[0], logs[0]).replies.shared
    row = compare_metric(metric, *arms, ReadoutConfig(), two_way)
    assert row is not None
    difference, standard_error = row["treatment"] - row["control"], row["mde"] * row["control"] / (1.959964 + 0.841621)
    df = 2 * 49  # at most: 50 users an arm, fewer than replies
    assert (
        row["p_value"] > 2 * t.sf(abs(difference) / standard_error, df) > 2 * norm.sf(abs(difference) / standard_error)
    )


def _as_arm(name: str, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    exposed, shown = arm_of(name, rng, users=50)
    return per_user(name, exposed), shown


@pytest.mark.parametrize("denominator", ["replies", "users"])
def test_influences_of_exposures_add_up_to_their_users(denominator: str) -> None:
    from rluf_assets.evaluation.stats import ratio_of_sums

    users, shown = _as_arm("a", np.random.default_rng(2))
    arm = Arm(users, reply_log("a", shown, users))
    ratio = ratio_of_sums(arm.values("love"), arm.values(denominator))
    assert ratio is not None and arm.log is not None
    e = arm.log.influence(("love", arm.values("love")), (denominator, arm.values(denominator)), ratio, ratio)
    assert np.bincount(arm.log.user, weights=e) == pytest.approx(ratio.influence)


def test_use_cases_and_days_are_read_from_the_replies() -> None:
    rng = np.random.default_rng(3)
    steady, brief = (
        {
            name: arm_of(name, rng, users=8000, lift=3.0 * (name == "b"), wears_off=wears_off)
            for name in ("baseline", "b")
        }
        for wears_off in (False, True)
    )
    found = [
        read_out({n: a[0] for n, a in arms.items()}, ReadoutConfig(), replies={n: a[1] for n, a in arms.items()})
        for arms in (steady, brief)
    ]
    love = found[0].metrics.filter(pl.col("metric") == "love_rate")
    assert love["segment"].to_list() == ["all", "chat", "coding"]
    assert found[0].days["day"].to_list() == [0, 1, 2, 3, 4]
    notes = [dict(r.checks.select("check", "verdict").iter_rows()) for r in found]
    assert notes[0]["novelty"] == "ok"
    # It wears off to below nothing in the later days: what the whole test shows is not what users would get.
    assert notes[1]["novelty"] == "fail"
    assert any("in the later half of the days it is -" in note for note in found[1].checks["note"])
    assert "clustered by user and by reply" in " ".join(found[0].checks["note"])


def test_replies_that_do_not_add_up_are_refused() -> None:
    users, shown = _as_arm("a", np.random.default_rng(4))
    with pytest.raises(DataError, match="1 users whose rows are not as many"):
        reply_log("a", shown.filter(pl.int_range(pl.len()) > 0), users)
    with pytest.raises(DataError, match="rows of unexposed users"):
        reply_log("a", shown, users.filter(pl.int_range(pl.len()) > 0))
    with pytest.raises(DataError, match="reply_id"):
        reply_log("a", shown.drop("reply_id"), users)


def test_the_page_draws_use_cases_days_and_power() -> None:
    from rluf_assets.charts import colours
    from rluf_assets.evaluation.ab_plots import readout_plots

    rng = np.random.default_rng(5)
    arms = {name: arm_of(name, rng, users=2000) for name in ("baseline", "b")}
    found = read_out({n: a[0] for n, a in arms.items()}, ReadoutConfig(), replies={n: a[1] for n, a in arms.items()})
    plots = {plot.name: plot for plot in readout_plots(found, colours(["b"]), "untouched")}
    assert set(plots) == {"ab-test", "ab-use-cases", "ab-days", "power"}
    assert [row[1] for row in plots["ab-days"].rows] == [f"day {d}" for d in range(5)]
    assert {row[1] for row in plots["ab-use-cases"].rows} == {"chat", "coding"}
    power = [float(row[1].rstrip("%")) for row in plots["power"].rows]
    assert power == sorted(power)
    assert readout_plots(found, colours(["b"]), "b") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"love": pl.lit(float("nan"))}, r"counts in \['love'\]"),
        ({"love": pl.lit("x")}, "expected numbers"),
        ({"reply_id": pl.lit(None, pl.String)}, "without user_id or reply_id"),
        ({"day": pl.lit(None, pl.Int64)}, "rows without a day"),
        ({"day": pl.lit("monday")}, "expected dates"),
    ],
)
def test_exposed_replies_that_cannot_be_read_are_refused(change: dict[str, pl.Expr], message: str) -> None:
    """Else their clustered variance would be none, and that of independent users would stand for it."""
    shown = {n: arm_of(n, np.random.default_rng(k), users=60) for k, n in enumerate(("baseline", "b"))}
    logs = {n: log for n, (_, log) in shown.items()}
    with pytest.raises(DataError, match=message):
        read_out(
            {n: users for n, (users, _) in shown.items()}, ReadoutConfig(),
            replies={**logs, "b": logs["b"].with_columns(**change)},
        )  # fmt: skip


def test_days_may_be_dates() -> None:
    shown = {n: arm_of(n, np.random.default_rng(k), users=60) for k, n in enumerate(("baseline", "b"))}
    users = {n: exposed for n, (exposed, _) in shown.items()}
    # Everybody was shown something on the first day, so that days since then are the same.
    logs = {
        n: log.with_columns(day=pl.col("day") - pl.col("day").min().over("user_id")) for n, (_, log) in shown.items()
    }
    dated = {n: f.with_columns(day=pl.lit(date(2026, 1, 1)) + pl.duration(days="day")) for n, f in logs.items()}
    one, other = (read_out(users, ReadoutConfig(), replies=given) for given in (logs, dated))
    assert one.days.equals(other.days) and one.days.height
