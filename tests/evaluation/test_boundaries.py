"""Group-sequential boundaries against published tables, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from rluf_assets.errors import ConfigError
from rluf_assets.evaluation.boundaries import critical_values, spent


@pytest.mark.parametrize(
    ("looks", "spending", "published"),
    [
        # Lan-DeMets O'Brien-Fleming-type, two-sided 5% (gsDesign's sfLDOF at a one-sided 2.5%).
        (2, "obrien_fleming", (2.963, 1.969)),
        (3, "obrien_fleming", (3.710, 2.511, 1.993)),
        (4, "obrien_fleming", (4.333, 2.963, 2.359, 2.014)),
        (5, "obrien_fleming", (4.877, 3.357, 2.680, 2.290, 2.031)),
        (5, "pocock", (2.438, 2.427, 2.410, 2.397, 2.386)),
    ],
)
def test_published_boundaries(looks: int, spending: str, published: tuple[float, ...]) -> None:
    times = tuple((k + 1) / looks for k in range(looks))
    assert critical_values(times, spending=spending) == pytest.approx(published, abs=0.001)  # type: ignore[arg-type]


def test_one_look_is_the_fixed_test_and_unequal_looks_keep_the_level() -> None:
    assert critical_values((1.0,)) == pytest.approx((1.959964,), abs=1e-5)
    assert (spent(0.0, 0.025, "pocock"), spent(1.0, 0.025, "pocock")) == pytest.approx((0.0, 0.025))
    assert spent(2.0, 0.025, "obrien_fleming") == pytest.approx(0.025)
    times = (0.15, 0.3, 0.35, 0.8, 1.0)
    bounds = np.array(critical_values(times))
    steps = np.sqrt(np.diff((0.0, *times)))
    score = np.cumsum(np.random.default_rng(0).standard_normal((200_000, 5)) * steps, axis=1) / np.sqrt(times)
    assert (score >= bounds).any(axis=1).mean() == pytest.approx(0.025, abs=0.0015)


@pytest.mark.parametrize("looks", [(), (0.5, 0.5), (0.0, 1.0), (0.5, 1.1), (0.8, 0.4)], ids=str)
def test_impossible_looks(looks: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected fractions that rise"):
        critical_values(looks)
