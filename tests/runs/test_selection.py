"""Which assets a run is about, and what is said of one that is not there."""

from __future__ import annotations

import dagster as dg
import pytest

from rluf_assets.errors import ConfigError
from rluf_assets.materialise import Unit
from rluf_assets.runs.selection import only, selected, up_to

DEFS = dg.Definitions(
    assets=[
        dg.asset(name=name, deps=deps, group_name=group)(lambda: None)
        for name, deps, group in [
            ("raw_messages", [], "logs"),
            ("signal_set", ["raw_messages"], "signals"),
            ("p_love", ["signal_set"], "models"),
            ("report", ["p_love"], "models"),
        ]
    ]
)


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("signal_set", {"signal_set"}),
        ("raw_messages, p_love", {"raw_messages", "p_love"}),
        ("+signal_set", {"raw_messages", "signal_set"}),
        ("p_love+", {"p_love", "report"}),
        ("1+p_love", {"signal_set", "p_love"}),
        ("group:models and not report", {"p_love"}),
        ('key:"p_*"', {"p_love"}),
    ],
)
def test_names_and_dagsters_own_syntax(select: str, expected: set[str]) -> None:
    assert selected(DEFS, select) == expected


def test_until_is_an_asset_with_all_that_it_is_made_from() -> None:
    assert selected(DEFS, up_to("p_love")) == {"raw_messages", "signal_set", "p_love"}
    assert selected(DEFS, up_to("signal_set, report")) == {"raw_messages", "signal_set", "p_love", "report"}


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("signl_set", "asset 'signl_set': unknown; did you mean 'signal_set'?"),
        ("+p_lov", "did you mean 'p_love'?"),
        ("zzz", "there are: p_love, raw_messages, report, signal_set"),
        ("p_love and", "not understood"),
        ("group:nobody", "no asset of this home is in it"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(select: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        selected(DEFS, select)
    assert message in str(caught.value)


def test_units_keep_the_assets_that_were_chosen() -> None:
    units = [Unit(("raw_messages", "signal_set"), day_range=("a", "b")), Unit(("p_love",))]
    assert only(units, {"signal_set"}) == [Unit(("signal_set",), day_range=("a", "b"))]
