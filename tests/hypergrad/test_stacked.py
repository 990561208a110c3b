"""Optimizers stacked on a member axis against the same optimizers one by one."""

from __future__ import annotations

import pytest
import torch

import hypergrad
from hypergrad.stacked import Stacked

MEMBERS, STEPS = 4, 12
OPTIONS = [
    {},
    {"granularity": "tensor"},
    {"granularity": "released"},
    {"decoupled_weight_decay": True},
    {"rule": "multiplicative", "granularity": "tensor"},
    {"rule": "additive-cosine"},
    {"lr_bounds": (0.009, 0.0251), "granularity": "released"},
    {"maximize": True},
]


def gradients(params, step):
    """Of a function whose centre moves with the step; the same with and without a member axis."""
    return [(param - 0.1 * step).tanh() + 0.3 * param.cos() for param in params]


def make(name, member, params, options):
    return hypergrad.create(
        name,
        params,
        lr=0.01 * (1 + member / 2),
        weight_decay=0.1,
        **({"hypergrad_lr": 1e-4 / (1 + member), **options} if "-" in name else {}),
    )


def starts():
    random = torch.Generator().manual_seed(0)
    return [
        [torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((3, 2), (5,))]
        for _ in range(MEMBERS)
    ]


def alone(name, options, steps):
    optimizers = []
    for member, start in enumerate(starts()):
        params = [torch.nn.Parameter(tensor) for tensor in start]
        optimizer = make(name, member, params, options)
        for step in range(steps):
            with torch.no_grad():
                for param, grad in zip(params, gradients(params, step), strict=True):
                    param.grad = grad
            optimizer.step()
        optimizers.append((optimizer, params))
    return optimizers


def stack(name, options, states=None):
    optimizers, members = [], starts()
    for member, start in enumerate(members):
        params = [torch.nn.Parameter(tensor) for tensor in start]
        optimizer = make(name, member, params, options)
        if states is not None:
            optimizer.load_state_dict(states[member])
        optimizers.append(optimizer)
    return Stacked(optimizers, [torch.stack(tensors) for tensors in zip(*members, strict=True)])


def assert_member(stacked, index, optimizer, params):
    for together, single in zip(stacked.params, params, strict=True):
        torch.testing.assert_close(together[index], single.detach(), rtol=1e-12, atol=1e-13)
    alpha, h = optimizer.learning_rates[0], optimizer.hypergradients[0]
    torch.testing.assert_close(stacked.alpha[..., index], alpha.to(torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(stacked.hypergradient[..., index], h.to(torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 1 << 19])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_members_move_as_alone_and_so_do_those_that_are_kept(name, options, block_bytes, monkeypatch):
    monkeypatch.setattr("hypergrad.stacked.BLOCK_BYTES", block_bytes)
    singles, stacked, kept = alone(name, options, STEPS), stack(name, options), [3, 0]
    for step in range(STEPS):
        stacked.step(gradients(stacked.params, step))
        if step == STEPS // 2:
            assert stacked.params[0].shape[0] == MEMBERS
            stacked.keep(kept)
    for index, member in enumerate(kept):
        assert_member(stacked, index, *singles[member])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_a_members_state_is_that_of_its_own_optimizer(name, options):
    halfway, whole = alone(name, options, STEPS // 2), alone(name, options, STEPS)
    stacked = stack(name, options)
    for step in range(STEPS // 2):
        stacked.step(gradients(stacked.params, step))
    states = [stacked.state_dict(member) for member in range(MEMBERS)]
    for state, (optimizer, _) in zip(states, halfway, strict=True):
        theirs = optimizer.state_dict()
        assert state["param_groups"][0].keys() == theirs["param_groups"][0].keys()
        assert [own.keys() for own in state["state"].values()] == [
            own.keys() for own in theirs["state"].values()
        ]
    again = stack(name, options, states)
    again.params = [param.clone() for param in stacked.params]
    again.keep(range(MEMBERS))
    for step in range(STEPS // 2, STEPS):
        again.step(gradients(again.params, step))
    for member in range(MEMBERS):
        assert_member(again, member, *whole[member])


def test_what_does_not_stack_is_refused():
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    stacked = [torch.zeros(2, 2)]
    sgd = [hypergrad.SGD([param]) for param in params]
    with pytest.raises(ValueError, match="at least one"):
        Stacked([], stacked)
    with pytest.raises(ValueError, match=r"all be hypergrad\.SGD or all hypergrad\.Adam, got SGD and Adam"):
        Stacked([sgd[0], hypergrad.Adam([params[1]])], stacked)
    with pytest.raises(ValueError, match="got SGD and SGD"):
        Stacked([torch.optim.SGD([param]) for param in params], stacked)
    with pytest.raises(ValueError, match=r"optimizers\[1\] has momentum=0.5, optimizers\[0\] has 0.0"):
        Stacked([sgd[0], hypergrad.SGD([params[1]], momentum=0.5)], stacked)
    with pytest.raises(ValueError, match=r"not those of optimizers\[0\] stacked"):
        Stacked(sgd, [torch.zeros(2, 3)])
    two = hypergrad.SGD([{"params": [params[0]]}, {"params": [params[1]]}])
    with pytest.raises(ValueError, match="has 2 parameter groups"):
        Stacked([two], [torch.zeros(1, 2)])
    adams = [hypergrad.Adam([param]) for param in params]
    params[1].grad = torch.ones(2)
    adams[1].step()
    with pytest.raises(ValueError, match="equally many steps"):
        Stacked(adams, stacked)
