"""Best of K against enumeration of every subset."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.analysis import stats


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7), st.data())
def test_expected_best_is_the_mean_of_the_minima_of_all_subsets(values, data):
    k = data.draw(st.integers(1, len(values)))
    minima = [min(drawn) for drawn in combinations(values, k)]
    assert stats.expected_best(values, values, k) == pytest.approx(np.mean(minima))


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-10, 10)), min_size=1, max_size=5), st.data())
def test_of_equally_good_points_each_is_as_likely(points, data):
    k = data.draw(st.integers(1, len(points)))
    # The first of the best of k in a random order: min keeps the first of equals.
    chosen = [min(order[:k], key=lambda point: point[0])[1] for order in permutations(points)]
    scores, values = zip(*points, strict=True)
    assert stats.expected_best(scores, values, k) == pytest.approx(np.mean(chosen))


def test_the_ends_of_a_tuning_budget():
    values = [3.0, 1.0, 8.0]
    assert stats.expected_best(values, values, 1) == pytest.approx(4.0)
    assert stats.expected_best(values, values, 2) == pytest.approx((1 + 3 + 1) / 3)
    assert stats.expected_best(values, values, 3) == 1.0


def test_the_closed_form_for_equally_spaced_points():
    # E[min of k of 1 … n without replacement] = (n + 1) / (k + 1)
    for k in range(1, 21):
        assert stats.expected_best(range(1, 21), range(1, 21), k) == pytest.approx(21 / (k + 1))


def test_a_point_that_diverged_counts_only_where_it_can_be_chosen():
    values = [1.0, 2.0, math.inf]
    assert stats.expected_best(values, values, 1) == math.inf
    assert stats.expected_best(values, values, 2) == pytest.approx((1 + 1 + 2) / 3)


def test_wrong_k_and_shapes():
    with pytest.raises(ValueError, match="k must be 1 to 2, the number of points; got 3"):
        stats.expected_best([1, 2], [1, 2], 3)
    with pytest.raises(ValueError, match="must belong together"):
        stats.expected_best([1, 2], [1], 1)


def test_every_seed_is_reported_by_what_the_others_chose():
    costs = [[1.0, 9.0], [2.0, 7.0], [8.0, 3.0]]
    # others of seed 0: means 5, 5, a tie; of seed 1: 4.5, 6; of seed 2: 1.5, 8
    assert stats.held_out_best(costs, 2) == pytest.approx([5.0, 2.0, 8.0])
    assert stats.held_out_best(costs, 1) == pytest.approx(np.mean(costs, axis=1))


def test_choosing_among_noise_buys_nothing_on_held_out_seeds_and_flatters_on_the_same():
    noise = np.random.default_rng(0).normal(size=(400, 6, 8))
    held_out = np.mean([stats.held_out_best(costs, 8).mean() for costs in noise])
    same = np.mean([costs.mean(axis=0).min() for costs in noise])
    assert abs(held_out) < 0.06
    assert same < -0.5


def test_one_seed_has_to_serve_for_both():
    assert stats.held_out_best([[4.0, 2.0]], 2).tolist() == [2.0]
