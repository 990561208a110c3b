"""Intervals and tests against closed forms, enumeration, and scipy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from study.analysis import stats

INF = math.inf
values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12)


# the interval of a median


@pytest.mark.parametrize(
    ("count", "k", "coverage"),
    [
        (1, 1, 0.0),
        (2, 1, 1 / 2),
        (3, 1, 3 / 4),
        (5, 1, 15 / 16),
        (6, 1, 31 / 32),  # 96.9 %
        (8, 1, 1 - 2 / 256),
        (9, 2, 1 - 2 * (1 + 9) / 512),
        (10, 2, 1 - 2 * (1 + 10) / 1024),
        (20, 6, 1 - 2 * sum(math.comb(20, i) for i in range(6)) / 2**20),
    ],
)
def test_median_interval_is_the_tabulated_one(count, k, coverage):
    interval = stats.median_interval(np.arange(1.0, count + 1)[::-1])
    assert interval == pytest.approx((k, count + 1 - k, coverage))


@pytest.mark.parametrize("count", range(6, 40))
def test_median_interval_is_scipy_s_quantile_test_s(count):
    sample = np.random.default_rng(count).standard_normal(count)
    ours = stats.median_interval(sample)
    theirs = scipy.stats.quantile_test(sample, q=0, p=0.5).confidence_interval(confidence_level=0.95)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_the_coverage_of_a_median_interval_is_what_samples_show():
    rng = np.random.default_rng(0)
    drawn = rng.exponential(size=(20_000, 6))  # median ln 2
    covered = ((drawn.min(axis=1) <= math.log(2)) & (math.log(2) <= drawn.max(axis=1))).mean()
    assert stats.median_interval(drawn[0]).coverage == pytest.approx(covered, abs=0.005)


def test_censored_values_stand_above_all_others():
    assert stats.median_interval([3, INF, 1, 2, 5, 4])[:2] == (1, INF)
    assert stats.median_interval([INF] * 6)[:2] == (INF, INF)
    assert math.isnan(stats.median_interval([]).low)
    with pytest.raises(ValueError, match="must not be NaN"):
        stats.median_interval([1.0, math.nan])


# the interval of a mean


def test_mean_interval_of_three_values_by_enumeration():
    # Φ(−√1.5 · 4.303) = 7e-8 is below 1/27, so the ends are the smallest and largest resample.
    assert stats.mean_interval([5.0, 1.0, 3.0]) == (1.0, 5.0)


def test_mean_interval_by_enumeration_of_all_resamples():
    sample = [0.1, 0.7, 0.2, 1.9, 0.4, 0.3]
    means = np.sort([np.mean(drawn) for drawn in product(sample, repeat=6)])
    tail = scipy.stats.norm.cdf(-math.sqrt(6 / 5) * scipy.stats.t.ppf(0.975, 5))
    place = math.ceil(tail * 6**6) - 1
    assert stats.mean_interval(sample) == pytest.approx((means[place], means[-1 - place]))


@pytest.mark.parametrize("count", [6, 12])
def test_mean_interval_is_scipy_s_bootstrap_at_the_expanded_level(count):
    sample = np.random.default_rng(3).exponential(size=count)
    tail = scipy.stats.norm.cdf(-math.sqrt(count / (count - 1)) * scipy.stats.t.ppf(0.975, count - 1))
    theirs = scipy.stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=1 - 2 * tail,
        n_resamples=100_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert stats.mean_interval(sample) == pytest.approx(tuple(theirs), abs=0.03 * width)


def test_mean_interval_covers_the_mean_of_six_normal_values_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [low <= 0 <= high for low, high in map(stats.mean_interval, rng.normal(size=(1000, 6)))]
    assert 0.92 <= np.mean(covered) <= 0.97


@given(values, st.randoms(use_true_random=False))
def test_mean_interval_ignores_the_order_and_stays_within_the_values(sample, random):
    shuffled = random.sample(sample, len(sample))
    low, high = stats.mean_interval(sample)
    np.testing.assert_equal((low, high), stats.mean_interval(shuffled))
    if len(sample) > 1:
        assert min(sample) - 1e-9 <= low <= high <= max(sample) + 1e-9


def test_few_equal_or_wrong_values_of_a_mean():
    assert all(math.isnan(end) for end in stats.mean_interval([2.0]))
    assert stats.mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="must be finite"):
        stats.mean_interval([1.0, INF])


# ratios


def test_the_ratio_of_pairs_is_their_geometric_mean():
    ratio = stats.paired_log_ratio([1, 8, 4], [2, 2, 4])
    assert ratio.ratio == pytest.approx((0.5 * 4 * 1) ** (1 / 3))
    assert ratio.ratio == pytest.approx(scipy.stats.gmean([0.5, 4, 1]))
    assert (ratio.low, ratio.high) == pytest.approx((0.5, 4))


positive = st.floats(0.01, 100)


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=7))
def test_swapping_new_and_base_gives_the_reciprocal(pairs):
    new, base = zip(*pairs, strict=True)
    there, back = stats.paired_log_ratio(new, base), stats.paired_log_ratio(base, new)
    assert (1 / back.ratio, 1 / back.high, 1 / back.low) == pytest.approx(tuple(there))


def test_what_has_no_ratio():
    assert all(math.isnan(value) for value in stats.paired_log_ratio([], []))
    assert stats.paired_log_ratio([1], [2])[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"got shapes \(1,\) and \(2,\)"):
        stats.paired_log_ratio([1], [1, 2])
    for wrong in (0.0, -1.0, INF, math.nan):
        with pytest.raises(ValueError, match="positive, finite"):
            stats.paired_log_ratio([wrong], [1.0])


# tests


@given(st.integers(0, 30), st.integers(0, 30))
def test_sign_test_is_scipy_s_binomial_test(better, against):
    n = better + against
    theirs = scipy.stats.binomtest(better, n, 0.5, alternative="greater").pvalue if n else 1.0
    assert stats.sign_test(better, against) == pytest.approx(theirs)


def test_six_of_six_is_the_least_that_six_pairs_can_show():
    assert stats.sign_test(6, 0) == pytest.approx(1 / 64)
    assert stats.sign_test(5, 1) == pytest.approx(7 / 64)


def test_wilcoxon_by_enumeration_of_signs():
    differences = np.array([-1.0, 0.5, -2.0, -3.0, 0.0, -0.7])
    kept = differences[differences != 0]
    ranks = scipy.stats.rankdata(abs(kept))
    observed = ranks[kept > 0].sum()
    sums = [ranks @ signs for signs in product([0, 1], repeat=len(kept))]
    assert stats.wilcoxon(differences) == pytest.approx(np.mean(np.array(sums) <= observed))
    assert stats.wilcoxon([-1, -2, -3, -4, -5, -6]) == pytest.approx(1 / 64)
    assert stats.wilcoxon([0.0, 0.0]) == stats.wilcoxon([]) == 1.0


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([1 / 64] * 3).tolist() == pytest.approx([3 / 64] * 3)  # below 0.05
    assert stats.holm([0.5, 0.6, 0.9]).tolist() == pytest.approx([1, 1, 1])
    assert stats.holm([]).tolist() == []


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_as_its_step_down_definition_does(pvalues, level):
    tested = sorted(p for p in pvalues if not math.isnan(p))
    rejected = 0
    while rejected < len(tested) and tested[rejected] * (len(tested) - rejected) <= level:
        rejected += 1
    adjusted = stats.holm(pvalues)
    assert np.isnan(adjusted).tolist() == [math.isnan(p) for p in pvalues]
    assert sum(adjusted <= level) == rejected


@pytest.mark.parametrize(("comparisons", "pairs"), [(1, 5), (2, 6), (3, 6), (4, 7), (6, 7), (9, 8)])
def test_pairs_needed(comparisons, pairs):
    assert stats.pairs_needed(comparisons) == pairs
    best = stats.holm([stats.sign_test(pairs, 0)] + [1.0] * (comparisons - 1))
    one_fewer = stats.holm([stats.sign_test(pairs - 1, 0)] + [1.0] * (comparisons - 1))
    assert best[0] < 0.05 <= one_fewer[0]
