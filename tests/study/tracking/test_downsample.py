"""The promises of thinning, against its definition."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from study.tracking import downsample
from study.tracking.mlflow_backend.address import CURVE_POINTS

finite_or_not = st.one_of(st.floats(-5, 5), st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))
curves = st.lists(finite_or_not, max_size=120).map(np.array)


@given(curves, st.integers(0, 60), st.integers(2, 30))
@example(np.full(40, math.nan), 0, 10)
@example(np.zeros(40), 0, 10)
def test_thinning_keeps_ends_and_extremes_in_order_and_within_bounds(values, spare, points):
    total = len(values) + spare
    kept = downsample.thin_indices(values, total, closed=True, points=points).tolist()
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    assert kept == sorted(set(kept))
    assert set(kept) <= set(finite)
    assert len(kept) <= points + 2
    if finite:
        assert (kept[0], kept[-1]) == (finite[0], finite[-1])
        width = math.ceil(total / (points // 2))
        for start in range(0, len(values), width):
            bucket = [values[i] for i in finite if start <= i < start + width]
            chosen = [values[i] for i in kept if start <= i < start + width]
            if bucket:
                assert (min(chosen), max(chosen)) == (min(bucket), max(bucket))


@given(curves, st.integers(0, 60), st.integers(2, 30), st.data())
def test_thinning_a_growing_curve_only_ever_adds_at_the_end(values, spare, points, data):
    total = len(values) + spare
    lengths = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    answers = [
        downsample.thin_indices(values[:n], total, closed=False, points=points).tolist() for n in lengths
    ]
    answers.append(downsample.thin_indices(values, total, closed=True, points=points).tolist())
    for shorter, longer in pairwise(answers):
        assert longer[: len(shorter)] == shorter


def test_short_curves_are_kept_whole_and_long_ones_to_the_ui_s_points():
    assert downsample.thin_indices(
        np.linspace(3, 1, 320), 320, closed=True, points=CURVE_POINTS
    ).tolist() == list(range(320))
    long = np.random.default_rng(0).standard_normal(9380)
    assert 300 <= len(downsample.thin_indices(long, 9380, closed=True, points=CURVE_POINTS)) <= 322
    assert (
        len(downsample.thin_indices(long[:58], 9380, closed=False, points=CURVE_POINTS)) == 0
    )  # buckets are 59 wide
    assert len(downsample.thin_indices(long[:59], 9380, closed=False, points=CURVE_POINTS)) >= 2


def test_a_curve_longer_than_its_total_is_refused():
    with pytest.raises(ValueError, match="a curve has at most total=3 values; got 4"):
        downsample.thin_indices(np.zeros(4), 3, closed=True, points=2)
    with pytest.raises(ValueError, match="points must be 2 or more; got 1"):
        downsample.thin_indices(np.zeros(4), 4, closed=True, points=1)
