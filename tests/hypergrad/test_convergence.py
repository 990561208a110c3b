"""Problems whose optimum is known: what a learned α makes of an α₀ that is wrong by 100 × either way.

Every run is three members, α₀/100, α₀ and 100·α₀, with one β. "Mended" means that the loss is within 1e-6 of
the optimum, relative to where it began (1e-5 for Adam with an additive rule; on Rosenbrock about as much as a
fixed α₀ gets to), after steps in which a fixed α₀/100 gets nowhere near. What was found:

======================  =======================  ======================  ==================================
                        quadratic                logistic regression     Rosenbrock
======================  =======================  ======================  ==================================
cosine, every op, lop   both                     both                    not too large with SGD, SGDN
additive, SGD and SGDN  too small only           (not tested)            too small only
additive, Adam          both                     (not tested)            both
======================  =======================  ======================  ==================================

"cosine" is the rule of that name. A fixed step 100 times too large multiplies the error of
SGD by some hundreds per step, and an additive rule, whose moves are made for the right α, comes too late. On
Rosenbrock's quartic it leaves the numbers within a few steps, before any rule has seen gradients that matter.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from hypergrad import directions, functional

from .rules import RULES

OPS = {"sgd": directions.SGD(), "sgdn": directions.Momentum(), "adam": directions.Adam()}
FACTORS = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
COSINE = {"rule": "cosine"}

EIGENVALUES = torch.logspace(0, 1.5, 20, dtype=torch.float64)
RIDGE = 0.01


class Quadratic:
    """½ Σ λθ² from θ = 1, with eigenvalues from 1 to 32; at θ = 0 it is 0."""

    optimum = 0.0
    steps = 500
    rates = {"sgd": 0.05, "sgdn": 0.03, "adam": 0.05}  # noqa: RUF012

    def start(self):
        return [torch.ones(3, 20, dtype=torch.float64)]

    def loss(self, params):
        return 0.5 * (EIGENVALUES * params[0] ** 2).sum(1)


class LogisticRegression:
    """With an L2 penalty on the weights, on 400 points of scikit-learn's; scikit-learn finds its optimum."""

    steps = 500
    rates = {"sgd": 1.0, "sgdn": 0.3, "adam": 0.1}  # noqa: RUF012

    def __init__(self):
        from sklearn.datasets import make_classification
        from sklearn.linear_model import LogisticRegression

        inputs, targets = make_classification(400, 10, random_state=0)
        fitted = LogisticRegression(C=1 / (400 * RIDGE), tol=1e-12, max_iter=10_000).fit(inputs, targets)
        self.solution = np.append(fitted.coef_[0], fitted.intercept_)
        self.inputs, self.targets = torch.tensor(inputs), torch.tensor(targets, dtype=torch.float64)
        best = [torch.tensor(fitted.coef_), torch.tensor(fitted.intercept_)[:, None]]
        self.optimum = float(self.loss(best))

    def start(self):
        return [torch.zeros(3, 10, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)]

    def loss(self, params):
        weights, bias = params
        logits = weights @ self.inputs.T + bias
        losses = torch.nn.functional.softplus(logits) - self.targets * logits
        return losses.mean(1) + RIDGE / 2 * (weights**2).sum(1)


class Rosenbrock:
    """(1 − x)² + 100(y − x²)² from (−1.2, 1); at (1, 1) it is 0."""

    optimum = 0.0
    steps = 2000
    rates = {"sgd": 1e-3, "sgdn": 5e-4, "adam": 0.02}  # noqa: RUF012

    def start(self):
        return [torch.tensor([[-1.2, 1.0]], dtype=torch.float64).repeat(3, 1)]

    def loss(self, params):
        x, y = params[0].unbind(1)
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@functools.cache
def problem_named(name):
    return {"quadratic": Quadratic, "logistic": LogisticRegression, "rosenbrock": Rosenbrock}[name]()


def left(problem, op, lop, beta, steps=None, **options):
    """What is left of the distance to the optimum, for each α₀; infinite where it left the numbers."""
    params = [param.requires_grad_() for param in problem.start()]
    rate = RULES[lop].rate if lop else None
    state = functional.init(params, rate, lr=FACTORS * problem.rates[op], members=3)
    first = problem.loss(params).detach() - problem.optimum
    for _ in range(steps or problem.steps):
        grads = torch.autograd.grad(problem.loss(params).sum(), params)
        functional.update(
            params, grads, state, OPS[op], rate, functional.StepOptions(hypergrad_lr=beta, **options)
        )
    gaps = (problem.loss(params).detach() - problem.optimum) / first
    return torch.nan_to_num(gaps, nan=torch.inf, posinf=torch.inf).tolist(), params


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["quadratic", "logistic", "rosenbrock"])
def test_a_fixed_rate_needs_the_right_one(name, op):
    (small, right, large), _ = left(problem_named(name), op, None, 0.0)
    assert right <= (0.01 if name == "rosenbrock" else 1e-6)
    assert small > 1e-4
    if op != "adam":
        assert large > 1  # Adam's steps are bounded: on the quadratic it comes back


@pytest.mark.parametrize("lop", RULES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["quadratic", "logistic"])
def test_the_cosine_mends_both_ways_with_one_beta(name, op, lop):
    # The same for both problems and all ops, which is what normalising is for, but for a few exceptions.
    beta = RULES[lop].exceptions.get((name, op), RULES[lop].cosine_finds)
    gaps, params = left(problem_named(name), op, lop, beta, **COSINE)
    assert max(gaps) <= 1e-6
    if name == "logistic":
        found = torch.cat(params, 1).detach().numpy()
        np.testing.assert_allclose(found, np.tile(problem_named(name).solution, (3, 1)), atol=1e-2)


@pytest.mark.parametrize("lop", RULES)
@pytest.mark.parametrize("name", ["quadratic", "rosenbrock"])
def test_additive_rules_mend_adam_both_ways(name, lop):
    gaps, _ = left(problem_named(name), "adam", lop, RULES[lop].finds[name, "adam"])
    assert max(gaps) <= 1e-5


@pytest.mark.parametrize("lop", RULES)
@pytest.mark.parametrize(
    ("name", "op", "enough"),
    [
        ("quadratic", "sgd", 1e-6),
        ("quadratic", "sgdn", 1e-6),
        ("rosenbrock", "sgd", 0.02),
        ("rosenbrock", "sgdn", 1e-3),
    ],
)
def test_additive_rules_mend_sgd_upwards_only(name, op, enough, lop):
    (small, _, large), _ = left(problem_named(name), op, lop, RULES[lop].finds[name, op])
    assert small <= enough
    assert large > 1


@pytest.mark.parametrize("op", ["sgd", "sgdn"])
def test_no_rule_saves_sgd_on_rosenbrock_from_a_rate_100_times_too_large(op):
    for lop, rule in RULES.items():
        (_, _, large), _ = left(problem_named("rosenbrock"), op, lop, rule.cosine_finds, steps=50, **COSINE)
        assert large == torch.inf
