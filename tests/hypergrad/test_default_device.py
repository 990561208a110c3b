"""Parameters on the CPU while torch makes new tensors on another device, and of another dtype."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch

import hypergrad
from hypergrad import directions, functional, rates
from hypergrad.reference import Reference
from hypergrad.stacked import Stacked

SHAPES = [(3, 2), (4,), ()]
OPTIONS = {
    "plain": {},
    "decoupled": {"decoupled_weight_decay": True},
    "additive-cosine": {"rule": "additive-cosine"},
    "multiplicative": {"rule": "multiplicative"},
    "bounds": {"lr_bounds": (1e-6, 1.0)},
    "everything": {
        "decoupled_weight_decay": True,
        "rule": "cosine",
        "lr_bounds": (1e-6, 1.0),
    },
}


@contextmanager
def defaults(device, dtype=torch.float64):
    """What a user may have set; the meta device stands for any but the CPU, and holds no values."""
    before = torch.get_default_dtype()
    torch.set_default_device(device)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


def values(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32) for shape in SHAPES]


def train(name, schedule, **options):
    """A training with all that surrounds it; return everything that was learned."""
    params = [value.requires_grad_() for value in values(0)]
    optimizer = hypergrad.create(name, params[:2], lr=0.01, hypergrad_lr=1e-3, weight_decay=0.1, **options)
    optimizer.add_param_group(
        {"params": params[2:], "lr": torch.tensor(0.02, dtype=torch.float32, device="cpu")}
    )
    schedulers = []
    if schedule:
        schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer.schedule, lambda step: 1 / (step + 1))]
    for step in range(6):
        if step == 3:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = hypergrad.create(name, params[:2])
            optimizer.add_param_group({"params": params[2:]})
            optimizer.load_state_dict(state)
        for index, (param, grad) in enumerate(zip(params, values(step + 1), strict=True)):
            param.grad = None if (step, index) == (4, 1) else grad
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    optimizer = copy.deepcopy(optimizer)
    state = [value for group in optimizer.param_groups for value in group.get("lop_state", {}).values()]
    return [*params, *optimizer.learning_rates, *optimizer.hypergradients, *state]


WAYS = [{}, {"fused": False}, {"foreach": False}, {"fused": True}]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "sgdn-adagrad", "adam-adam"])
def test_an_optimizer_does_not_follow_it(name, options, way):
    for granularity, schedule in (("group", False), ("tensor", True), ("released", False)):
        expected = train(name, schedule, granularity=granularity, **options, **way)
        with defaults("meta"):
            found = train(name, schedule, granularity=granularity, **options, **way)
        assert {value.device.type for value in found} == {"cpu"}
        assert [value.dtype for value in found] == [value.dtype for value in expected]
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["sgd", "sgdn-sgdn", "adam-adam"])
def test_a_stack_does_not_follow_it(name, options):
    def stack():
        members = [[value.requires_grad_() for value in values(seed)] for seed in range(3)]
        optimizers = [
            hypergrad.create(name, own, hypergrad_lr=1e-3, weight_decay=0.1, **options) for own in members
        ]
        params = [torch.stack([value.detach() for value in own]) for own in zip(*members, strict=True)]
        stacked = Stacked(optimizers, params)
        for step in range(4):
            if step == 2:
                stacked.keep([2, 0])
            stacked.step([param.cos() for param in stacked.params])
        state = stacked.state_dict(1)["state"]
        return [*stacked.tensors(), *(value for own in state.values() for value in own.values())]

    expected = stack()
    with defaults("meta"):
        found = stack()
    assert {value.device.type for value in found} == {"cpu"}
    assert all(map(torch.equal, found, expected))


def test_nor_do_functional_and_the_reference():
    def run():
        params = [torch.stack([value, value + 1]) for value in values(0)]
        state = functional.init(params, rates.Adam(), lr=0.01, members=2)
        theta = values(0)
        oracle = Reference("adam-adam", theta, 0.01, 1e-3, rule="cosine")
        for step in range(3):
            grads = values(step + 1)
            oracle.step(grads)
            functional.update(
                params,
                [torch.stack([grad, grad]) for grad in grads],
                state,
                directions.Adam(),
                rates.Adam(),
                functional.StepOptions(hypergrad_lr=1e-3),
                schedule=0.5,
            )
        return [*params, state.alpha, *state.rate.values(), *oracle.theta, *oracle.alpha, *oracle.h]

    expected = run()
    with defaults("meta"):
        found = run()
    assert {value.device.type for value in found} == {"cpu"}
    assert all(map(torch.equal, found, expected))
