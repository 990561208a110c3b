"""A fixed α moves the parameters as torch.optim does, and h is what autograd says."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

import hypergrad
from hypergrad.reference import Reference

MISSING = {0: {1}, 7: {0, 2}, 9: {0, 1, 2, 3}, 20: {3}}
PLAIN = {
    "sgd": ("sgd", {}, torch.optim.SGD, {}),
    "sgdn": ("sgdn", {}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "heavy ball": ("sgd", {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "adam": ("adam", {}, torch.optim.Adam, {}),
    "adam, other betas": (
        "adam",
        {"betas": (0.5, 0.9), "eps": 1e-3},
        torch.optim.Adam,
        {"betas": (0.5, 0.9), "eps": 1e-3},
    ),
}


@pytest.mark.parametrize("implementation", [{}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize(
    ("weight_decay", "maximize", "missing"),
    [(0.0, False, {}), (0.1, False, {}), (0.1, True, {}), (0.1, False, MISSING), (0.1, True, MISSING)],
    ids=["plain", "decay", "decay-maximize", "decay-missing", "all"],
)
@pytest.mark.parametrize("kind", PLAIN)
def test_fixed_rate_equals_torch(problem, kind, weight_decay, maximize, missing, implementation):
    name, ours, theirs, arguments = PLAIN[kind]
    common = {"lr": 0.01, "weight_decay": weight_decay, "maximize": maximize}
    steps = range(10) if maximize else range(50)  # climbing, the loss soon leaves float64
    a, b = problem.initial(), problem.initial()
    problem.train(hypergrad.create(name, a, **common, **ours, **implementation), a, steps, missing)
    problem.train(theirs(b, **common, **arguments), b, steps, missing)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd", "sgdn", "adam"])
def test_reference_equals_torch(problem, name):
    _, _, theirs, arguments = PLAIN[name]
    params = problem.initial()
    oracle = Reference(name, params, 0.01, weight_decay=0.1)
    problem.train(theirs(params, lr=0.01, weight_decay=0.1, **arguments), params, range(50))
    for step in range(50):
        oracle.step(problem.gradients(oracle.theta, step))
    for x, y in zip(params, oracle.theta, strict=True):
        torch.testing.assert_close(x.detach(), y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-adam", "adam-adam", "adam-sgdn"])
def test_maximize_negates_the_gradient(problem, name):
    alpha0, beta = problem.rates(name)
    a, b = problem.initial(), problem.initial()
    up = hypergrad.create(name, a, lr=alpha0, hypergrad_lr=beta, maximize=True)
    down = hypergrad.create(name, b, lr=alpha0, hypergrad_lr=beta)
    for step in range(5):
        for x, y, grad in zip(a, b, problem.gradients(b, step), strict=True):
            x.grad, y.grad = -grad, grad
        up.step()
        down.step()
    assert up.learning_rates == down.learning_rates
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("op", ["sgd", "sgdn", "adam"])
def test_hypergradient_is_the_derivative_of_the_loss(op):
    """h_t = dL_t(θ_{t−2} − α u_{t−1})/dα at α = α_{t−1}, after enough steps for the moments to matter."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    inputs, targets = torch.randn(6, 16, 4).double(), torch.randn(6, 16, 2).double()

    def loss(weights, step):
        return ((functional_call(model, weights, (inputs[step],)) - targets[step]) ** 2).mean()

    optimizer = hypergrad.create(f"{op}-sgd", model.parameters(), lr=0.05, hypergrad_lr=1e-4)

    def snapshot():
        return {k: v.detach().clone() for k, v in model.named_parameters()}

    last = (snapshot(), torch.tensor(0.0), snapshot())
    for step in range(6):
        before = snapshot()
        optimizer.zero_grad()
        loss(dict(model.named_parameters()), step).backward()
        optimizer.step()
        alpha = optimizer.learning_rates[0]
        if step >= 3:
            origin, variable, direction = last
            variable.requires_grad_()
            moved = {k: origin[k] - variable * direction[k] for k in origin}
            (expected,) = torch.autograd.grad(loss(moved, step), variable)
            assert abs(expected) > 1e-4
            torch.testing.assert_close(optimizer.hypergradients[0], expected, rtol=1e-9, atol=0)
        after = snapshot()
        last = before, alpha, {k: (before[k] - after[k]) / alpha for k in before}
