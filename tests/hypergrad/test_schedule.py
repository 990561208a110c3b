"""A schedule multiplies the learned α: torch's schedulers, unmodified, on ``optimizer.schedule``."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

import hypergrad

MISSING = {1: {1}, 7: {0, 2}, 8: {2}, 20: {3}}


def warm_up_and_cosine(step):
    return (step + 1) / 10 if step < 10 else 0.5 * (1 + math.cos(math.pi * (step - 10) / 40))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoupled_weight_decay": True},
        {"rule": "additive-cosine"},
        {"rule": "multiplicative"},
        {"fused": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("op", ["sgd", "sgdn", "adam"])
def test_warm_up_and_cosine_equal_the_reference(problem, op, granularity, options):
    """θ_t = θ_{t−1} − α_t s_t u_t and h_t = −⟨g_t, s_{t−1}u_{t−1}⟩, where a tensor last moved at s_{t−1}."""
    alpha0, beta = problem.rates(f"{op}-sgd")
    beta = {"additive-cosine": 1e-4, "multiplicative": 0.1}.get(options.get("rule"), beta)
    names = {"decoupled_weight_decay": "decoupled"}
    problem.check_against_reference(
        f"{op}-sgd",
        granularity,
        0.1,
        missing=MISSING,
        rates=(alpha0, 4 * beta),
        options=options,
        reference={names.get(key, key): value for key, value in options.items() if key != "fused"},
        schedule=warm_up_and_cosine,
    )


def schedulers(view):
    warm_up = lr_scheduler.LinearLR(view, start_factor=0.1, total_iters=5)
    cosine = lr_scheduler.CosineAnnealingLR(view, T_max=15)
    return lr_scheduler.SequentialLR(view, [warm_up, cosine], milestones=[5])


SCHEDULERS = {
    "lambda": lambda view: lr_scheduler.LambdaLR(view, warm_up_and_cosine),
    "cosine": lambda view: lr_scheduler.CosineAnnealingLR(view, T_max=15, eta_min=0.1),
    "sequential": schedulers,
    "one cycle": lambda view: lr_scheduler.OneCycleLR(view, max_lr=1.0, total_steps=25),
    "restarts": lambda view: lr_scheduler.CosineAnnealingWarmRestarts(view, T_0=6),
    "steps": lambda view: lr_scheduler.MultiStepLR(view, [4, 9], gamma=0.3),
    "exponential": lambda view: lr_scheduler.ExponentialLR(view, 0.9),
    "polynomial": lambda view: lr_scheduler.PolynomialLR(view, total_iters=25),
    "cyclic": lambda view: lr_scheduler.CyclicLR(view, 0.1, 1.0, step_size_up=4),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_of_torch_multiplies(problem, make):
    """With β = 0 the parameters move as with torch.optim and the same scheduler."""
    a, b = problem.initial(), problem.initial()
    ours = hypergrad.SGD(a, lr=0.02, momentum=0.9, nesterov=True, hypergrad_lr=0.0)
    theirs = torch.optim.SGD(b, lr=1.0, momentum=0.9, nesterov=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = make(ours.schedule), make(theirs)
        for step in range(20):
            grads = problem.gradients(a, step)
            for x, y, grad in zip(a, b, grads, strict=True):
                # torch's θ is ours / α₀, so its gradient may be taken at ours.
                x.grad, y.grad = grad, grad.clone()
            before = [(x.detach().clone(), y.detach().clone()) for x, y in zip(a, b, strict=True)]
            ours.step()
            theirs.step()
            for x, y, (x0, y0) in zip(a, b, before, strict=True):
                torch.testing.assert_close(x.detach() - x0, 0.02 * (y.detach() - y0), rtol=1e-6, atol=1e-12)
            one.step()
            other.step()
            assert float(one.get_last_lr()[0]) == pytest.approx(other.get_last_lr()[0], rel=1e-6, abs=1e-12)
    assert ours.learning_rates[0] == 0.02


def test_a_plateau_divides(problem):
    params = problem.initial()
    optimizer = hypergrad.Adam(params, lr=0.01)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer.schedule, factor=0.25, patience=0)
    problem.train(optimizer, params, range(2))
    plateau.step(1.0)
    plateau.step(2.0)
    assert float(optimizer.param_groups[0]["lr_factor"]) == 0.25
    assert optimizer.learning_rates[0] != 0.01


@pytest.mark.parametrize("lop", [None, "sgd", "adam"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_a_schedule_continues_bit_for_bit(problem, lop, decoupled):
    options = {"lr": 0.01, "lop": lop, "weight_decay": 0.1}
    options["decoupled_weight_decay"] = decoupled
    params = problem.initial()
    optimizer = hypergrad.Adam(params, **options)
    schedule = schedulers(optimizer.schedule)

    def train(optimizer, schedule, params, steps):
        for step in steps:
            problem.train(optimizer, params, range(step, step + 1), MISSING)
            schedule.step()

    train(optimizer, schedule, params, range(8))
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    resumed = [p.detach().clone().requires_grad_() for p in params]
    train(optimizer, schedule, params, range(8, 16))
    other = hypergrad.Adam(resumed, **options)
    other_schedule = schedulers(other.schedule)
    other.load_state_dict(saved[0])
    other_schedule.load_state_dict(saved[1])
    train(other, other_schedule, resumed, range(8, 16))
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))
    assert torch.equal(optimizer.learning_rates[0], other.learning_rates[0])


def test_each_group_has_its_own_factor(problem):
    params = problem.initial()
    groups = [{"params": params[:2]}, {"params": params[2:], "lop": None}]
    optimizer = hypergrad.SGD(groups, lr=0.02, first_relative_step=(0, 1))
    lr_scheduler.LambdaLR(optimizer.schedule, [lambda step: 0.5, lambda step: 0.25])
    before = [p.detach().clone() for p in params]
    problem.train(optimizer, params, range(1))
    for index, (param, start) in enumerate(zip(params, before, strict=True)):
        factor = 0.5 if index < 2 else 0.25
        torch.testing.assert_close(param.detach(), start - 0.02 * factor * param.grad, rtol=1e-12, atol=0)
    added = torch.ones(2, requires_grad=True, dtype=torch.float64)
    optimizer.add_param_group({"params": [added]})
    assert optimizer.schedule.param_groups[2]["lr"] == 1.0


def test_the_view(problem):
    optimizer = hypergrad.SGD(problem.initial(), lr=0.02)
    view = optimizer.schedule
    assert view is optimizer.schedule
    assert repr(view) == "Schedule(SGD)"
    group = view.param_groups[0]
    group["initial_lr"] = 1.0
    assert optimizer.param_groups[0]["initial_lr_factor"] == 1.0
    assert set(group) == (set(optimizer.param_groups[0]) - {"lr_factor", "initial_lr_factor"}) | {
        "initial_lr"
    }
    assert len(group) == len(set(group))
    with pytest.raises(RuntimeError, match="has no step of its own"):
        view.step()


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # as torch says of copies of its own
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_are_of_one_piece(problem, copied):
    """A scheduler that is copied with its optimizer moves the copy's factor."""
    params = problem.initial()
    optimizer = hypergrad.SGD(params, lr=0.02)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer.schedule, T_max=10)
    problem.train(optimizer, params, range(1))
    twin, twin_scheduler = copied((optimizer, scheduler))
    assert twin_scheduler.optimizer is twin.schedule
    twin_scheduler.step()
    assert twin.param_groups[0]["lr_factor"] < 1
    assert optimizer.param_groups[0]["lr_factor"] == 1


def test_a_scheduler_on_the_optimizer_itself_is_warned_of(problem):
    params = problem.initial()
    optimizer = hypergrad.SGD(params, lr=0.02, hypergrad_lr=1e-3)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    with pytest.warns(UserWarning, match=r"give the scheduler optimizer\.schedule") as caught:
        problem.train(optimizer, params, range(3))
    assert len(caught) == 1
    learned = optimizer.learning_rates[0].item()
    scheduler.step()
    assert optimizer.learning_rates[0].item() == pytest.approx(0.5 * learned, rel=1e-12)
    plain = hypergrad.SGD(params, lr=0.02, lop=None)
    lr_scheduler.ExponentialLR(plain, gamma=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.train(plain, params, range(2))
