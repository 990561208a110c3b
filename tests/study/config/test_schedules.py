"""Schedules against torch's own schedulers, stepped side by side."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR, StepLR

from study.config.schedules import multiplier, normalised, text

TOTAL = 60


def theirs(make) -> list[float]:
    """What a scheduler of torch's makes of a learning rate of 1, iteration by iteration."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warm_cosine(optimizer):
    """Ten iterations up, fifty down."""
    up = LinearLR(optimizer, start_factor=0.1, total_iters=9)
    return SequentialLR(optimizer, [up, CosineAnnealingLR(optimizer, TOTAL - 10)], milestones=[10])


def held_cosine(optimizer):
    held = LambdaLR(optimizer, lambda done: 1.0)
    return SequentialLR(optimizer, [held, CosineAnnealingLR(optimizer, TOTAL - 10)], milestones=[10])


def warm_held_cosine(done):
    return min(1, (done + 1) / 10) * (1 + math.cos(math.pi * max(0, done - 20) / (TOTAL - 20))) / 2


@pytest.mark.parametrize(
    ("schedule", "unit", "make"),
    [
        ("cosine", 1, lambda o: CosineAnnealingLR(o, TOTAL)),
        ("cosine", 15, lambda o: CosineAnnealingLR(o, TOTAL)),
        ({"name": "cosine", "floor": 0.2}, 1, lambda o: CosineAnnealingLR(o, TOTAL, eta_min=0.2)),
        ({"name": "cosine", "warmup": 10}, 1, warm_cosine),
        ({"name": "cosine", "warmup": 0.5}, 20, warm_cosine),
        ({"name": "cosine", "hold": 10}, 1, held_cosine),
        ({"name": "cosine", "warmup": 0.5, "hold": 0.5}, 20, lambda o: LambdaLR(o, warm_held_cosine)),
        ({"name": "step", "every": 10}, 1, lambda o: StepLR(o, 10, gamma=0.1)),
        ({"name": "step", "every": 2, "factor": 0.5}, 15, lambda o: StepLR(o, 30, gamma=0.5)),
        (
            {"name": "step", "every": 20, "warmup": 5},
            1,
            lambda o: LambdaLR(o, lambda k: min(1, (k + 1) / 5) * 0.1 ** (k // 20)),
        ),
    ],
)
def test_multipliers_are_torchs(schedule, unit, make):
    ours = [multiplier(normalised(schedule), done, TOTAL, unit) for done in range(TOTAL)]
    assert ours == pytest.approx(theirs(make), rel=1e-9, abs=1e-12)


schedules_ = st.one_of(
    st.fixed_dictionaries(
        {"name": st.just("cosine")},
        optional={name: st.floats(0, most) for name, most in (("floor", 1), ("warmup", 3), ("hold", 3))},
    ),
    st.fixed_dictionaries(
        {"name": st.just("step"), "every": st.floats(0.01, 9)},
        optional={"factor": st.floats(0, 1), "warmup": st.floats(0, 3)},
    ),
)


@given(schedules_, st.integers(1, 50), st.integers(4, 9))
def test_a_multiplier_is_from_0_to_1_and_ends_no_higher_than_it_peaks(schedule, unit, units):
    schedule = normalised(schedule)
    total = unit * units
    values = [multiplier(schedule, done, total, unit) for done in range(total)]
    assert all(0 <= value <= 1 for value in values)
    peak = values.index(max(values))
    assert peak <= round(schedule.get("warmup", 0) * unit) + 1
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values[max(peak, round(3 * unit)) :]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cosine", {"name": "cosine"}),
        ({"name": "cosine", "warmup": 0, "floor": -0.0}, "cosine"),
        ({"name": "step", "every": 2, "factor": 0.1}, {"every": 2.0, "name": "step"}),
    ],
)
def test_equal_schedules_are_equal_mappings(one, other):
    assert normalised(one) == normalised(other)
    assert normalised(normalised(one)) == normalised(one)
    assert text(normalised(one)) == text(normalised(other))


def test_words_tell_schedules_apart():
    assert text(normalised("cosine")) == "cosine"
    assert text(normalised({"name": "step", "every": 10, "warmup": 0.5})) == "step every=10 warmup=0.5"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("cosin", "'cosin' is not a schedule; write cosine or step"),
        (None, "nothing is not a schedule"),
        (["cosine"], "a list is not a schedule"),
        ({"every": 3}, "nothing is not a schedule"),
        ("step", "step needs every; write e.g."),
        ({"name": "cosine", "every": 3}, "cosine has no 'every'; it takes floor, warmup, hold"),
        ({"name": "cosine", "warmup": "x"}, "warmup is 'x'; write a number"),
        ({"name": "cosine", "warmup": True}, "warmup is true; write a number"),
        ({"name": "cosine", "warmup": -1}, "warmup is -1; write 0 or more"),
        ({"name": "cosine", "floor": float("nan")}, "floor is nan; write a number"),
        ({"name": "step", "every": 0}, "every is 0; write more than 0"),
    ],
)
def test_refused(schedule, words):
    with pytest.raises(ValueError, match=r"\A[^\n]+; [^\n]+\Z") as caught:
        normalised(schedule)
    assert words in str(caught.value)
