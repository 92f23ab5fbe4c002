"""The decision table: every cell, and that worse or missing evidence never raises a verdict."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rluf_assets.evaluation.decision import ORDER, RANK, TABLE, Gate, Kind, Result, Verdict, absent, rule

NAMES = {
    "trust": Kind.PREDICTION, "offline_love": Kind.PREDICTION, "helpfulness": Kind.HARM, "safety": Kind.HARM,
    "hacking_audit": Kind.HARM, "ab_plan": Kind.LIVE, "ab_test_sound": Kind.LIVE, "ab_goal": Kind.LIVE,
    "guardrail_next_day_return": Kind.LIVE,
}  # fmt: skip
RESULTS = st.fixed_dictionaries({name: st.sampled_from(Result) for name in NAMES})


def gate(name: str, result: Result) -> Gate:
    return Gate(name, name, NAMES.get(name, Kind.LIVE), result, f"{name} {result}.", f"{name} {result}")


def verdict(results: dict[str, Result], *, exposed: bool, excused: tuple[str, ...] = ()) -> Verdict:
    gates = [gate(name, result) for name, result in results.items()]
    return rule(gates, exposed=exposed, required=NAMES, excused=excused).verdict


def rank(found: Verdict) -> int:
    return ORDER.index(found)


ALL_PASS = dict.fromkeys(NAMES, Result.PASS)


def test_the_table_is_whole_and_falls_with_the_result() -> None:
    assert set(TABLE) == set(itertools.product((False, True), Kind))
    for cells in TABLE.values():
        assert set(cells) == set(Result)
        assert [rank(cells[r]) for r in RANK] == sorted(rank(cells[r]) for r in RANK)


@pytest.mark.parametrize(
    ("changed", "exposed", "expected"),
    [
        ({}, False, Verdict.NEEDS_AB),
        ({"trust": Result.NOT_MEASURED}, False, Verdict.NEEDS_AB),
        ({"hacking_audit": Result.NOT_MEASURED}, False, Verdict.NEEDS_AB),
        ({"safety": Result.NOT_SHOWN}, False, Verdict.NEEDS_AB),
        ({"safety": Result.FAIL}, False, Verdict.HOLD),
        ({"offline_love": Result.FAIL}, False, Verdict.HOLD),
        ({"offline_love": Result.FAIL, "trust": Result.NOT_SHOWN}, False, Verdict.HOLD),
        ({}, True, Verdict.PROMOTE),
        ({"trust": Result.NOT_MEASURED, "offline_love": Result.FAIL}, True, Verdict.PROMOTE),
        ({"safety": Result.NOT_SHOWN}, True, Verdict.HOLD),
        ({"hacking_audit": Result.NOT_MEASURED}, True, Verdict.HOLD),
        ({"ab_goal": Result.NOT_SHOWN}, True, Verdict.HOLD),
        ({"guardrail_next_day_return": Result.NOT_SHOWN}, True, Verdict.HOLD),
        ({"guardrail_next_day_return": Result.NOT_MEASURED}, True, Verdict.HOLD),
        ({"ab_plan": Result.FAIL}, True, Verdict.HOLD),
        ({"ab_test_sound": Result.NOT_MEASURED}, True, Verdict.HOLD),
    ],
)
def test_how_gates_make_a_verdict(changed: dict[str, Result], exposed: bool, expected: Verdict) -> None:
    found = rule([gate(n, r) for n, r in {**ALL_PASS, **changed}.items()], exposed=exposed, required=NAMES)
    assert found.verdict is expected
    if expected is Verdict.HOLD:
        assert {g.name for g in found.because} <= set(changed)
        assert found.because[0].result is min(changed.values(), key=RANK.index)


@settings(max_examples=50, deadline=None)
@given(RESULTS, st.sampled_from(sorted(NAMES)), st.sampled_from(Result), st.booleans())
def test_a_worse_result_never_raises_the_verdict(
    results: dict[str, Result], name: str, other: Result, exposed: bool
) -> None:
    changed = {**results, name: other}
    pair = (verdict(results, exposed=exposed), verdict(changed, exposed=exposed))
    if RANK.index(other) <= RANK.index(results[name]):
        assert rank(pair[1]) <= rank(pair[0])
    else:
        assert rank(pair[1]) >= rank(pair[0])


@settings(max_examples=50, deadline=None)
@given(RESULTS, st.sets(st.sampled_from(sorted(NAMES))), st.booleans())
def test_missing_gates_count_as_not_measured(results: dict[str, Result], gone: set[str], exposed: bool) -> None:
    left = {n: r for n, r in results.items() if n not in gone}
    whole = {n: Result.NOT_MEASURED if n in gone and r is not Result.FAIL else r for n, r in results.items()}
    assert rank(verdict(left, exposed=True)) <= rank(verdict(results, exposed=True))
    if all(results[n] is not Result.FAIL for n in gone):
        assert verdict(left, exposed=exposed) is verdict(whole, exposed=exposed)
        assert rank(verdict(left, exposed=exposed)) <= rank(verdict(results, exposed=exposed))


@settings(max_examples=50, deadline=None)
@given(RESULTS)
def test_nothing_promotes_before_users_met_it_nor_on_no_evidence(results: dict[str, Result]) -> None:
    assert verdict(results, exposed=False) is not Verdict.PROMOTE
    assert rule([], exposed=True).verdict is Verdict.HOLD
    assert rule([], exposed=False).verdict is Verdict.NEEDS_AB
    only_offline = {n: r for n, r in results.items() if NAMES[n] is not Kind.LIVE}
    assert verdict(only_offline, exposed=True) is Verdict.HOLD


@settings(max_examples=50, deadline=None)
@given(RESULTS, st.sampled_from(sorted(NAMES)))
def test_an_excuse_is_from_being_measured_and_from_nothing_else(results: dict[str, Result], name: str) -> None:
    plain, excused = (verdict(results, exposed=True, excused=e) for e in ((), (name,)))
    if results[name] is Result.NOT_MEASURED:
        assert rank(excused) >= rank(plain)
    else:
        assert excused is plain


def test_every_gate_that_is_asked_for_and_absent_is_told() -> None:
    found = rule([], exposed=True, required=["guardrail_x"])
    assert [g.name for g in found.because] == ["guardrail_x"]
    assert absent("guardrail_x").as_dict()["result"] == "not measured"
