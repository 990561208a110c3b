"""No step waits for a device; what only a GPU can show is marked ``gpu``.

On any machine the meta device stands for one: a tensor there has no values, so whatever would read one back
(``item``, ``float``, ``if``, a copy to the host) raises.
"""

from __future__ import annotations

import copy
import os
import warnings

import pytest
import torch

import hypergrad

from .rules import ONE_STEP

GRANULARITIES = ("group", "tensor", "released")
EVERYTHING = {
    "rule": "cosine",
    **ONE_STEP,
    "decoupled_weight_decay": True,
    "lr_bounds": (1e-6, 1.0),
}
TRACED = {"rule": "cosine", "decoupled_weight_decay": True}
FUSED_TRACED = TRACED | {"fused": True}
# AdamW is Adam with one of these options, and Muon has another or none of the kernels.
NAMES = [name for name in hypergrad.NAMES if not name.startswith(("adamw", "muon"))]
gpu = pytest.mark.gpu


@pytest.fixture
def device(monkeypatch):
    """The GPU; in a dry run of tests/gpu/run the CPU, to find mistakes in the tests."""
    if os.environ.get("HYPERGRAD_GPU_DRY"):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture
def cuda(device):
    """The GPU, for what a dry run cannot do."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device, also in a dry run")
    return device


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.item,
        float,
        bool,
        lambda value: value.to("cpu"),
        lambda value: torch.zeros(()).copy_(value),
        lambda value: torch.ones(3).add_(1, alpha=value),
    ],
    ids=["item", "float", "bool", "to", "copy_", "alpha="],
)
def test_the_stand_in_notices(read):
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros((), device="meta"))


@pytest.fixture
def fused_kernels(monkeypatch):
    """torch has no fused kernels for the stand-in: these note what they are given and read nothing."""
    calls = []

    def kernel(*args, lr, found_inf=None, **_):
        given = [tensor for value in args if isinstance(value, list) for tensor in value]
        given += [value for value in (lr, found_inf) if isinstance(value, torch.Tensor)]
        assert {tensor.device.type for tensor in given} == {"meta"}
        calls.append(args)

    for name in ("_fused_sgd_", "_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, name, kernel)
    return calls


@pytest.mark.parametrize(
    "options",
    [
        {},
        EVERYTHING,
        {"foreach": False},
        {"fused": True},
        {"fused": True, **EVERYTHING},
        TRACED,
        FUSED_TRACED,
    ],
    ids=["default", "everything", "tensor by tensor", "fused", "fused everything", "traced", "fused traced"],
)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", [name for name in NAMES if "-" in name])
def test_a_step_reads_nothing_back(name, granularity, options, fused_kernels):
    params = [torch.empty(shape, device="meta", requires_grad=True) for shape in [(4, 3), (4,), (1,)]]
    optimizer = hypergrad.create(name, params, weight_decay=0.1, granularity=granularity, **options)
    torch.optim.lr_scheduler.LambdaLR(optimizer.schedule, lambda step: 1 / (step + 1))
    if "fused" in options:
        # As GradScaler does; the steps are then to be undone without asking whether they must.
        optimizer.grad_scale = torch.ones((), device="meta")
        optimizer.found_inf = torch.zeros((), device="meta")
    for step in range(3):
        for index, param in enumerate(params):
            param.grad = None if (step, index) == (1, 1) else torch.empty_like(param)
        optimizer.step()
        assert optimizer.learning_rates[0].device.type == "meta"
        assert optimizer.hypergradients[0].device.type == "meta"
    traced = options.get("rule") == "cosine" and granularity != "released" and options.get("trace_decay") != 0
    assert bool(fused_kernels) == ("fused" in options and not traced)


@pytest.mark.parametrize("name", ["adam-adam", "adam"])
def test_capturable_steps_are_counted_on_the_device(name, problem):
    params = [torch.empty(3, device="meta", requires_grad=True)]
    optimizer = hypergrad.create(name, params, capturable=True)
    for _ in range(2):
        params[0].grad = torch.empty_like(params[0])
        optimizer.step()
    assert optimizer.state[params[0]]["step"].device.type == "meta"
    # On a CPU the count makes no difference.
    ends = []
    for capturable in (False, True):
        params = problem.initial()
        optimizer = hypergrad.create(name, params, lr=0.01, capturable=capturable)
        problem.train(optimizer, params, range(10), {3: {1}})
        ends.append(params)
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_a_state_moves_to_another_dtype(problem, name, dtype):
    """α, the rule's state, h and the step count stay float32 or above, moments in the parameters' dtype."""
    start = problem.initial(torch.float32)
    optimizer = hypergrad.create(
        name, start, lr=0.01, hypergrad_lr=1e-4, weight_decay=0.1, decoupled_weight_decay=True
    )
    problem.train(optimizer, start, range(5))
    params = [param.detach().to(dtype, copy=True).requires_grad_() for param in start]
    other = hypergrad.create(name, params)
    other.load_state_dict(optimizer.state_dict())
    group = other.param_groups[0]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rates = [group["lr"], group["hypergradient"], *group["lop_state"].values(), *group["moves"].values()]
    assert {value.dtype for value in rates} == {wide}
    assert group["lr"] == optimizer.learning_rates[0].to(wide)
    for param in params:
        for key, value in other.state[param].items():
            assert value.dtype == (torch.float32 if key == "step" else dtype)
    problem.train(other, params, range(5, 8))
    problem.train(optimizer, start, range(5, 8))
    tolerance = 0.2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(
        other.learning_rates[0].float(), optimizer.learning_rates[0], rtol=tolerance, atol=0
    )


# What follows needs a GPU.


def twins(problem, device, dtype=torch.float64):
    here = problem.initial(dtype)
    return here, [param.detach().to(device, copy=True).requires_grad_() for param in here]


@gpu
@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"fused": True}, EVERYTHING], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_steps_as_the_cpu_and_without_a_synchronisation(problem, device, name, granularity, options):
    if "capturable" in options and not name.startswith("adam"):
        pytest.skip("counts no steps")
    dtype = torch.float32 if "fused" in options else torch.float64
    alpha0, beta = problem.rates(name)
    here, there = twins(problem, device, dtype)
    common = {"lr": alpha0, "hypergrad_lr": beta, "weight_decay": 0.1, "granularity": granularity, **options}
    one, other = hypergrad.create(name, here, **common), hypergrad.create(name, there, **common)
    for step in range(10):
        for a, b, grad in zip(here, there, problem.gradients(here, step), strict=True):
            a.grad, b.grad = grad, grad.to(device, copy=True)
        one.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            other.step()
            other.learning_rates, other.hypergradients  # noqa: B018
        finally:
            torch.cuda.set_sync_debug_mode("default")
    tolerance = 1e-4 if "fused" in options else 1e-10
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(other.learning_rates[0].cpu(), one.learning_rates[0], rtol=tolerance, atol=0)


@gpu
@pytest.mark.parametrize("options", [{}, {"fused": True}, EVERYTHING], ids=str)
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam", "adam-lion"])
def test_a_cuda_graph_replays_the_step(problem, cuda, name, options):
    options = options | ({"capturable": True} if name.startswith("adam") else {})
    alpha0, beta = problem.rates(name)
    params, others = (twins(problem, cuda, torch.float32)[1] for _ in range(2))
    captured, eager = (
        hypergrad.create(name, values, lr=alpha0, hypergrad_lr=beta, **options) for values in (params, others)
    )

    def set_gradients(step):
        for a, b, grad in zip(params, others, problem.gradients(others, step), strict=True):
            if a.grad is None:
                a.grad = torch.empty_like(a)
            a.grad.copy_(grad)
            b.grad = grad

    # The first step makes the state; a graph is captured from the second on.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        set_gradients(0)
        captured.step()
        eager.step()
    torch.cuda.current_stream().wait_stream(side)
    before = copy.deepcopy((captured.state_dict(), params))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    del before
    for step in range(1, 8):
        set_gradients(step)
        graph.replay()
        eager.step()
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(captured.learning_rates, eager.learning_rates, rtol=1e-4, atol=0)


@gpu
def test_a_cuda_graph_of_steps_counted_on_the_host_is_refused(cuda):
    param = torch.ones(3, device=cuda, requires_grad=True)
    optimizer = hypergrad.Adam([param])
    param.grad = torch.ones_like(param)
    optimizer.step()
    with pytest.raises(RuntimeError, match="give capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


@gpu
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_a_state_moves_to_another_device(problem, device, name):
    here, there = twins(problem, device)
    one, other = hypergrad.create(name, here, lr=0.01), hypergrad.create(name, there, lr=0.01)
    problem.train(one, here, range(5))
    with torch.no_grad():
        for a, b in zip(here, there, strict=True):
            b.copy_(a)
    other.load_state_dict(one.state_dict())
    for step in range(5, 8):
        for a, b, grad in zip(here, there, problem.gradients(here, step), strict=True):
            a.grad, b.grad = grad, grad.to(device, copy=True)
        one.step()
        other.step()
    assert other.learning_rates[0].device.type == device.type
    torch.testing.assert_close(other.learning_rates[0].cpu(), one.learning_rates[0], rtol=1e-10, atol=0)


@gpu
@pytest.mark.parametrize("fused", [None, True])
def test_half_precision_with_a_scaler_learns(cuda, fused):
    torch.manual_seed(0)
    network = torch.nn.Linear(8, 1).to(cuda)
    optimizer = hypergrad.Adam(network.parameters(), lr=1e-3, hypergrad_lr=1e-5, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24, growth_interval=5)
    inputs = torch.randn(64, 8, device=cuda)
    targets = inputs.sum(1, keepdim=True)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = ((network(inputs) - targets) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert torch.isfinite(optimizer.learning_rates[0])
