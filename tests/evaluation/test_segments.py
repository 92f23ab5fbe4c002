"""For whom is it worse: a harmed minority is found and told, groups without evidence hold nobody."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.evaluation.clustering import reply_log
from rluf_assets.evaluation.config import BoundPlan, ReadoutConfig, ReleaseConfig
from rluf_assets.evaluation.decision import RANK, Result, Verdict, rule
from rluf_assets.evaluation.exposures import Arm, per_user
from rluf_assets.evaluation.gates import live_gates
from rluf_assets.evaluation.plan import AbPlan
from rluf_assets.evaluation.readout import Readout, read_out
from rluf_assets.evaluation.segment_gate import for_whom, segment_gate
from rluf_assets.evaluation.segments import SEGMENT_SCHEMA, Worsening, groups_of_users, partially_pooled
from tests.evaluation.world import exposures_of, minority_of, plan_of

USERS = 6000


def planned(*segments: str, **more: object) -> AbPlan:
    update = {
        "segments": segments,
        "guardrails": {k: m for k, m in plan_of(USERS).guardrails.items() if "harm" not in k},
    }
    return plan_of(USERS).model_copy(update={**update, **more})


def read(arm: pl.DataFrame, plan: AbPlan, base: pl.DataFrame | None = None) -> tuple[Readout, ReleaseConfig]:
    arms = {"baseline": minority_of("baseline", USERS, seed=1) if base is None else base, "b": arm}
    return read_out(arms, ReadoutConfig(plan=plan)), ReleaseConfig(plan=plan, bound={"b": BoundPlan(plan=plan.hash)})


@pytest.fixture(scope="module")
def harmed() -> pl.DataFrame:
    return minority_of("b", USERS, seed=3, harm=2.0, love_lift=0.4)


def test_a_harmed_minority_holds_a_candidate_that_is_better_for_all_together(harmed: pl.DataFrame) -> None:
    readout, config = read(harmed, planned("locale", "new_user"))
    gates = live_gates("b", readout, config)
    found = rule(gates, exposed=True)
    assert (found.verdict, [g.name for g in found.because]) == (Verdict.HOLD, ["segments"])
    assert found.because[0].result is Result.FAIL and found.because[0].brief == "worse for locale fi"
    told = for_whom("b", readout, config)
    assert told.startswith("Worse for locale fi (early ending rate +") and told.endswith("of 240 users).")
    assert "more" not in told and "not judge" not in told
    shown, free = read(harmed, planned())
    assert rule(live_gates("b", shown, free), exposed=True).verdict is Verdict.PROMOTE
    assert for_whom("b", shown, free).endswith("which the plan does not judge.")


def test_groups_without_evidence_hold_nobody() -> None:
    readout, config = read(minority_of("b", USERS, seed=3, love_lift=0.4), planned("locale", "new_user"))
    assert rule(live_gates("b", readout, config), exposed=True).verdict is Verdict.PROMOTE
    assert for_whom("b", readout, config) == (
        "No group of users is shown to be worse off (5 groups by locale, new and established users)."
    )
    small = [minority_of(n, 4000, seed=k) for k, n in enumerate(("baseline", "b"))]
    detail = segment_gate("b", *read(small[1], planned("locale"), small[0])).detail
    assert "None of 2 groups" in detail and "1 more had too few users to be read" in detail
    lacking = minority_of("baseline", USERS, seed=1).filter(pl.col("locale") != "fi")  # and a group of one arm alone
    assert (
        "1 more had too few"
        in segment_gate("b", *read(minority_of("b", USERS, seed=3), planned("locale"), lacking)).detail
    )


@pytest.mark.parametrize("given_away", [True, False])
def test_a_trait_that_the_plan_names_and_the_exposures_do_not_hold_is_not_measured(given_away: bool) -> None:
    plan = planned("locale", "country", excused=("country",) if given_away else ())
    found = segment_gate("b", *read(minority_of("b", USERS, seed=3), plan))
    assert found.result is (Result.PASS if given_away else Result.NOT_MEASURED)
    assert given_away or "country" in found.detail
    blank = [minority_of(n, 400, seed=k).with_columns(country=pl.lit(None)) for k, n in ((1, "baseline"), (2, "b"))]
    assert segment_gate("b", *read(blank[1], plan, blank[0])).result is found.result, (
        "a column without a value says nothing"
    )
    nothing = segment_gate("b", None, ReleaseConfig(plan=plan))
    assert nothing.result is Result.NOT_MEASURED


def test_users_of_whom_no_trait_is_told_are_a_group_too(harmed: pl.DataFrame) -> None:
    arms = [minority_of("baseline", USERS, seed=1), harmed]
    untold = [a.with_columns(locale=pl.when(pl.col("locale") != "fi").then("locale")) for a in arms]
    found = segment_gate("b", *read(untold[1], planned("locale"), untold[0]))
    assert found.result is Result.FAIL and "locale unknown" in found.detail


def test_what_stops_altogether_in_a_group_is_not_shown_to_be_within_a_margin() -> None:
    arms = [minority_of(n, USERS, seed=k, share=0.2, love_rate=0.05) for k, n in ((1, "baseline"), (2, "b"))]
    silent = arms[1].with_columns(love=pl.when(pl.col("locale") == "fi").then(0).otherwise("love"))
    readout, config = read(silent, planned("locale"), arms[0])
    row = readout.segments.filter(pl.col("worse")).row(0, named=True)
    assert (row["group"], row["metric"], row["lift"], row["result"]) == ("fi", "love_rate", None, "not shown")
    assert segment_gate("b", readout, config).result is Result.NOT_SHOWN
    assert readout.segments.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True) == 0


def test_users_are_in_one_group_of_a_trait_and_keep_what_they_were_shown() -> None:
    frame = exposures_of("a", 300, seed=1)
    both = pl.concat([frame.with_columns(locale=pl.lit("en")), frame.head(5).with_columns(locale=pl.lit("de"))])
    users = per_user("a", both)
    shown = users.select("user_id", reply_id=pl.int_ranges(pl.col("replies").cast(pl.Int64))).explode("reply_id")
    arm = Arm(users, reply_log("a", shown, users))
    groups = list(groups_of_users("a", {"a": both}, arm, arm, ReadoutConfig(baseline="a")))
    assert [(t, g) for t, g, *_ in groups] == [("new_user", "established"), ("new_user", "new"), ("locale", "en")]
    assert sum(len(ours.users) for t, _, ours, _ in groups if t == "new_user") == 300
    members = groups[-1][2]
    assert len(members.users) == 295, "users of two locales are in neither"
    assert members.log is not None and len(members.log.frame) == members.users["replies"].sum()


effects = st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 0.5)), min_size=2, max_size=8)


@settings(max_examples=40, deadline=None)
@given(effects)
def test_pooling_draws_every_group_towards_the_others_and_never_beyond(drawn: list[tuple[float, float]]) -> None:
    known = [Worsening(value, error, 0.1) for value, error in drawn]
    pooled, own = partially_pooled(known), [w.value for w in known]
    assert all(min(own) - 1e-9 <= p.value <= max(own) + 1e-9 and p.margin == 0.1 for p in pooled)
    assert all(p.error <= w.error + 1e-9 for p, w in zip(pooled, known, strict=True))
    alike = partially_pooled([Worsening(0.2, w.error, 0.1) for w in known])
    assert all(p.value == pytest.approx(0.2) and p.error < min(w.error for w in known) for p in alike)


table = st.lists(
    st.tuples(st.sampled_from(["locale", "use_case"]), st.sampled_from(Result), st.booleans()), min_size=1, max_size=6
)


def gate_of(cells: list[tuple[str, Result, bool]]) -> Result:
    rows = [
        {"candidate": "b", "trait": trait, "group": f"g{k}", "metric": "love_rate", "judged": True, "z": 1.0, "worse": worse,
         "n_control": 100, "n_treatment": 100, "share_difference": 0.1, "result": str(result)}
        for k, (trait, result, worse) in enumerate(cells)
    ]  # fmt: skip
    segments = pl.DataFrame([{c: r.get(c) for c in SEGMENT_SCHEMA} for r in rows], schema=SEGMENT_SCHEMA)
    readout = Readout(pl.DataFrame(), pl.DataFrame(), segments=segments)
    return segment_gate("b", readout, ReleaseConfig(plan=planned("locale", "use_case"))).result


@settings(max_examples=50, deadline=None)
@given(table, st.integers(0, 5), st.sampled_from(Result))
def test_a_group_that_does_worse_and_a_trait_that_goes_missing_never_raise_the_gate(
    cells: list[tuple[str, Result, bool]], which: int, other: Result
) -> None:
    cells = [(trait, result, worse or result in (Result.FAIL, Result.NOT_SHOWN)) for trait, result, worse in cells]
    before, k = gate_of(cells), which % len(cells)
    trait, result, _ = cells[k]
    if RANK.index(other) <= RANK.index(result) and other is not Result.NOT_MEASURED:
        after = gate_of([*cells[:k], (trait, other, other is not Result.PASS), *cells[k + 1 :]])
        assert RANK.index(after) <= RANK.index(before)
    left = [c for c in cells if c[0] != trait]
    assert not left or gate_of(left) in (Result.FAIL, Result.NOT_MEASURED)


def test_a_plan_that_names_no_segments_has_the_hash_it_had() -> None:
    assert AbPlan().hash == "5a48cf3b95148fb6"
    assert AbPlan(segments=("locale",)).hash != AbPlan().hash
