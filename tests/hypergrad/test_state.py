"""state_dict, copies, and where α and its state live."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

import hypergrad

GRANULARITIES = ("group", "tensor", "released")
MISSING = {3: {1}, 12: {0, 2}}


def tensors(tree, path=()):
    """Every tensor in nested dicts and lists, with its path."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from tensors(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from tensors(value, (*path, index))


def through_a_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def make(problem, name, params, **options):
    alpha0, beta = problem.rates(name)
    return hypergrad.create(name, params, lr=alpha0, hypergrad_lr=beta, weight_decay=0.01, **options)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", hypergrad.NAMES)
def test_a_saved_state_continues_bit_for_bit(problem, name, granularity):
    params = problem.initial()
    optimizer = make(problem, name, params, granularity=granularity)
    problem.train(optimizer, params, range(10), MISSING)
    saved = optimizer.state_dict()
    stored, weights = through_a_file(saved), [p.detach().clone() for p in params]
    problem.train(optimizer, params, range(10, 20), MISSING)

    # The snapshot has not moved with the training: it still equals what was stored.
    now, then = dict(tensors(saved)), dict(tensors(stored))
    assert now.keys() == then.keys()
    assert all(torch.equal(now[path], then[path]) for path in then)

    resumed = [w.clone().requires_grad_() for w in weights]
    other = hypergrad.create(name, resumed)  # every option comes from the state
    other.load_state_dict(stored)
    problem.train(other, resumed, range(10, 20), MISSING)
    assert same(params, resumed)
    assert same(optimizer.learning_rates, other.learning_rates)
    assert same(optimizer.hypergradients, other.hypergradients)
    # Nor has the loaded dict moved with the training that it started.
    assert all(torch.equal(tensor, now[path]) for path, tensor in tensors(stored))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("name", ["sgd", "sgdn-sgdn", "adam-adam"])
def test_copies_are_independent_and_continue_alike(problem, name, copied):
    params = problem.initial()
    optimizer = make(problem, name, params)
    problem.train(optimizer, params, range(5))
    twin_params, twin = copied((params, optimizer))
    problem.train(optimizer, params, range(5, 10))
    before = [p.detach().clone() for p in twin_params]
    problem.train(twin, twin_params, range(5, 10))
    assert not same(before, params)
    assert same(params, twin_params)
    assert same(optimizer.learning_rates, twin.learning_rates)
    twin.state_dict()
    twin.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_low_precision_parameters_keep_a_float32_rate(problem, name, granularity, dtype):
    params = problem.initial(dtype)
    # Adam's default eps is 0 in float16, as with torch.optim.
    eps = {"eps": 1e-3} if name.startswith("adam") else {}
    optimizer = make(problem, name, params, granularity=granularity, **eps)
    problem.train(optimizer, params, range(5))
    fresh = hypergrad.create(name, params)
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    for each in (optimizer, fresh):
        group = each.param_groups[0]
        assert group["lr"].dtype == torch.float32
        assert group["hypergradient"].dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in group["lop_state"].values())
        assert {p.dtype for p in params} == {dtype}
    assert same(optimizer.learning_rates, fresh.learning_rates)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_low_precision_parameters_move_by_the_float32_rate(granularity, fused):
    """In bfloat16 1.0035 is 1.0, and the step would be 255."""
    param = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    optimizer = hypergrad.SGD([param], lr=1.0035, hypergrad_lr=0.0, granularity=granularity, fused=fused)
    param.grad = torch.full_like(param, 255.0)
    optimizer.step()  # 255 × 1.0035 = 255.9, and bfloat16 has the whole numbers there
    assert param.tolist() == [-256.0] * 3


def test_the_dot_product_accumulates_in_float32():
    """A sum of 4096 ones stops at 256 in bfloat16."""
    param = torch.zeros(4096, dtype=torch.bfloat16, requires_grad=True)
    optimizer = hypergrad.SGD([param], lr=0.0, hypergrad_lr=0.0, rule="additive")
    for _ in range(2):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert optimizer.hypergradients[0].item() == -4096.0


def test_each_group_has_a_rate_of_its_own(problem):
    params = problem.initial()
    groups = [{"params": params[:2]}, {"params": params[2:], "hypergrad_lr": 0.0}]
    optimizer = hypergrad.SGD(groups, lr=torch.tensor(0.02), hypergrad_lr=1e-3)
    problem.train(optimizer, params, range(5))
    first, second = optimizer.learning_rates
    assert abs(first / 0.02 - 1) > 1e-3
    assert second.item() == pytest.approx(0.02, rel=1e-7)


def test_a_checkpoint_of_torch_adam_can_be_taken_over(problem):
    params = problem.initial()
    before = torch.optim.Adam(params, lr=0.01)
    problem.train(before, params, range(5))
    optimizer = hypergrad.Adam(params, lop="adam", rule="additive", hypergrad_lr=1e-4)
    optimizer.load_state_dict(before.state_dict())
    problem.train(optimizer, params, range(5, 7))
    assert optimizer.hypergradients[0] != 0
    assert optimizer.state[params[0]]["step"] == 7
    assert 0 < abs(optimizer.learning_rates[0] / 0.01 - 1) < 0.1


