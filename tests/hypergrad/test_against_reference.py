"""Every name, granularity and grouping against the slow reference."""

from __future__ import annotations

import pytest

import hypergrad

LEARNED = [name for name in hypergrad.NAMES if "-" in name]
GRANULARITIES = ("group", "tensor", "released")
# With granularity and groups, the parts of the network that train together.
GROUPS = {1: [[0, 1, 2, 3]], 3: [[0, 3], [1], [2]]}
# Nothing in step 0 for tensor 1, a hole in the middle, a step without a gradient in a whole group.
MISSING = {0: {1}, 1: {1}, 7: {0, 2}, 8: {2}, 9: {0, 1, 2, 3}, 20: {3}}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", hypergrad.NAMES)
def test_fifty_steps_equal_the_reference(problem, name, granularity):
    problem.check_against_reference(name, granularity, groups=GROUPS[1])


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", hypergrad.NAMES)
def test_missing_gradients_weight_decay_and_groups_equal_the_reference(problem, name, granularity):
    for groups in GROUPS.values():
        problem.check_against_reference(name, granularity, 0.1, groups, MISSING)


@pytest.mark.parametrize("kwargs", [{"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", LEARNED)
def test_other_implementations_equal_the_reference(problem, name, granularity, kwargs):
    if "fused" in kwargs and name.startswith("muon"):
        pytest.skip("has no kernel")
    problem.check_against_reference(name, granularity, 0.1, GROUPS[1], MISSING, **kwargs)


def test_heavy_ball_and_other_options_equal_the_reference(problem):
    problem.check_against_reference(
        "sgdn-sgdn",
        "group",
        0.0,
        GROUPS[1],
        options={"momentum": 0.8, "nesterov": False, "lop_momentum": 0.5},
        reference={"mu": 0.8, "nesterov": False, "lop_mu": 0.5},
    )
    problem.check_against_reference(
        "adam-adam",
        "group",
        0.0,
        GROUPS[1],
        options={"betas": (0.8, 0.95), "eps": 1e-3, "lop_betas": (0.0, 0.9), "lop_eps": 1e-4},
        reference={"betas": (0.8, 0.95), "eps": 1e-3, "lop_betas": (0.0, 0.9), "lop_eps": 1e-4},
    )


@pytest.mark.parametrize("lop", ["sgd", "sgdn", "adam"])
@pytest.mark.parametrize("op", ["sgd", "sgdn", "adam"])
def test_released_and_group_differ_with_lop_adam_only(problem, op, lop):
    alpha0, beta = problem.rates(f"{op}-{lop}")
    # In the first step h is 0; in the second every α is still common to both up to its end.
    alphas = []
    for granularity in ("group", "released"):
        params = problem.initial()
        optimizer = hypergrad.create(
            f"{op}-{lop}", params, lr=alpha0, hypergrad_lr=beta, granularity=granularity
        )
        problem.train(optimizer, params, range(2))
        alphas.append(float(optimizer.learning_rates[0]))
    group, released = alphas
    assert abs(group / alpha0 - 1) > 1e-4
    if lop == "adam":
        assert abs(released / group - 1) > 1e-4
    else:
        assert released == pytest.approx(group, rel=1e-13)
