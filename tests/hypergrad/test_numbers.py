"""Whatever ``float`` takes is a number, where an optimizer is made and in its ``param_groups``."""

from __future__ import annotations

import io
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import hypergrad
from hypergrad import directions, functional, rates


class Own:
    def __init__(self, value):
        self.value = value

    def __float__(self):
        return float(self.value)


KINDS = {
    "float32": np.float32,
    "float64": np.float64,
    "0-d array": lambda value: np.array(value),
    "Fraction": Fraction,
    "Decimal": Decimal,
    "own": Own,
}
# Each is a sum of powers of 2, so that no kind of number rounds it.
NUMBERS = {
    "hypergrad_lr": 2.0**-10,
    "weight_decay": 0.125,
    "momentum": 0.75,
    "eps": 2.0**-20,
    "lop_momentum": 0.5,
    "lop_eps": 2.0**-12,
    "betas": (0.5, 0.75),
    "lop_betas": (0.25, 0.875),
    "lr_bounds": (0.0, 0.125),
}
LR = 2.0**-6


def kept_by(name, options):
    other = {"eps", "betas"} if name.startswith("sgd") else {"momentum"}
    return {key: value for key, value in options.items() if key not in other}


def of_kind(kind, value):
    return tuple(map(kind, value)) if isinstance(value, tuple) else kind(value)


def make(name, options, lr=LR):
    params = [torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_(), torch.ones(3, requires_grad=True)]
    kind = hypergrad.Adam if name.startswith("adam") else hypergrad.SGD
    _, _, lop = name.partition("-")
    return params, kind(params, lr=lr, lop=lop or None, rule="additive", **kept_by(name, options))


def train(params, optimizer, steps=4):
    for step in range(steps):
        for param in params:
            param.grad = (param.detach() + step).cos()
        optimizer.step()
    return [*(param.detach() for param in params), *optimizer.learning_rates]


NAMES = ["sgd", "sgd-sgdn", "sgd-adagrad", "adam", "adam-adam", "adam-lion"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_constructor_takes_them(name, kind):
    expected = train(*make(name, NUMBERS))
    options = {key: of_kind(kind, value) for key, value in NUMBERS.items()}
    params, optimizer = make(name, options, kind(LR))
    assert all(map(torch.equal, train(params, optimizer), expected))
    group = optimizer.param_groups[0]
    for key in kept_by(name, NUMBERS):
        assert group[key] == NUMBERS[key]
        assert {type(x) for x in (group[key] if isinstance(group[key], tuple) else [group[key]])} == {float}
    # Plain numbers, so the state is read back without any other package.
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("way", [{}, {"fused": False}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_param_groups_take_them(name, kind, way):
    runs = []
    for convert in (float, kind):
        params, optimizer = make(name, way)
        train(params, optimizer, 2)
        group = optimizer.param_groups[0]
        group.update({key: of_kind(convert, value) for key, value in kept_by(name, NUMBERS).items()})
        group["lr"] = convert(LR)
        runs.append(train(params, optimizer))
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("name", ["sgd", "adam-adam"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_group_that_is_added_takes_them(name, kind):
    _, optimizer = make(name, {})
    added = torch.ones(2, requires_grad=True)
    optimizer.add_param_group({"params": [added], "lr": kind(0.5), "weight_decay": kind(0.25)})
    added.grad = torch.ones(2)
    optimizer.step()
    if name == "sgd":
        torch.testing.assert_close(added.detach(), torch.full((2,), 1 - 0.5 * 1.25))
    assert float(optimizer.param_groups[1]["lr"]) == 0.5


@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "adam", "adam-adam"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_schedule_may_return_them(name, kind):
    runs = []
    for convert in (float, kind):
        params, optimizer = make(name, {})
        view = optimizer.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(view, lambda step: convert(0.5**step))  # noqa: B023
        for _ in range(3):
            found = train(params, optimizer, 1)
            scheduler.step()
        runs.append(found)
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("rate", [None, rates.Adam(), rates.AdaGrad()])
def test_functional_takes_them(rate, kind):
    runs = []
    for convert in (float, kind):
        params = [torch.linspace(-1, 1, 6)]
        state = functional.init(params, rate, lr=convert(LR))
        if rate is None:
            state.alpha = convert(LR)
        for step in range(3):
            options = functional.StepOptions(
                hypergrad_lr=convert(2.0**-10),
                weight_decay=convert(0.125),
                lr_bounds=(convert(0), convert(1)),
            )
            grads = [(param + step).cos() for param in params]
            schedule = convert(0.5)
            functional.update(params, grads, state, directions.SGD(), rate, options, schedule=schedule)
        runs.append(params)
    assert all(map(torch.equal, *runs))


def test_a_tensor_is_a_number():
    params, optimizer = make(
        "sgd-sgd", {"momentum": torch.tensor(0.75), "hypergrad_lr": torch.tensor(2.0**-10)}
    )
    expected = train(*make("sgd-sgd", {"momentum": 0.75, "hypergrad_lr": 2.0**-10}))
    assert all(map(torch.equal, train(params, optimizer), expected))
    # One that is put into a group may change in place.
    params, optimizer = make("sgd-sgd", {})
    other_params, other = make("sgd-sgd", {})
    decay = optimizer.param_groups[0]["weight_decay"] = torch.tensor(0.125)
    other.param_groups[0]["weight_decay"] = 0.125
    train(params, optimizer), train(other_params, other)
    decay.fill_(0.25)
    other.param_groups[0]["weight_decay"] = 0.25
    assert all(map(torch.equal, train(params, optimizer), train(other_params, other)))


@pytest.mark.parametrize(
    "value", ["0.1", b"0.1", None, 1j, [0.1], np.ones(2), np.float32("nan"), -np.float32(1)]
)
def test_what_is_no_number_is_named(value):
    params = [torch.ones(2, requires_grad=True)]
    for key in ("lr", "hypergrad_lr", "weight_decay", "momentum"):
        if key == "hypergrad_lr" and value is None:
            continue  # the default of the rule
        with pytest.raises(ValueError, match=f"{key} must be a finite number, at least 0, got"):
            hypergrad.SGD(params, **{key: value})


@pytest.mark.parametrize("key", ["hypergrad_lr", "weight_decay", "momentum", "lr"])
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd"])
def test_what_is_no_number_is_named_in_a_group_too(name, key):
    params, optimizer = make(name, {})
    train(params, optimizer, 1)
    optimizer.param_groups[0][key] = "fast"
    with pytest.raises(ValueError, match=f"{key} must be a number, got 'fast'"):
        train(params, optimizer, 1)
