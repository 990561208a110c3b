"""Tensors that rest: h at a step is the slope of the loss along the last step, by autograd, and no other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

import hypergrad
from hypergrad.stacked import Stacked


class Experts(nn.Module):
    """One shared layer and two experts, of which each step uses one, in turn."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 5)
        self.experts = nn.ModuleList(nn.Linear(5, 2) for _ in range(2))

    def prepare(self, step):
        self.chosen = step % 2

    def forward(self, inputs):
        return self.experts[self.chosen](torch.tanh(self.shared(inputs)))


class LayerDrop(nn.Module):
    """Four residual layers, of which each step leaves out some; in step 5 it leaves out all."""

    KEPT = ((0, 1, 2, 3), (0, 2), (1, 2, 3), (3,), (0, 1, 2, 3), (), (0, 1), (0, 1, 2, 3), (2,), (1, 2))

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def prepare(self, step):
        self.kept = self.KEPT[step % len(self.KEPT)]

    def forward(self, inputs):
        for index in self.kept:
            inputs = inputs + torch.tanh(self.layers[index](inputs))
        return inputs[:, :2] * inputs[:, 2:]


class Unfreezing(nn.Module):
    """Two layers; the first is frozen from step 3 to step 6."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

    def prepare(self, step):
        self.body.requires_grad_(not 3 <= step < 7)

    def forward(self, inputs):
        return self.head(torch.tanh(self.body(inputs)))


MODELS = {"experts": Experts, "layer drop": LayerDrop, "unfreezing": Unfreezing}
WAYS = [{}, {"fused": False}, {"foreach": True}, {"foreach": False}, {"fused": True}]
OPS = {
    "sgd": ("sgd-sgd", {}),
    "heavy ball": ("sgdn-sgd", {"nesterov": False}),
    "sgdn": ("sgdn-sgd", {}),
    "adam": ("adam-sgd", {}),
}
OPTIONS = {
    "plain": {},
    "coupled": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
}


def make(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().double()
    batches = [(torch.randn(8, 4).double(), torch.randn(8, 2).double()) for _ in range(10)]
    return model, batches


def loss(model, batch, weights=None):
    inputs, targets = batch
    outputs = model(inputs) if weights is None else functional_call(model, weights, (inputs,))
    return ((outputs - targets) ** 2).mean()


def slopes(model, batch, moves, penalty):
    """dL/dα_i at θ_i = origin_i − α_i d_i, for each tensor; 0 for one that has no move or no gradient."""
    alphas = [move[1].clone().requires_grad_() for move in moves]
    weights, squares = {}, torch.zeros((), dtype=torch.float64)
    for (name, param), alpha, (origin, _, d) in zip(model.named_parameters(), alphas, moves, strict=True):
        weights[name] = param.detach()
        if param.grad is not None:
            weights[name] = origin - alpha * d
            squares = squares + (weights[name] ** 2).sum()
    value = loss(model, batch, weights) + penalty / 2 * squares
    found = torch.autograd.grad(value, alphas, allow_unused=True)
    return torch.stack([torch.zeros((), dtype=torch.float64) if x is None else x for x in found])


def train(model, batches, optimizer, granularity, scheduler=None):
    """Step and compare h with autograd; return how often a tensor that had rested was counted as resting."""
    params, rested = list(model.parameters()), 0
    moves = [(p.detach().clone(), torch.ones((), dtype=torch.float64), torch.zeros_like(p)) for p in params]
    for step, batch in enumerate(batches):
        model.prepare(step)
        optimizer.zero_grad()
        value = loss(model, batch)
        if value.requires_grad:
            value.backward()
        before = [param.detach().clone() for param in params]
        optimizer.step()
        present = [param.grad is not None for param in params]
        if not any(present):
            continue  # nothing of the group moves: this is no step of its α
        group = optimizer.param_groups[0]
        coupled = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        with torch.no_grad():
            after = [param.clone() for param in params]
            torch._foreach_copy_(params, before)
        expected = slopes(model, batch, moves, coupled)
        with torch.no_grad():
            torch._foreach_copy_(params, after)
        h = optimizer.hypergradients[0]
        if granularity == "tensor":
            expected = torch.where(torch.tensor(present), expected, 0.0)
        else:
            expected = expected.sum()
        torch.testing.assert_close(h, expected, rtol=1e-8, atol=1e-13)
        for index, (param, origin) in enumerate(zip(params, before, strict=True)):
            alpha = optimizer.learning_rates[0]
            alpha = alpha[index] if granularity == "tensor" else alpha
            if present[index]:
                rested += granularity != "tensor" and not moves[index][2].any() and step > 0
                moves[index] = (origin, alpha, (origin - param.detach()) / alpha)
            elif granularity != "tensor":
                # What moves by one α is at rest in this step. A tensor with an α of its own rests with it.
                moves[index] = (param.detach().clone(), alpha, torch.zeros_like(param))
        if scheduler is not None:
            scheduler.step()
    return rested


def create(op, model, granularity, **options):
    name, more = OPS[op]
    beta = 0.0 if granularity == "released" else 1e-4  # whose α within a step is not to be seen
    return hypergrad.create(
        name, model.parameters(), lr=0.05, hypergrad_lr=beta, granularity=granularity, **options | more
    )


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", MODELS)
def test_h_is_the_slope_along_the_last_step(kind, op, granularity, way):
    for options in OPTIONS.values():
        model, batches = make(kind)
        optimizer = create(op, model, granularity, **options, **way)
        rested = train(model, batches, optimizer, granularity)
        assert rested or granularity == "tensor"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("kind", MODELS)
def test_h_under_a_schedule(kind, granularity, options):
    for op in OPS:
        model, batches = make(kind)
        optimizer = create(op, model, granularity, **options)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer.schedule, 0.2, total_iters=6)
        train(model, batches, optimizer, granularity, scheduler)


def test_by_hand():
    """θ of two entries with gradients 1 and 2; the second rests in step 1, and in step 2 was at rest."""
    a, b = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = hypergrad.SGD([a, b], lr=0.1, hypergrad_lr=0.0, rule="additive")
    seen = []
    for second in (2.0, None, 2.0, 2.0):
        a.grad = torch.ones(1, dtype=torch.float64)
        b.grad = None if second is None else torch.full((1,), second, dtype=torch.float64)
        optimizer.step()
        seen.append(optimizer.hypergradients[0].item())
    assert seen == [0.0, -1.0, -1.0, -5.0]


def test_after_two_hundred_frozen_steps():
    model, _ = make("unfreezing")
    optimizer = hypergrad.Adam(model.parameters(), lr=1e-3, hypergrad_lr=0.0, rule="additive")
    batches = [(torch.randn(8, 4).double(), torch.randn(8, 2).double()) for _ in range(205)]
    model.prepare = lambda step: model.body.requires_grad_(not 3 <= step < 203)
    train(model, batches, optimizer, "group")


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("way", [{}, {"fused": False}], ids=str)
def test_a_group_that_rests_as_a_whole_keeps_its_last_step(granularity, way):
    """Its α was last used then: h is the derivative by that α, at what the parameters are now."""
    model, batches = make("experts")
    groups = [{"params": part.parameters()} for part in (model.shared, *model.experts)]
    optimizer = hypergrad.SGD(
        groups, lr=0.05, hypergrad_lr=0.0, rule="additive", granularity=granularity, momentum=0.9, **way
    )
    last = {}
    for step, batch in enumerate(batches):
        model.prepare(step)
        optimizer.zero_grad()
        loss(model, batch).backward()
        expert = step % 2
        parts = list(model.experts[expert].parameters())
        if expert in last:
            expected = [-(param.grad * d).sum() for param, d in zip(parts, last[expert], strict=True)]
        before = [param.detach().clone() for param in parts]
        optimizer.step()
        if expert in last:
            h = optimizer.hypergradients[1 + expert]
            torch.testing.assert_close(h.sum(), torch.stack(expected).sum(), rtol=1e-9, atol=1e-13)
            assert h.abs().sum() > 0
        last[expert] = [(a - b.detach()) / 0.05 for a, b in zip(before, parts, strict=True)]


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("op", OPS)
def test_who_rested_is_part_of_the_state(op, granularity):
    """A checkpoint from the middle goes on with the same bits, whichever step it is taken after."""
    for middle in range(1, 6):
        model, batches = make("layer drop")
        optimizer = create(op, model, granularity)
        ends = []
        for step, batch in enumerate(batches[:9]):
            if step == middle:
                twin = copy.deepcopy(model)
                other = create(op, twin, granularity)
                other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for one, its in [(model, optimizer), *([(twin, other)] if step >= middle else [])]:
                one.prepare(step)
                its.zero_grad()
                value = loss(one, batch)
                if value.requires_grad:
                    value.backward()
                its.step()
        for one, its in ((model, optimizer), (twin, other)):
            ends.append([*one.parameters(), *its.learning_rates, *its.hypergradients])
        assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("op", OPS)
def test_nothing_is_remembered_once_all_move_again(op):
    """So that a step then costs what it did before."""
    model, batches = make("experts")
    optimizer = create(op, model, "group")
    before = set(optimizer.param_groups[0])
    for step, batch in enumerate(batches[:3]):
        model.prepare(step)
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    for _ in range(2):
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()
    assert set(optimizer.param_groups[0]) == before


@pytest.mark.parametrize("poisoned", [2, 3, 4])
@pytest.mark.parametrize("op", OPS)
def test_a_skipped_step_is_no_last_step(op, poisoned):
    """Whose gradients overflowed, whichever tensors had some."""
    runs = []
    for skip in (False, True):
        model, batches = make("layer drop")
        optimizer = create(op, model, "group", fused=True)
        for step, batch in enumerate(batches[:9]):
            model.prepare(step)
            optimizer.zero_grad()
            value = loss(model, batch)
            if value.requires_grad:
                value.backward()
            if skip and step == poisoned:
                kept = [param.grad for param in model.parameters()]
                for index, param in enumerate(model.parameters()):
                    param.grad = torch.full_like(param, torch.inf) if index % 3 == 0 else None
                optimizer.found_inf = torch.ones(())
                optimizer.step()
                for param, grad in zip(model.parameters(), kept, strict=True):
                    param.grad = grad
            if skip:
                optimizer.found_inf = torch.zeros(())
            optimizer.step()
        runs.append([*model.parameters(), *optimizer.learning_rates, *optimizer.hypergradients])
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("op", OPS)
def test_a_stack_takes_up_members_that_rested(op):
    """Of two members one had a tensor at rest in its last step."""
    singles = []
    for member in range(2):
        params = [torch.nn.Parameter(torch.full((3,), 1.0 + member + index).double()) for index in range(2)]
        name, more = OPS[op]
        optimizer = hypergrad.create(name, params, lr=0.05, hypergrad_lr=1e-3, **more)
        for step in range(3):
            for index, param in enumerate(params):
                rests = member == index == 1 and step == 2
                rests &= op != "adam"  # whose members must have counted equally many steps
                param.grad = None if rests else param.detach().cos() + step
            optimizer.step()
        singles.append((params, optimizer))
    stacked = Stacked(
        [optimizer for _, optimizer in singles],
        [torch.stack([a.detach(), b.detach()]) for a, b in zip(singles[0][0], singles[1][0], strict=True)],
    )
    for step in range(3, 6):
        stacked.step([param.cos() + step for param in stacked.params])
        for member, (params, optimizer) in enumerate(singles):
            for param in params:
                param.grad = param.detach().cos() + step
            optimizer.step()
            torch.testing.assert_close(
                stacked.hypergradient[member], optimizer.hypergradients[0], rtol=1e-9, atol=1e-12
            )
            state, own = stacked.state_dict(member), optimizer.state_dict()
            assert state["param_groups"][0].keys() == own["param_groups"][0].keys()