def test_assignments_set_the_rate(problem):
    params = problem.initial()
    optimizer = hypergrad.Adam(params, lr=0.01, hypergrad_lr=1e-5, lop="sgd", rule="additive")
    problem.train(optimizer, params, range(3))
    optimizer.param_groups[0]["lr"] = 0.25
    problem.train(optimizer, params, range(3, 4))
    assert optimizer.learning_rates[0].item() == pytest.approx(
        0.25 - 1e-5 * optimizer.hypergradients[0].item(), rel=1e-12
    )


def test_adam_keeps_nothing_beyond_its_moments(problem):
    params = problem.initial()
    optimizer = hypergrad.create("adam-adam", params)
    problem.train(optimizer, params, range(2))
    assert set(optimizer.state[params[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    for name, keys in {"sgd": set(), "sgd-sgd": {"direction"}, "sgdn": {"momentum_buffer"}}.items():
        optimizer = hypergrad.create(name, params)
        problem.train(optimizer, params, range(2))
        assert set(optimizer.state[params[0]]) == keys


def other_width(name, options=None, **kwargs):
    """The state of a model whose second layer had another width, and an optimizer of today's."""
    optimizers = []
    for width in (8, 2):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, width))
        params = kwargs.get("of", lambda model: model.parameters())(model)
        optimizer = hypergrad.create(name, params, **(options or {}))
        model(torch.ones(5, 3)).sum().backward()
        optimizer.step()
        optimizers.append((model, optimizer))
    return optimizers


@pytest.mark.parametrize("fused", [None, False, True])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sgd-sgd", "direction"),
        ("sgdn", "momentum_buffer"),
        ("sgdn-sgdn", "momentum_buffer"),
        ("adam", "exp_avg"),
    ],
)
def test_a_state_of_another_shape_is_named(name, key, fused):
    (_, before), (model, optimizer) = other_width(name, {"fused": fused})
    kept, weights = optimizer.state_dict(), [param.detach().clone() for param in model.parameters()]
    message = rf"parameter 2 of group 0 has shape \(2, 4\), but its '{key}' in the state has shape \(8, 4\)"
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(before.state_dict())
    # Nothing was loaded, and training goes on.
    now = optimizer.state_dict()
    assert dict(tensors(now)).keys() == dict(tensors(kept)).keys()
    assert all(torch.equal(value, dict(tensors(now))[path]) for path, value in tensors(kept))
    optimizer.step()
    assert not same(model.parameters(), weights)


def test_a_state_of_another_shape_is_named_by_the_parameters_name():
    groups = [{"params": [], "lr": 0.1}, {"params": []}]

    def named(model):
        return [
            dict(groups[i], params=list(part.named_parameters(f"layers.{i}"))) for i, part in enumerate(model)
        ]

    (_, before), (_, optimizer) = other_width("adam-adam", of=named)
    message = (
        r"parameter 'layers.1.weight' has shape \(2, 4\), but its 'exp_avg' in the state has shape \(8, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(before.state_dict())


def test_a_checkpoint_of_torch_that_does_not_fit_is_named():
    params = [torch.ones(8, 4, requires_grad=True)]
    before = torch.optim.Adam(params)
    params[0].grad = torch.ones(8, 4)
    before.step()
    with pytest.raises(ValueError, match="'exp_avg' in the state has shape"):
        hypergrad.Adam([torch.ones(2, 4, requires_grad=True)]).load_state_dict(before.state_dict())


def test_a_learning_rate_of_another_shape_is_named():
    """α per tensor, of a group of as many tensors whose rates were cut off."""
    params = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = hypergrad.SGD(params, granularity="tensor", lop="sgdn")
    for key in ("lr", "hypergradient"):
        state = optimizer.state_dict()
        state["param_groups"][0][key] = torch.ones(3)
        with pytest.raises(ValueError, match=rf"group 0 .*{key}.* has shape \(3,\), not \(2,\)"):
            optimizer.load_state_dict(state)
    state = optimizer.state_dict()
    state["param_groups"][0]["lop_state"]["momentum_buffer"] = torch.ones(3)
    with pytest.raises(
        ValueError, match=r"group 0 .*lop_state.*momentum_buffer.* has shape \(3,\), not \(2,\)"
    ):
        optimizer.load_state_dict(state)


def test_a_gradient_or_state_that_does_not_fit_is_named_by_a_step():
    params = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
    optimizer = hypergrad.Adam([("first", params[0]), ("second", params[1])])
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.state[params[1]]["exp_avg_sq"] = torch.zeros(4)
    with pytest.raises(
        ValueError, match=r"parameter 'second' has shape \(3,\), but its 'exp_avg_sq' .* \(4,\)"
    ):
        optimizer.step()
