"""The shared statistics against SciPy, statsmodels, known figures and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from rluf_assets.errors import DataError
from rluf_assets.evaluation.stats import (
    benjamini_hochberg,
    bootstrap,
    difference_p_value,
    fieller,
    minimum_detectable_effect,
    paired_p_value,
    pearson,
    ratio_of_sums,
    resampled_totals,
    sequential_factor,
    welch,
)


def mean(totals: np.ndarray) -> np.ndarray:
    return np.asarray(totals[..., 0] / totals[..., 1])[..., None]


def test_bootstrap_agrees_with_scipy_and_is_deterministic() -> None:
    values = np.random.default_rng(0).gamma(2.0, 1.0, 200)
    table = np.column_stack([values, np.ones(200)])
    ours = bootstrap(table, mean, resamples=4000, seed=1, confidence=0.95)[0]
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)
    assert ours == bootstrap(table, mean, resamples=4000, seed=1, confidence=0.95)[0]


def test_clusters_widen_the_interval_by_the_design_effect() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(size=300)
    members = level[:, None] + 0.3 * rng.normal(size=(300, 5))
    clustered = np.column_stack([members.sum(axis=1), np.full(300, 5.0)])
    naive = np.column_stack([members.ravel(), np.ones(1500)])
    wide, narrow = (bootstrap(t, mean, resamples=2000, seed=0, confidence=0.95)[0] for t in (clustered, naive))
    correlation = 1 / (1 + 0.3**2)
    effect = np.sqrt(1 + 4 * correlation)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(effect, rel=0.1)


def test_chunked_resampling_counts_every_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rluf_assets.evaluation.stats.BOOTSTRAP_CELLS", 70)
    totals = resampled_totals(np.ones((30, 1)), resamples=11, seed=0)
    assert (totals == 30).all()


@pytest.mark.parametrize("table", [np.empty((0, 2)), np.array([[1.0, np.nan]])])
def test_bootstrap_refuses_nothing_and_nan(table: np.ndarray) -> None:
    with pytest.raises(DataError, match="bootstrap: found"):
        bootstrap(table, mean, resamples=100, seed=0, confidence=0.95)


def test_undefined_ratio_is_none_not_nan() -> None:
    estimate = bootstrap(np.zeros((5, 2)), mean, resamples=100, seed=0, confidence=0.95)[0]
    assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
    assert str(estimate) == "undefined"
    assert ratio_of_sums(np.ones(3), np.zeros(3)) is None


def test_delta_method_agrees_with_cluster_bootstrap() -> None:
    rng = np.random.default_rng(3)
    replies = 1 + rng.poisson(rng.gamma(1.0, 4.0, 3000))
    loves = rng.binomial(replies, np.minimum(rng.gamma(0.5, 0.04, 3000), 1.0))
    ratio = ratio_of_sums(loves.astype(float), replies.astype(float))
    assert ratio is not None
    estimate = bootstrap(np.column_stack([loves, replies]), mean, resamples=3000, seed=0, confidence=0.95)[0]
    assert estimate.low is not None
    assert estimate.high is not None
    assert 2 * 1.96 * np.sqrt(ratio.variance) == pytest.approx(estimate.high - estimate.low, rel=0.06)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.001, 10), st.floats(0.001, 10), st.floats(1e-6, 0.5), st.floats(1e-6, 0.5), st.floats(-0.9, 0.9)
)  # fmt: skip
def test_fieller_excludes_zero_exactly_when_the_difference_is_significant(
    treatment: float, control: float, sd_t: float, sd_c: float, r: float
) -> None:
    cov = r * sd_t * sd_c
    lift = fieller(treatment, control, sd_t**2, sd_c**2, cov, confidence=0.95)
    p = difference_p_value(treatment - control, sd_t**2 + sd_c**2 - 2 * cov)
    if lift.low is None or lift.high is None:
        assert control < 2 * sd_c  # unbounded only where the control itself may be zero
    elif abs(p - 0.05) > 1e-6:
        assert (lift.low > 0 or lift.high < 0) == (p < 0.05)


def test_small_arms_are_judged_by_welchs_t() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(1.2, 1.0, 12), rng.normal(1.0, 2.0, 25)
    ratios = [ratio_of_sums(x, np.ones(len(x))) for x in (ours, theirs)]
    assert ratios[0] is not None and ratios[1] is not None
    variances, dfs = [r.variance for r in ratios], [r.degrees_of_freedom for r in ratios]  # type: ignore[union-attr]
    df = welch(variances[0], variances[1], dfs[0], dfs[1])
    expected = scipy_stats.ttest_ind(ours, theirs, equal_var=False)
    assert df == pytest.approx(expected.df)
    difference = ratios[0].value - ratios[1].value
    assert difference_p_value(difference, sum(variances), df) == pytest.approx(expected.pvalue)
    narrow, wide = (fieller(2.0, 10.0, 1.0, 0.0, confidence=0.95, df=n) for n in (np.inf, 5))
    assert wide.high - wide.low == pytest.approx((narrow.high - narrow.low) * 2.570582 / 1.959964)  # type: ignore[operator]
    assert welch(0.0, 0.0, 3, 3) == welch(np.inf, 1.0, 0, 3) == np.inf


def test_fieller_of_equal_paired_arms_is_exactly_zero() -> None:
    lift = fieller(0.02, 0.02, 1e-6, 1e-6, 1e-6, confidence=0.95)
    assert (lift.low, lift.high) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert fieller(0.1, 0.0, 1e-6, 1e-6, confidence=0.95).value is None


def test_fisher_interval_of_the_paper() -> None:
    """RLUF reports r = 0.95 over ten policies: 0.80 to 0.99."""
    x = np.linspace(-1, 1, 10)
    noise = np.random.default_rng(0).normal(size=10)
    noise -= noise.mean() + x * (noise @ x) / (x @ x)
    y = 0.95 * x / np.linalg.norm(x) + np.sqrt(1 - 0.95**2) * noise / np.linalg.norm(noise)
    r = pearson(x.tolist(), y.tolist(), confidence=0.95)
    assert r.value == pytest.approx(0.95)
    assert r.low == pytest.approx(0.80, abs=0.005)
    assert r.high == pytest.approx(0.99, abs=0.005)
    assert pearson([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], confidence=0.95).value is None
    assert pearson([1.0] * 5, list(range(5)), confidence=0.95).value is None


def test_benjamini_hochberg_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(0).random(40) ** 2
    assert benjamini_hochberg(p_values.tolist()) == pytest.approx(multipletests(p_values, method="fdr_bh")[1])
    assert benjamini_hochberg([]) == []


def test_paired_p_value_is_one_without_differences() -> None:
    assert paired_p_value(np.zeros(10)) == 1.0
    assert paired_p_value(np.array([1.0])) == 1.0
    assert paired_p_value(np.array([1.0, 1.1, 0.9, 1.2])) < 0.01


def test_minimum_detectable_effect_has_its_power() -> None:
    mde = minimum_detectable_effect(0.1, confidence=0.95, power=0.8)
    draws = np.random.default_rng(0).normal(mde, 0.1, 20_000)
    assert (np.abs(draws) > 1.96 * 0.1).mean() == pytest.approx(0.8, abs=0.01)


def test_sequential_interval_holds_under_daily_peeking_and_the_fixed_one_does_not() -> None:
    rng = np.random.default_rng(0)
    runs, days, per_day = 1500, 28, 50
    values = rng.normal(size=(runs, days, per_day)).sum(axis=2).cumsum(axis=1)
    seen = per_day * np.arange(1, days + 1)
    z = np.abs(values / np.sqrt(seen))
    factors = np.array([sequential_factor(int(n), planned=int(seen[-1]), confidence=0.95) for n in seen])
    ever = (z > factors).any(axis=1).mean()
    assert ever <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert (z > 1.96).any(axis=1).mean() > 0.2
    assert factors[-1] < 3.1  # the price of looking every day, at the planned end
