"""The trace that h looks back along, and steps held to the size of θ: the options of rule ``"cosine"``."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import hypergrad

from .rules import ONE_STEP

GROUPS = ((0, 3), (1,), (2,))
MISSING = {0: {1}, 1: {1}, 7: {0, 2}, 8: {2}, 9: {0, 1, 2, 3}, 20: {3}}
TRACE = {"trace_decay": 0.9}
# Narrow enough for this problem to meet them often.
HELD = {"max_relative_step": 0.004, "first_relative_step": (1e-4, 1e-3)}
RANGE = (1e-2, 3e-2)
COSINE = {"rule": "cosine", **ONE_STEP}
CASES = {
    "trace": COSINE | TRACE,
    "held": COSINE | HELD,
    "both": COSINE | TRACE | HELD,
    "bounds": COSINE | TRACE | HELD | {"lr_bounds": (1e-3, 0.04)},
    "decoupled": COSINE | TRACE | HELD | {"decoupled_weight_decay": True},
    "additive": {"rule": "additive"} | TRACE | HELD,
    "multiplicative": {"rule": "multiplicative"} | TRACE,
    "additive-cosine": {"rule": "additive-cosine"} | TRACE | HELD,
}
BETAS = {"cosine": 0.02, "multiplicative": 0.1, "additive-cosine": 1e-4, "additive": 1e-5}


def in_reference(options):
    names = {"lr_bounds": "bounds", "decoupled_weight_decay": "decoupled"}
    return {names.get(key, key): value for key, value in options.items()}


@pytest.mark.parametrize("schedule", [None, lambda step: 1 - step / 60], ids=["fixed", "schedule"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("granularity", ["group", "tensor"])
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-sgdn"])
def test_a_traced_step_equals_the_reference(problem, name, granularity, options, schedule):
    alpha0, _ = problem.rates(name)
    for kwargs in ({}, {"foreach": False}, {"fused": True}):
        problem.check_against_reference(
            name,
            granularity,
            0.1,
            GROUPS,
            MISSING,
            rates=(alpha0, BETAS[options["rule"]]),
            options=options,
            reference=in_reference(options),
            schedule=schedule,
            tolerance=1e-11,
            **kwargs,
        )


def test_the_trace_by_hand():
    """u = g: z = 1, 0.5·1 + 2, then −1, since a g that opposes z wipes it out. h = 0, −2·1, 1·2.5, 1."""
    theta = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = hypergrad.create("sgd-sgd", [theta], lr=1.0, hypergrad_lr=0.1, trace_decay=0.5)
    alphas = []
    for gradient in (1.0, 2.0, -1.0, 1.0):
        theta.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        alphas.append(optimizer.learning_rates[0].item())
    assert alphas == pytest.approx([1.0, 1.2, 0.95, 0.85], rel=1e-12)


def test_h_is_the_slope_along_the_trace():
    """Of a loss that does not change, h is the derivative by a shift of θ along z, as autograd has it."""
    torch.manual_seed(0)
    matrix = torch.randn(6, 4, dtype=torch.float64)
    theta = torch.randn(4, dtype=torch.float64, requires_grad=True)
    optimizer = hypergrad.create("adam-sgd", [theta], lr=0.01, hypergrad_lr=1e-4, trace_decay=0.7)

    def loss(value):
        return (matrix @ value).square().sum() + value.cos().sum()

    z = torch.zeros(4, dtype=torch.float64)
    for _ in range(6):
        before = theta.detach().clone()
        shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(before - shift * z), shift)
        theta.grad = torch.autograd.grad(loss(theta), theta)[0]
        optimizer.step()
        torch.testing.assert_close(optimizer.hypergradients[0], slope, rtol=1e-10, atol=1e-12)
        z = 0.7 * z + (before - theta.detach()) / optimizer.learning_rates[0]


def relative_step(params, optimizer, grads):
    before = [param.detach().clone() for param in params]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer.step()
    moved = sum((a - b).square().sum() for a, b in zip(params, before, strict=True)).sqrt()
    return (moved / sum(value.square().sum() for value in before).sqrt()).item()


@pytest.mark.parametrize("name", ["sgd-sgdn", "sgdn-adam", "adam-sgdn"])
@pytest.mark.parametrize(("alpha0", "expected"), [(1e-9, 1e-2), (1e9, 3e-2)])
def test_the_first_step_is_brought_into_its_range(problem, name, alpha0, expected):
    params = problem.initial()
    optimizer = hypergrad.create(name, params, lr=alpha0, rule="cosine", first_relative_step=RANGE)
    assert relative_step(params, optimizer, problem.gradients(params, 0)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", [hypergrad.SGD, hypergrad.Adam, hypergrad.AdamW, hypergrad.Muon])
@pytest.mark.parametrize("alpha0", [1e-9, 1e-3, 1e9])
def test_the_first_step_of_a_class_as_it_comes(problem, kind, alpha0):
    params = problem.initial()
    share = relative_step(params, kind(params, lr=alpha0), problem.gradients(params, 0))
    assert share == pytest.approx(0.025, rel=1e-9)


def test_a_first_step_within_its_range_is_left_alone(problem):
    params, twins = problem.initial(), problem.initial()
    problem.train(hypergrad.Adam(params, lr=0.01, first_relative_step=RANGE), params, range(1))
    problem.train(torch.optim.Adam(twins, lr=0.01), twins, range(1))
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_no_step_is_longer_than_its_share_of_the_parameters(problem):
    """Gradients that grow a millionfold from one step to the next."""
    params = problem.initial()
    optimizer = hypergrad.SGD(params, momentum=0.9, nesterov=True)
    for step in range(12):
        grads = [grad * 10 ** (step % 7) for grad in problem.gradients(params, step)]
        share = relative_step(params, optimizer, grads)
        assert share <= (0.025 if step == 0 else 0.1) * (1 + 1e-9)


def test_tensors_of_zeros_move():
    """All of a group's parameters are zero at first: their size then counts as 0.001 per element."""
    zeros = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = hypergrad.AdamW([zeros], lr=1.0)
    for _ in range(300):
        zeros.grad = zeros.detach() - 1
        optimizer.step()
    torch.testing.assert_close(zeros.detach(), torch.ones(5, dtype=torch.float64), rtol=0.1, atol=0)


