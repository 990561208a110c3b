"""torch.compile of the step: one graph, whatever α, the step count and a schedule's factor become."""

from __future__ import annotations

import sys

import pytest
import torch
from torch._dynamo.utils import counters

import hypergrad
from hypergrad.reference import Reference

from .rules import ONE_STEP

EVERYTHING = {
    "rule": "cosine",
    **ONE_STEP,
    "decoupled_weight_decay": True,
    "weight_decay": 0.1,
    "lr_bounds": (1e-6, 1.0),
    "granularity": "tensor",
}
CASES = [
    ("sgd-sgd", {}),
    ("sgdn-sgdn", {"granularity": "released"}),
    ("adam-adam", {}),
    ("adam-lion", {"granularity": "tensor"}),
    ("adam-adagrad", EVERYTHING),
    ("adam-sgdn", {"rule": "cosine"}),
    ("sgdn-sgdn", {"rule": "cosine", "granularity": "tensor"}),
    ("adam", {}),
]

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 15), reason="torch.compile lags behind Python")


def check(name, options, backend, tolerance, schedule=False):
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    params = [torch.randn(4, 3, requires_grad=True), torch.randn(3, requires_grad=True)]
    twins = [param.detach().clone().requires_grad_() for param in params]
    compiled, eager = (
        hypergrad.create(name, values, lr=0.01, hypergrad_lr=1e-3, **options) for values in (params, twins)
    )
    schedulers = []
    if schedule:
        for optimizer in (compiled, eager):
            schedulers.append(torch.optim.lr_scheduler.LinearLR(optimizer.schedule, 0.1, total_iters=5))
    step = torch.compile(lambda: compiled.step(), fullgraph=True, backend=backend)
    graphs = []
    for _ in range(6):
        for param, twin in zip(params, twins, strict=True):
            param.grad = torch.randn_like(param)
            twin.grad = param.grad.clone()
        step()
        eager.step()
        for scheduler in schedulers:
            scheduler.step()
        graphs.append(counters["stats"]["unique_graphs"])
    # The first step makes the state, the second is the one that all others run.
    assert graphs[1:] == [graphs[1]] * 5
    assert not counters["graph_break"]
    for param, twin in zip(params, twins, strict=True):
        torch.testing.assert_close(param, twin, rtol=tolerance, atol=tolerance)
    if "-" in name:
        rate, other = compiled.learning_rates[0], eager.learning_rates[0]
        assert not torch.equal(rate, torch.full_like(rate, 0.01))
        torch.testing.assert_close(rate, other, rtol=tolerance, atol=0)
        torch.testing.assert_close(
            compiled.hypergradients[0], eager.hypergradients[0], rtol=100 * tolerance, atol=tolerance
        )
    else:
        assert not schedule


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_step_is_one_graph(name, options):
    check(name, options, "eager", 1e-5)


def test_a_schedule_does_not_recompile():
    check("adam-sgd", {}, "eager", 1e-5, schedule=True)


class Counting(torch.optim.Optimizer):
    """An optimizer that does nothing but write an option of its group, as ours do."""

    def __init__(self, params):
        super().__init__(params, {"steps": torch.zeros(())})

    def step(self):
        for group in self.param_groups:
            group["steps"] = group["steps"] + 1


def options_that_torch_adds():
    """Return the options that torch.compile itself leaves in a parameter group: ``capturable`` in 2.9."""
    optimizer = Counting([torch.randn(3, requires_grad=True)])
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for _ in range(3):
        step()
    assert optimizer.param_groups[0]["steps"] == 3
    return set(optimizer.param_groups[0]) - {"params", "steps"}


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-adam", "adam-adam"])
def test_tensors_that_rest(name, granularity):
    """h of a compiled step leaves out those that rested in the last one."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), (3,))]
    optimizer = hypergrad.create(name, params, lr=0.01, hypergrad_lr=1e-4, granularity=granularity)
    oracle = Reference(name, params, 0.01, 1e-4, granularity=granularity)
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="eager")
    options = set(optimizer.param_groups[0])
    for resting in (None, 0, None, None, 1, 1, None, None):
        for index, param in enumerate(params):
            param.grad = None if index == resting else torch.randn_like(param)
        step()
        oracle.step([param.grad for param in params])
        h = torch.stack(oracle.h)
        expected = h if granularity == "tensor" else h.sum()
        torch.testing.assert_close(optimizer.hypergradients[0], expected, rtol=1e-9, atol=1e-12)
    for param, theta in zip(params, oracle.theta, strict=True):
        torch.testing.assert_close(param.detach(), theta, rtol=1e-9, atol=1e-12)
    assert options <= set(optimizer.param_groups[0]) <= options | options_that_torch_adds()


def test_inductor_makes_the_same_step():
    check("sgdn-sgdn", {}, "inductor", 1e-5)


def test_fused_falls_back_to_what_can_be_compiled():
    check("adam-adam", {"fused": True}, "eager", 1e-5)
