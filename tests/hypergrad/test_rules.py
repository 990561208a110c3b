"""What every rate rule can be combined with: against the reference, and each rule by hand."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

import hypergrad
from hypergrad import rates
from hypergrad.reference import Reference

from .rules import RULES

GRANULARITIES = ("group", "tensor", "released")
OPS = ("sgd", "sgdn", "adam")
GROUPS = ((0, 3), (1,), (2,))
MISSING = {0: {1}, 1: {1}, 7: {0, 2}, 8: {2}, 9: {0, 1, 2, 3}, 20: {3}}

MULTIPLICATIVE = {"rule": "multiplicative"}
ADDITIVE_COSINE = {"rule": "additive-cosine"}
COSINE = {"rule": "cosine"}
DECOUPLED = {"decoupled_weight_decay": True}


def in_reference(options, alpha0):
    """The reference's names for an optimizer's options."""
    names = {"lr_bounds": "bounds", "decoupled_weight_decay": "decoupled"}
    return {names.get(key, key): value for key, value in options.items()}


def check(problem, op, lop, granularity, kind, options, missing=MISSING, groups=GROUPS, **more):
    name = f"{op}-{lop}"
    alpha0, beta = problem.rates(name)
    beta = getattr(RULES[lop], kind) if kind else beta
    return problem.check_against_reference(
        name,
        granularity,
        0.1,
        groups,
        missing,
        rates=(alpha0, beta),
        options=options,
        reference=in_reference(options, alpha0),
        **more,
    )


KINDS = [
    ("multiplicative", MULTIPLICATIVE),
    ("additive_cosine", ADDITIVE_COSINE),
    ("cosine", COSINE),
    (None, DECOUPLED),
    ("cosine", COSINE | DECOUPLED),
]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("op", OPS)
def test_options_equal_the_reference(problem, op, granularity, kind, options):
    check(problem, op, "adam", granularity, kind, options)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
@pytest.mark.parametrize("lop", [lop for lop in RULES if lop != "adam"])
def test_options_with_every_lop_equal_the_reference(problem, lop, kind, options):
    for granularity, op in zip(GRANULARITIES, OPS, strict=True):
        check(problem, op, lop, granularity, kind, options)


@pytest.mark.parametrize("options", [{}, MULTIPLICATIVE, COSINE], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("lop", ["sgd", "adam"])
def test_bounds_equal_the_reference(problem, lop, granularity, options):
    kind = options.get("rule")
    alpha0, _ = problem.rates(f"sgd-{lop}")
    low, high = 0.97 * alpha0, 1.04 * alpha0
    options = options | {"lr_bounds": (low, high)}
    (path,) = check(problem, "sgd", lop, granularity, kind, options, groups=((0, 1, 2, 3),))
    assert all(low <= alpha <= high for alpha in path)
    assert low in path or high in path


@pytest.mark.parametrize("kwargs", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("op", OPS)
def test_other_implementations_equal_the_reference(problem, op, granularity, kwargs):
    """All options at once."""
    alpha0, _ = problem.rates(f"{op}-sgd")
    options = COSINE | DECOUPLED | {"lr_bounds": (0.5 * alpha0, 1.9 * alpha0)}
    check(problem, op, "sgdn", granularity, "cosine", options, **kwargs)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("op", ["sgd", "adam"])
def test_decoupled_weight_decay_with_a_fixed_rate_equals_torch(problem, op, fused):
    a, b = problem.initial(), problem.initial()
    ours = hypergrad.create(op, a, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, fused=fused)
    problem.train(ours, a, range(50), MISSING)
    if op == "adam":
        problem.train(torch.optim.AdamW(b, lr=0.01, weight_decay=0.1), b, range(50), MISSING)
    else:
        torch_sgd = torch.optim.SGD(b, lr=0.01)
        # torch has no SGDW: θ ← θ(1 − αλ) before the step of a parameter that has a gradient.
        for step in range(50):
            for index, param in enumerate(b):
                if index not in MISSING.get(step, ()):
                    grads = problem.gradients(b, step)
                    param.grad = grads[index]
                else:
                    param.grad = None
            with torch.no_grad():
                for param in b:
                    if param.grad is not None:
                        param.mul_(1 - 0.01 * 0.1)
            torch_sgd.step()
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("variable", ["α", "log α"])
def test_the_hypergradient_of_decoupled_weight_decay_is_the_derivative(problem, op, variable):
    """dL_t(θ_{t−2} − α(u + λθ_{t−2}))/dα by autograd, and /d log α, which a multiplicative rule moves by."""
    params = problem.initial()
    optimizer = hypergrad.create(
        f"{op}-sgd",
        params,
        lr=0.02,
        hypergrad_lr=0.01,
        weight_decay=0.3,
        decoupled_weight_decay=True,
        rule="multiplicative" if variable == "log α" else "additive",
    )
    for step in range(6):
        origin = [p.detach().clone() for p in params]
        problem.train(optimizer, params, range(step, step + 1))
        alpha = optimizer.learning_rates[0]
        moved_along = [(a - b.detach()) / alpha for a, b in zip(origin, params, strict=True)]
    free = alpha.log().requires_grad_() if variable == "log α" else alpha.clone().requires_grad_()
    rate = free.exp() if variable == "log α" else free
    loss = problem.loss([a - rate * d for a, d in zip(origin, moved_along, strict=True)], 6)
    (expected,) = torch.autograd.grad(loss, free)
    problem.train(optimizer, params, range(6, 7))
    h = optimizer.hypergradients[0]
    if variable == "log α":
        move = torch.log(optimizer.learning_rates[0] / alpha) / -0.01
        torch.testing.assert_close(move, expected, rtol=1e-9, atol=0)
        h = h * alpha
    torch.testing.assert_close(h, expected, rtol=1e-9, atol=0)


def test_normalised_hypergradients_are_cosines_and_carry_over(problem):
    """Scaling the loss changes h by its square, and nothing about the cosine or the α it leads to."""
    paths = []
    for scale in (1.0, 1e3):
        params = problem.initial()
        optimizer = hypergrad.SGD(params, lr=0.02 / scale, hypergrad_lr=0.05, lop="sgdn", rule="cosine")
        path = []
        for step in range(20):
            for param, grad in zip(params, problem.gradients(params, step), strict=True):
                param.grad = grad * scale
            optimizer.step()
            assert -1 <= optimizer.hypergradients[0] <= 1
            path.append(float(optimizer.learning_rates[0]) * scale)
        paths.append(path)
    assert paths[0] == pytest.approx(paths[1], rel=1e-12)
    assert abs(paths[0][-1] / 0.02 - 1) > 0.1


def test_a_gradient_of_zero_has_no_direction(problem):
    params = problem.initial()
    optimizer = hypergrad.SGD(params, lr=0.02, hypergrad_lr=0.05, lop="sgd", rule="additive-cosine")
    for scale in (1.0, 0.0, 1.0):
        for param, grad in zip(params, problem.gradients(params, 0), strict=True):
            param.grad = grad * scale
        optimizer.step()
        assert optimizer.hypergradients[0] == 0  # nothing before, nothing now, and zero before
    assert optimizer.learning_rates[0] == 0.02


def test_there_is_a_row_per_rule():
    assert {name: type(rule.rate) for name, rule in RULES.items()} == rates.RATE_RULES
    for name, rule in RULES.items():
        assert rates.from_options(name, {}) == rule.rate
        options = {f"lop_{own.name}": getattr(rule.other, own.name) for own in dataclasses.fields(rule.other)}
        assert rates.from_options(name, options) == rule.other
        assert set(options) <= set(inspect.signature(hypergrad.SGD).parameters)


# One parameter θ ∈ R, L = g·θ with these gradients given: u = g for op sgd, so h = 0, −2, 2, 1.
GRADIENTS = [1.0, 2.0, -1.0, 1.0]
H = [0.0, -2.0, 2.0, 1.0]


def sign():
    return [1.0, 1.1, 1.0, 0.9]


def multiplicative():
    second = math.exp(0.1 * 2)
    third = second * math.exp(-0.1 * 2 * second)
    return [1.0, second, third, third * math.exp(-0.1 * third)]


def cosine():
    return [1.0, math.exp(0.1), 1.0, math.exp(-0.1)]


@pytest.mark.parametrize(
    ("lop", "options", "alphas"),
    [
        *((lop, {}, rule.by_hand) for lop, rule in RULES.items()),
        ("lion", {"lop_betas": (0.0, 0.0)}, sign()),
        ("sgd", MULTIPLICATIVE, multiplicative()),
        ("sgd", COSINE, cosine()),
        ("sgd", {"lr_bounds": (0.95, 1.15)}, [1.0, 1.15, 0.95, 0.95]),
    ],
    ids=str,
)
def test_rules_by_hand(lop, options, alphas):
    theta = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = hypergrad.create(f"sgd-{lop}", [theta], lr=1.0, hypergrad_lr=0.1, **options)
    oracle = Reference(f"sgd-{lop}", [theta], 1.0, 0.1, **in_reference(options, 1.0))
    position = 0.5
    for gradient, h, alpha in zip(GRADIENTS, H, alphas, strict=True):
        theta.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        oracle.step([theta.grad])
        position -= alpha * gradient
        if not options.get("rule", "").endswith("cosine"):
            assert optimizer.hypergradients[0].item() == oracle.h[0].item() == h
        assert optimizer.learning_rates[0].item() == pytest.approx(alpha, rel=1e-12)
        assert oracle.alpha[0].item() == pytest.approx(alpha, rel=1e-12)
        assert theta.item() == pytest.approx(position, rel=1e-12)
        assert oracle.theta[0].item() == pytest.approx(position, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0, "rule": "multiplicative"}, "rule='multiplicative' needs an lr above 0, got 0.0"),
        ({"lr_bounds": (1e-2, 1.0)}, r"lr must lie within lr_bounds, got 0.001 and \(0.01, 1.0\)"),
        ({"lr_bounds": (1.0, 0.1)}, "lr_bounds must be two numbers, the smaller first"),
        ({"lr_bounds": 0.1}, "lr_bounds must be None or two numbers, got 0.1"),
        ({"lr_bounds": (0.0, math.nan)}, "lr_bounds must be two numbers, the smaller first"),
        ({"rule": "cos"}, "rule must be one of 'additive', 'additive-cosine', .*, got 'cos'"),
        ({"differentiable": True}, "differentiable=True is not supported"),
    ],
)
def test_bad_options_are_named(options, message):
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        hypergrad.SGD([param], **options)
    # A fixed rate has no use for them: what they say about lr is not asked of it.
    if "lr_bounds" in options or "lr" in options:
        hypergrad.SGD([param], lop=None, **options)
