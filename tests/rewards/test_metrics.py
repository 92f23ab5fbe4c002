"""Every figure against a library's, every interval against repeated sampling or theory."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from scipy.stats import poisson
from sklearn.metrics import average_precision_score, roc_auc_score

from rluf_assets.rewards import metrics
from rluf_assets.rewards.metrics import Clusters, RankStatistics


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    z = rng.normal(-2, 1.2, 3000).round(1)  # rounding makes ties
    labels = (rng.random(3000) < expit(z)).astype(float)
    return z, labels, rng.integers(1, 5, 3000).astype(float), rng.integers(0, 400, 3000)


def test_rank_statistics_equal_scikit_learn_with_weights_and_ties(sample):
    z, labels, weights, _ = sample
    ranks = RankStatistics(z, labels)
    assert ranks.auroc(weights[None])[0] == pytest.approx(roc_auc_score(labels, z, sample_weight=weights))
    expected = average_precision_score(labels, z, sample_weight=weights)
    assert ranks.average_precision(weights[None])[0] == pytest.approx(expected)


def test_matrix_of_weights_gives_each_rows_own_answer(sample):
    z, labels, weights, _ = sample
    both = RankStatistics(z, labels).auroc(np.stack([weights, np.ones_like(weights)]))
    assert both == pytest.approx([roc_auc_score(labels, z, sample_weight=weights), roc_auc_score(labels, z)])


def test_slope_and_its_interval_equal_statsmodels_clustered(sample):
    z, labels, weights, users = sample
    p = expit(0.7 * z + 0.4)
    (slope, slope_ci), (intercept, intercept_ci) = metrics.calibration_slope(labels, p, weights, users)
    model = sm.GLM(labels, sm.add_constant(logit(p)), family=sm.families.Binomial(), freq_weights=weights)
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": users, "use_correction": False})
    assert [intercept, slope] == pytest.approx(fitted.params, abs=1e-6)
    np.testing.assert_allclose([intercept_ci, slope_ci], fitted.conf_int(), atol=2e-3)


def test_poisson_interval_is_exact():
    low, high = metrics.poisson_interval(7)
    assert poisson.sf(6, low) == pytest.approx(0.025)
    assert poisson.cdf(7, high) == pytest.approx(0.025)
    assert metrics.poisson_interval(0)[0] == 0


def test_clustered_interval_is_wider_than_a_row_wise_one_when_users_repeat_themselves():
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(60), 20)
    values = rng.normal(0, 1, 60)[users] + rng.normal(0, 0.1, 1200)
    ones = np.ones(1200)
    by_user = Clusters.of(users, ones).estimate(metrics.weighted_mean(values))[1]
    by_row = Clusters.of(np.arange(1200), ones).estimate(metrics.weighted_mean(values))[1]
    assert by_user[1] - by_user[0] > 3 * (by_row[1] - by_row[0])


@pytest.mark.slow
def test_auroc_interval_covers_the_truth_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    big = rng.normal(0, 1, 400_000)
    truth = roc_auc_score(rng.random(len(big)) < expit(big - 1), big)
    hits = 0
    for _ in range(200):
        z = rng.normal(0, 1, 400)
        labels = rng.random(400) < expit(z - 1)
        _, (low, high) = Clusters.of(np.arange(400), np.ones(400)).estimate(RankStatistics(z, labels).auroc)
        hits += low <= truth <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_subsampling_negatives_with_weights_leaves_the_figures_alone():
    rng = np.random.default_rng(3)
    z = rng.normal(-4, 1, 200_000)
    labels = (rng.random(len(z)) < expit(z)).astype(float)
    kept = (labels == 1) | (rng.random(len(z)) < 0.05)
    weights = np.where(labels == 1, 1.0, 20.0)[kept]
    whole = metrics.observed_over_expected(labels, expit(z), np.ones(len(z)))[0]
    part = metrics.observed_over_expected(labels[kept], expit(z[kept]), weights)[0]
    # 9,500 of 190,000 negatives: the sampled sum of predictions has a standard error of about 1.5%
    assert part == pytest.approx(whole, rel=0.05)
    area = RankStatistics(z[kept], labels[kept]).auroc(weights[None])[0]
    assert area == pytest.approx(roc_auc_score(labels, z), abs=0.005)


def test_constant_side_has_no_correlation_and_perfect_line_has_one():
    ones = np.ones((1, 50))
    line = np.arange(50.0)
    assert np.isnan(metrics.correlation(line, np.zeros(50))(ones)[0])
    assert metrics.correlation(line, 3 * line + 1)(ones)[0] == pytest.approx(1)


def test_bins_hold_equal_mass_and_keep_ties_together():
    p = np.sort(np.random.default_rng(4).random(1000))
    counts = np.bincount(metrics.equal_mass_bins(p, np.ones(1000), 10))
    assert counts.tolist() == [100] * 10
    assert len(set(metrics.equal_mass_bins(np.full(10, 0.3), np.ones(10), 5))) == 1
