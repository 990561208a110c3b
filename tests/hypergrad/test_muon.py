"""Op Muon: against the reference, torch's own and the singular values that its polynomial leads to."""

from __future__ import annotations

import math

import pytest
import torch

import hypergrad
from hypergrad import directions
from hypergrad.reference import Reference
from hypergrad.stacked import Stacked

from .rules import ONE_STEP, RULES

BETAS = {"additive": 2e-6, "additive-cosine": 2e-5, "multiplicative": 0.3, "cosine": 0.02}


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("rule", BETAS)
def test_muon_equals_the_reference(problem, rule, granularity, foreach):
    """Matrices and vectors in one group, with tensors that rest."""
    params, beta = problem.initial(), BETAS[rule]
    missing = {3: {0}, 4: {1, 2}}
    optimizer = hypergrad.create(
        "muon-sgdn",
        params,
        lr=0.01,
        hypergrad_lr=beta,
        rule=rule,
        weight_decay=0.1,
        granularity=granularity,
        foreach=foreach,
    )
    group = optimizer.param_groups[0]
    oracle = Reference(
        "muon-sgdn",
        params,
        0.01,
        beta,
        rule=rule,
        weight_decay=0.1,
        granularity=granularity,
        **{name: group[name] for name in ONE_STEP},  # the cosine has a trace
    )
    for step in range(30):
        problem.train(optimizer, params, range(step, step + 1), missing)
        grads = problem.gradients(oracle.theta, step)
        oracle.step([None if i in missing.get(step, ()) else grad for i, grad in enumerate(grads)])
    for ours, theirs in zip(params, oracle.theta, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-9, atol=1e-11)
    alpha = torch.stack(oracle.alpha) if granularity == "tensor" else oracle.alpha[0]
    torch.testing.assert_close(optimizer.learning_rates[0], alpha, rtol=1e-9, atol=0)
    assert (alpha / 0.01 - 1).abs().max() > 0.01


@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_with_a_fixed_rate_are_torchs(nesterov):
    """As near as bfloat16 lets torch's be, which has 8 bits: its singular values differ by some percent."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.ParameterList([torch.randn(6, 9), torch.randn(9, 4)]) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    options = {"lr": 0.05, "weight_decay": 0.1, "nesterov": nesterov}
    optimizers = (
        hypergrad.Muon(ours.parameters(), lop=None, **options),
        torch.optim.Muon(theirs.parameters(), adjust_lr_fn="match_rms_adamw", **options),
    )
    before = [param.detach().clone() for param in ours]
    for step in range(4):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            for place, param in enumerate(params):
                generator = torch.Generator().manual_seed(10 * step + place)
                param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
    for start, a, b in zip(before, ours, theirs, strict=True):
        assert (a - b).norm() < 0.03 * (a - start).norm()


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (4, 4), (1, 7)])
def test_singular_values_go_through_the_polynomial_and_directions_stay(shape):
    """U f(S) Vᵀ, f five times 3.4445 s − 4.775 s³ + 2.0315 s⁵ of S over the Frobenius norm."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    found = directions.orthogonalized(matrix)
    torch.testing.assert_close(found, u @ torch.diag(s) @ vt, rtol=1e-10, atol=1e-12)
    assert ((s > 0.5) & (s < 1.3)).all()


def test_a_large_matrix_is_not_taken_apart():
    """One tensor of more elements than a chunk of the cache: the step is that of the whole matrix."""
    generator = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(600, 500, generator=generator) for _ in range(2))
    param = start.clone().requires_grad_()
    param.grad = grad
    hypergrad.Muon([param], lr=0.1, weight_decay=0.0, first_relative_step=(0, 1)).step()
    expected = 0.2 * math.sqrt(600) * directions.orthogonalized(grad)  # g + μv has the direction of g
    torch.testing.assert_close((start - param.detach()) / 0.1, expected, rtol=1e-3, atol=1e-3)


def test_a_zero_gradient_moves_nothing(problem):
    params = problem.initial()
    optimizer = hypergrad.Muon(params, weight_decay=0.0)
    for _ in range(3):
        for param in params:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, problem.initial(), strict=True))
    assert optimizer.learning_rates[0] == 1e-3


@pytest.mark.parametrize("alpha0", [1e-5, 1e-3])
def test_it_learns_its_rate(problem, alpha0):
    params = problem.initial()
    optimizer = hypergrad.Muon(params, lr=alpha0)
    first = sum(float(problem.loss(params, step).detach()) for step in range(50))
    problem.train(optimizer, params, range(300))
    assert sum(float(problem.loss(params, step).detach()) for step in range(50)) < 0.7 * first
    assert set(optimizer.state[params[0]]) == {"momentum_buffer", "trace"}
    assert set(optimizer.state[params[1]]) == {"step", "exp_avg", "exp_avg_sq", "trace"}


def test_what_it_cannot_take_is_refused_in_one_line(problem):
    params = problem.initial()
    with pytest.raises(ValueError, match="fused=True is not supported"):
        hypergrad.Muon([{"params": params, "fused": True}])
    stacked = [torch.stack([param.detach()] * 2) for param in params]
    with pytest.raises(ValueError, match="optimizers must all be"):
        Stacked([hypergrad.Muon(problem.initial()) for _ in range(2)], stacked)


@pytest.mark.parametrize("lop", RULES)
def test_names(problem, lop):
    optimizer = hypergrad.create(f"muon-{lop}", problem.initial(), rule="cosine")
    assert type(optimizer) is hypergrad.Muon
    expected = {"sgd": 0.05, "sgdn": 0.01, "adam": 0.03, "adagrad": 1.0, "lion": 0.01}
    assert optimizer.param_groups[0]["hypergrad_lr"] == expected[lop]