def test_a_gradient_of_zero_at_first_leaves_the_first_step_to_the_next(problem):
    params = problem.initial()
    optimizer = hypergrad.SGD(params, lr=1e-9)
    zeros = [torch.zeros_like(param) for param in params]
    assert relative_step(params, optimizer, zeros) == 0
    assert optimizer.learning_rates[0] == 1e-9
    share = relative_step(params, optimizer, problem.gradients(params, 0))
    assert share == pytest.approx(0.025, rel=1e-9)


def test_a_tensor_that_comes_late_does_not_begin_anew(problem):
    """The α that it shares has been learned by then."""
    params = problem.initial()
    optimizer = hypergrad.Adam(params, lr=1e-9, max_relative_step=math.inf)
    problem.train(optimizer, params, range(30), {step: {0} for step in range(30)})
    learned = optimizer.learning_rates[0]
    problem.train(optimizer, params, range(30, 31), {30: {1, 2, 3}})
    assert learned > 0.002
    torch.testing.assert_close(optimizer.learning_rates[0], learned, rtol=0.3, atol=0)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, (1e-9, 1e-3, 1e3)),
        ({"first_relative_step": RANGE}, (1e-6, 1e-9)),
        ({"first_relative_step": RANGE}, (1.0, 1e3)),
    ],
)
def test_first_rates_on_one_side_of_the_range_give_one_run(problem, options, rates):
    """As it comes the range is one value, so all α₀ do."""
    ends = []
    for alpha0 in rates:
        params = problem.initial()
        problem.train(hypergrad.AdamW(params, lr=alpha0, **options), params, range(60))
        ends.append(params)
    for others in ends[1:]:
        for a, b in zip(ends[0], others, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd-sgdn", "sgdn-sgdn", "adam-adam"])
def test_a_state_resumes(problem, name):
    params = problem.initial()
    optimizer = hypergrad.create(name, params, rule="cosine", granularity="tensor")
    problem.train(optimizer, params, range(10))
    saved = copy.deepcopy(optimizer.state_dict())
    twins = [param.detach().clone().requires_grad_() for param in params]
    other = hypergrad.create(name, twins)
    other.load_state_dict(saved)
    problem.train(optimizer, params, range(10, 20), {12: {1}})
    problem.train(other, twins, range(10, 20), {12: {1}})
    assert torch.equal(optimizer.learning_rates[0], other.learning_rates[0])
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_a_state_of_torch_loads(problem):
    params = problem.initial()
    optimizer = torch.optim.AdamW(params, lr=0.01)
    problem.train(optimizer, params, range(10))
    ours = hypergrad.AdamW(params)
    ours.load_state_dict(optimizer.state_dict())
    problem.train(ours, params, range(10, 40))
    assert ours.param_groups[0]["trace_decay"] == 0.99
    assert all(torch.isfinite(param).all() for param in params)


@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-sgdn"])
def test_a_step_that_overflowed_changes_nothing(problem, name):
    params = problem.initial()
    optimizer = hypergrad.create(name, params, rule="cosine", fused=True)
    problem.train(optimizer, params, range(3))
    kept = copy.deepcopy((optimizer.state_dict(), params))
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    problem.train(optimizer, params, range(3, 4))
    state, values = optimizer.state_dict(), params
    torch.testing.assert_close(state["state"], kept[0]["state"], rtol=0, atol=0)
    assert torch.equal(state["param_groups"][0]["lr"], kept[0]["param_groups"][0]["lr"])
    assert all(torch.equal(a, b) for a, b in zip(values, kept[1], strict=True))


def test_complex_parameters_count_as_pairs_of_real_numbers():
    torch.manual_seed(0)
    value = torch.randn(3, dtype=torch.complex128)
    whole, pairs = value.clone().requires_grad_(), torch.view_as_real(value).clone().requires_grad_()
    optimizers = [hypergrad.AdamW([param], lr=1e-6) for param in (whole, pairs)]
    for _ in range(20):
        grad = torch.randn(3, dtype=torch.complex128)
        whole.grad, pairs.grad = grad, torch.view_as_real(grad)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(whole.detach()), pairs.detach())


