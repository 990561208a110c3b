"""What steps keep for the next one, so as to be quick: it never outlives what it was made of."""

from __future__ import annotations

import copy
import math
import pickle
import weakref

import pytest
import torch

import hypergrad
from hypergrad import _alpha_update, _fast_path, directions, functional, kernels, rates

from .rules import RULES

WAYS = {"torch": {"fused": False}, "kernels": {}}
NAMES = ["sgd-sgd", "sgdn-sgdn", "adam-adam", "adam-lion"]
SHAPES = [(4, 3), (5,), ()]


@pytest.fixture(params=WAYS)
def way(request, _own_folders):
    if request.param == "kernels" and (reason := kernels.why_not()):
        pytest.skip(f"no kernels here: {reason}")
    return WAYS[request.param]


def make(name, way, dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    return params, hypergrad.create(name, params, lr=0.01, hypergrad_lr=1e-4, **way, **options)


def steps(params, optimizer, seeds):
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param)
        optimizer.step()


def learned(params, optimizer):
    group = optimizer.param_groups[0]
    state = [value for param in params for value in optimizer.state[param].values()]
    return [*params, group["lr"], group["hypergradient"], *group["lop_state"].values(), *state]


def set_option(name, value):
    def change(params, optimizer):
        optimizer.param_groups[0][name] = value

    return change


def other_data(params, optimizer):
    params[0].data = params[0].data.clone()


def same_data_in_another_shape(params, optimizer):
    # At the same address: what was known of it holds no longer.
    params[1].data = params[1].data[:3]
    for value in (states := optimizer.state[params[1]]):
        if states[value].ndim:
            states[value] = states[value][:3]


def transposed(params, optimizer):
    params[0].data = params[0].data.t()
    for key, value in optimizer.state[params[0]].items():
        if value.ndim:
            optimizer.state[params[0]][key] = value.t()


def double(params, optimizer):
    for param in params:
        param.data = param.data.double()
    optimizer.load_state_dict(optimizer.state_dict())


def other_states(params, optimizer):
    for key, value in optimizer.state[params[0]].items():
        optimizer.state[params[0]][key] = value * 0.5


def no_state(params, optimizer):
    optimizer.state.clear()


def loaded(params, optimizer):
    optimizer.load_state_dict(optimizer.state_dict())


def number_for_alpha(params, optimizer):
    optimizer.param_groups[0]["lr"] = 0.02


def double_alpha(params, optimizer):
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"].double()


def other_rule_state(params, optimizer):
    state = optimizer.param_groups[0]["lop_state"]
    for key, value in state.items():
        state[key] = value.clone()


def fewer_params(params, optimizer):
    del optimizer.param_groups[0]["params"][-1]


def scheduled(params, optimizer):
    torch.optim.lr_scheduler.ExponentialLR(optimizer.schedule, 0.5).step()


def threads(params, optimizer):
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)


CHANGES = {
    "weight decay": set_option("weight_decay", 0.1),
    "maximize": set_option("maximize", True),
    "β": set_option("hypergrad_lr", 1e-3),
    "bounds": set_option("lr_bounds", (0.0, 0.0101)),
    "additive-cosine": set_option("rule", "additive-cosine"),
    "multiplicative": set_option("rule", "multiplicative"),
    "decoupled": lambda params, optimizer: optimizer.param_groups[0].update(
        weight_decay=0.1, decoupled_weight_decay=True
    ),
    "betas in place": lambda params, optimizer: optimizer.param_groups[0]["betas"].__setitem__(0, 0.5),
    "other data": other_data,
    "same data in another shape": same_data_in_another_shape,
    "transposed": transposed,
    "double": double,
    "other states": other_states,
    "no state": no_state,
    "loaded": loaded,
    "number for α": number_for_alpha,
    "double α": double_alpha,
    "other rule state": other_rule_state,
    "fewer parameters": fewer_params,
    "scheduled": scheduled,
    "threads": threads,
}


