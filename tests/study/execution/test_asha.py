"""Successive halving within an arm, against the paper's rule written once more."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config.search_section import Asha
from study.execution.asha import SuccessiveHalving


def stop_epoch(halving, point, curve):
    """The epoch after which a point is stopped; None if it never is."""
    for epoch, value in enumerate(curve, start=1):
        if halving.stops(point, epoch=epoch, value=value):
            return epoch
    return None


@given(
    # Whole numbers and these reductions have quantiles without rounding, so that ties are ties.
    curves=st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=12), min_size=1, max_size=12),
    grace=st.integers(1, 4),
    reduction=st.sampled_from([2, 4]),
)
def test_a_point_goes_on_while_it_is_among_the_best_of_those_before_it(curves, grace, reduction):
    halving = SuccessiveHalving(Asha(grace=grace, reduction=reduction))
    rungs = {grace * reduction**power: [] for power in range(6)}
    for point, curve in enumerate(curves):
        expected = None
        for epoch, value in enumerate(curve, start=1):
            if epoch not in rungs:
                continue
            before = sorted(rungs[epoch])
            rungs[epoch].append(value)
            if before:
                # The 1/reduction quantile, interpolated between two neighbours.
                place = Fraction(len(before) - 1, reduction)
                low, high = before[int(place)], before[min(int(place) + 1, len(before) - 1)]
                if value > low + (high - low) * (place - int(place)):
                    expected = epoch
                    break
        assert stop_epoch(halving, point, [float(value) for value in curve]) == expected


def test_no_rung_lies_before_the_grace():
    halving = SuccessiveHalving(Asha(grace=4, reduction=2))
    assert stop_epoch(halving, 0, [0.1] * 20) is None
    assert stop_epoch(halving, 1, [9.0] * 20) == 4


def test_a_worker_that_starts_again_is_judged_as_before():
    halving = SuccessiveHalving(Asha(grace=1, reduction=2))
    for point, value in ((0, 0.5), (1, 0.4)):
        assert not halving.stops(point, epoch=1, value=value)
    assert not halving.stops(0, epoch=1, value=0.5), "it went on, and goes on from its checkpoint"
    assert halving.stops(2, epoch=1, value=0.6)


@pytest.mark.parametrize("worst", [1e30, 2.0])
def test_the_first_at_a_rung_goes_on_however_bad_it_is(worst):
    assert stop_epoch(SuccessiveHalving(Asha(grace=1, reduction=3)), 0, [worst] * 5) is None
