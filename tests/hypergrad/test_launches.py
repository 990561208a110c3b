"""How many kernels a step would launch on a GPU: counted over tensors without values, by what torch is asked.

A model, not a measurement. An operation is a launch, a dot product two. A ``_foreach`` operation is one if
the lists that it is given suit each other, and else one per tensor, as in torch's slow path.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hypergrad
from hypergrad import _step_counts, directions

VIEWS = (
    "view",
    "select",
    "unbind",
    "expand",
    "reshape",
    "alias",
    "detach",
    "unsqueeze",
    "slice",
    "as_strided",
)


class Launches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.of = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        given = [value for each in args for value in (each if isinstance(each, list | tuple) else (each,))]
        on_device = any(isinstance(value, torch.Tensor) and value.is_meta for value in given)
        if not on_device:  # the host's own numbers
            return function(*args, **(kwargs or {}))
        if name.startswith("_foreach"):
            lists = [value for value in args if isinstance(value, list | tuple) and len(value)]
            tensors = [value for value in lists if isinstance(value[0], torch.Tensor)]
            together = all(
                len({(tensor.shape, tensor.stride(), tensor.dtype) for tensor in row}) == 1
                for row in zip(*tensors, strict=True)
            )
            self.of[name] += 1 if together else len(lists[0])
        elif function.namespace == "aten" and not name.startswith(VIEWS):
            self.of[name] += 2 if name == "dot" else 1
        return function(*args, **(kwargs or {}))


def vgg16_shapes():
    shapes, before = [], 3
    for width in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512):
        shapes += [(width, before, 3, 3), (width,), (width,), (width,)]
        before = width
    return [*shapes, (512, 512), (512,), (512, 512), (512,), (10, 512), (10,)]


def launches(name="adam-adam", resting=(), **options):
    """Return the launches of the third step, after ``resting`` tensors had no gradient in the second."""
    params = [torch.empty(shape, device="meta", requires_grad=True) for shape in vgg16_shapes()]
    optimizer = hypergrad.create(name, params, **options)
    for step in range(3):
        for index, param in enumerate(params):
            param.grad = None if step == 1 and index in resting else torch.empty_like(param)
        with Launches() as counted:
            optimizer.step()
    return counted.of


def test_the_model_counts_what_torch_launches():
    given = [torch.empty(3, device="meta") for _ in range(5)]
    numbers = [torch.empty((), device="meta") for _ in range(5)]
    with Launches() as counted:
        torch._foreach_mul_(given, given)
        torch._foreach_mul_(given, numbers[0])
        torch._foreach_mul_(given, 2.0)
        given[0].dot(given[1])
        given[0].view(3)
        assert counted.of.total() == 5
        torch._foreach_mul_(given, numbers)
    assert counted.of.total() == 10


@pytest.mark.parametrize("name", ["adam-adam", "adam-sgd"])
def test_adam_counted_on_the_device_needs_few_launches(name):
    """Tensors that have always moved together share a bias correction, with no list of single numbers."""
    on_host, on_device = launches(name), launches(name, capturable=True)
    assert on_host.total() <= 155
    assert on_device.total() <= 185
    # Once one of them has rested, the host cannot know that their counts are equal.
    assert launches(name, capturable=True, resting={3}).total() > 2 * on_device.total()


@pytest.fixture
def shared(monkeypatch):
    """The host takes its own counts for a device's; returns how many tensors shared each correction."""
    calls = []
    of_equal = directions.Adam._previous_of_equal_counts

    def noted(adam, states):
        calls.append(len(states))
        return of_equal(adam, states)

    monkeypatch.setattr(_step_counts, "on_host", lambda step: False)
    monkeypatch.setattr(directions.Adam, "_previous_of_equal_counts", noted)
    return calls


@pytest.mark.parametrize("name", ["adam-adam", "adam"])
def test_counts_on_a_device_give_the_same_steps(problem, shared, name):
    params, twins = problem.initial(), problem.initial()
    missing = {4: {1}, 6: {1}, 7: {2}}
    problem.train(
        hypergrad.create(name, params, lr=0.01, foreach=True, capturable=True), params, range(9), missing
    )
    assert {4, 3} == {*shared}
    problem.train(torch.optim.Adam(twins, lr=0.01), twins, range(9), missing)
    if name == "adam":
        for a, b in zip(params, twins, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-14)


def test_a_loaded_state_shares_corrections_where_counts_are_equal(problem, shared):
    params = problem.initial()
    optimizer = hypergrad.create("adam-sgd", params, foreach=True, capturable=True)
    problem.train(optimizer, params, range(3), {1: {0}})
    other = hypergrad.create("adam-sgd", params, foreach=True, capturable=True)
    other.load_state_dict(optimizer.state_dict())
    shared.clear()
    problem.train(other, params, range(3, 4))
    assert shared == []  # three of four have taken three steps
    problem.train(other, params, range(4, 5), {4: {0}})
    assert {*shared} == {3}


def test_a_count_that_died_leaves_no_token(shared):
    step = torch.zeros(())
    _step_counts.begin(step)
    assert _step_counts.are_equal([step])
    key = id(step)
    del step
    assert key not in _step_counts._TOKENS