def test_what_a_rule_implies():
    param = torch.ones(2, requires_grad=True)
    group = hypergrad.Adam([param]).param_groups[0]
    assert group["trace_decay"] == 0.99
    assert (group["max_relative_step"], group["first_relative_step"]) == (0.1, (0.025, 0.025))
    for options in (
        {"rule": "additive"},
        {"rule": "additive-cosine"},
        {"lop": None},
        {"granularity": "released"},
        {"hypergrad_lr": 0.0},
    ):
        group = hypergrad.Adam([param], **options).param_groups[0]
        assert {name: group[name] for name in ONE_STEP} == ONE_STEP
    group = hypergrad.Adam([param], max_relative_step=math.inf).param_groups[0]
    assert (group["trace_decay"], group["max_relative_step"]) == (0.99, math.inf)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace_decay": 1.0}, "trace_decay must be at least 0 and below 1, got 1.0"),
        ({"max_relative_step": 0}, r"max_relative_step must be a number above 0, got 0"),
        ({"first_relative_step": (0.1, 0.01)}, "first_relative_step must be two numbers, the smaller first"),
        ({"first_relative_step": 0.1}, "first_relative_step must be two numbers"),
        ({"granularity": "released", "trace_decay": 0.5}, "granularity 'released' takes no trace_decay"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hypergrad.Adam([torch.ones(2, requires_grad=True)], **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(hypergrad.AdamW, {}), (hypergrad.Adam, {}), (hypergrad.SGD, {"momentum": 0.9, "nesterov": True})],
)
def test_the_first_rate_does_not_matter(kind, options):
    """A network of tanh on noisy minibatches: from any α₀ better than AdamW at 10 times its default."""

    def train(make):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
        optimizer = make(model.parameters())
        validation = torch.randn(1000, 6, generator=generator)

        def targets(inputs):
            return (2 * inputs[:, :1]).sin() + inputs[:, 1:2] * inputs[:, 2:3]

        view = optimizer.schedule if hasattr(optimizer, "schedule") else optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(view, lambda step: min(1, 2 - step / 250))
        for _ in range(500):
            inputs = torch.randn(32, 6, generator=generator)
            noise = 0.3 * torch.randn(32, 1, generator=generator)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets(inputs) + noise).backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            return torch.nn.functional.mse_loss(model(validation), targets(validation)).item()

    adamw = train(lambda params: torch.optim.AdamW(params, lr=0.01))
    ends = [train(lambda params, lr=lr: kind(params, lr=lr, **options)) for lr in (1e-6, 1e-3, 1e-1, 10.0)]
    assert max(ends) <= adamw
    assert max(ends) <= 1.01 * min(ends)
