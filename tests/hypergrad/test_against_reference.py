"""Every name, granularity and grouping against the slow reference, and both against hand arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

import hypergrad
from hypergrad.reference import Reference

LEARNED = [f"{op}-{lop}" for op in ("sgd", "sgdn", "adam") for lop in ("sgd", "sgdn", "adam")]
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


# One parameter θ ∈ R, L = g·θ with the gradients 1, 2, −1 given: u = g for op sgd.
GRADIENTS = [1.0, 2.0, -1.0]
H = [0.0, -2.0, 2.0]  # −g_1·0, −2·1, −(−1)·2


def algorithm_1():
    """α_t by Algorithm 1 with β = 0.1, μ = 0.9, α_0 = 1."""
    # v_1 = 0,              α_1 = 1
    # v_2 = −2,             α_2 = 1 − 0.1(−2 + 0.9·(−2)) = 1.38
    # v_3 = −1.8 + 2 = 0.2, α_3 = 1.38 − 0.1(2 + 0.9·0.2) = 1.162
    return [1.0, 1.38, 1.162]


def algorithm_2():
    """α_t by Algorithm 2 with β = 0.1, β₁ = 0.9, β₂ = 0.999, ε = 1e-8, α_0 = 1; t counts h_1 = 0."""
    # t=2: m = 0.1·(−2) = −0.2, m̂ = −0.2/(1 − 0.81) = −0.2/0.19
    #      v = 0.001·4 = 0.004, v̂ = 0.004/(1 − 0.998001) = 0.004/0.001999
    # t=3: m = 0.9·(−0.2) + 0.1·2 = 0.02, m̂ = 0.02/(1 − 0.729) = 0.02/0.271
    #      v = 0.999·0.004 + 0.001·4 = 0.007996, v̂ = 0.007996/(1 − 0.997002999) = 0.007996/0.002997001
    second = 1 - 0.1 * (-0.2 / 0.19) / (math.sqrt(0.004 / 0.001999) + 1e-8)
    third = second - 0.1 * (0.02 / 0.271) / (math.sqrt(0.007996 / 0.002997001) + 1e-8)
    return [1.0, second, third]


@pytest.mark.parametrize(
    ("lop", "alphas"),
    [("sgd", [1.0, 1.2, 1.0]), ("sgdn", algorithm_1()), ("adam", algorithm_2())],
)
def test_algorithms_by_hand(lop, alphas):
    theta = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = hypergrad.create(f"sgd-{lop}", [theta], lr=1.0, hypergrad_lr=0.1)
    oracle = Reference(f"sgd-{lop}", [theta], 1.0, 0.1)
    position = 0.5
    for gradient, h, alpha in zip(GRADIENTS, H, alphas, strict=True):
        theta.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        oracle.step([theta.grad])
        position -= alpha * gradient
        assert optimizer.hypergradients[0].item() == h
        assert optimizer.learning_rates[0].item() == pytest.approx(alpha, rel=1e-12)
        assert oracle.alpha[0].item() == pytest.approx(alpha, rel=1e-12)
        assert theta.item() == pytest.approx(position, rel=1e-12)
        assert oracle.theta[0].item() == pytest.approx(position, rel=1e-12)