@pytest.mark.parametrize(
    ("name", "change"),
    [(n, c) for n in NAMES for c in CHANGES if c != "betas in place" or n.startswith("adam")],
)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_a_change_is_noticed(name, change, way):
    """As by an optimizer that forgets before every step all that it need not remember."""
    count, runs = torch.get_num_threads(), []
    for forgetful in (False, True):
        options = {"betas": [0.9, 0.999]} if change == "betas in place" else {}
        params, optimizer = make(name, way, **options)
        if forgetful:
            optimizer.register_step_pre_hook(lambda one, *_: one._forget_settings())
        try:
            steps(params, optimizer, range(3))
            CHANGES[change](params, optimizer)
            steps(params, optimizer, range(3, 6))
        finally:
            torch.set_num_threads(count)
        runs.append(learned(params, optimizer))
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_goes_its_own_way(name, copied, way):
    params, optimizer = make(name, way)
    steps(params, optimizer, range(3))
    own, other = copied((params, optimizer))
    before = [value.clone() for value in learned(params, optimizer)]
    steps(own, other, range(3, 6))
    assert all(map(torch.equal, learned(params, optimizer), before))
    steps(params, optimizer, range(3, 6))
    assert all(map(torch.equal, learned(params, optimizer), learned(own, other)))


def test_gradients_are_let_go(way):
    params, optimizer = make("adam-sgd", way)
    steps(params, optimizer, range(3))
    gradient = weakref.ref(params[0].grad)
    optimizer.zero_grad()
    assert gradient() is None


def test_a_missing_gradient_is_noticed(way):
    params, optimizer = make("adam-adam", way)
    steps(params, optimizer, range(3))
    before, params[0].grad = params[0].detach().clone(), None
    optimizer.step()
    assert torch.equal(params[0], before)


@pytest.mark.parametrize("bounds", [None, (0.09, 0.11)])
@pytest.mark.parametrize("rule", ["additive", "additive-cosine", "multiplicative", "cosine"])
@pytest.mark.parametrize("lop", RULES)
def test_numbers_learn_what_tensors_do(lop, rule, bounds):
    rate, normalize = RULES[lop].other, rule.endswith("cosine")
    options = functional.StepOptions(hypergrad_lr=0.01, rule=rule, lr_bounds=bounds)
    alphas = [torch.tensor(0.1, dtype=torch.float64) for _ in range(2)]
    states = [rate.init(alpha.new_zeros(())) for alpha in alphas]
    for value in [0.0, 0.3, -0.2, 1.0, 0.1]:
        sums = (-value, 1.0, 0.25) if normalize else (-value,)
        h = _fast_path.learn(sums, alphas[0], rate, states[0], options)
        assert float(h) == (2 * value if normalize else value)
        _alpha_update.learn(alphas[1], h, rate, states[1], options, present=[0], total=1)
        torch.testing.assert_close(alphas[0], alphas[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(states[0], states[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [1e300, -1e300, math.inf, math.nan])
@pytest.mark.parametrize("rule", ["additive", "multiplicative"])
@pytest.mark.parametrize("lop", RULES)
def test_a_diverging_alpha_is_no_error(lop, rule, value):
    rate, alpha = RULES[lop].other, torch.tensor(0.1)
    state = rate.init(alpha.new_zeros(()))
    options = functional.StepOptions(hypergrad_lr=1.0, rule=rule)
    for _ in range(3):
        _fast_path.learn((value,), alpha, rate, state, options)
    if lop == "sgd":
        assert not math.isfinite(alpha) or alpha == 0


class Halved(rates.Adam):
    """A rule of a user's own: half of Adam's step."""

    __slots__ = ()

    def update(self, h, state):
        return super().update(h, state) / 2


def test_a_rule_of_ones_own_is_used_as_it_is(way):
    """Where Adam, which it derives from, would be learned by numbers or in C."""
    ends = []
    for rate, beta in ((Halved(), 2e-3), (rates.Adam(), 1e-3)):
        params, _ = make("sgd-sgd", way)
        state = functional.init(params, rate, lr=0.01)
        options = functional.StepOptions(hypergrad_lr=beta, **way)
        for step in range(4):
            grads = [(param + step).cos() for param in params]
            functional.update(params, grads, state, directions.SGD(), rate, options)
        ends.append([state.alpha, *params])
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-8)
    assert abs(ends[0][0] / 0.01 - 1) > 0.01
