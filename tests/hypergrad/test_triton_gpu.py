"""Triton's kernels on a GPU: what the interpreter cannot show."""

from __future__ import annotations

import pytest
import torch

import hypergrad
from hypergrad import kernels
from hypergrad.kernels import gpu, gpu_launcher
from hypergrad.stacked import Stacked

from .rules import ONE_STEP

pytestmark = pytest.mark.gpu

DECOUPLED = {"weight_decay": 0.1, "decoupled_weight_decay": True}
KINDS = {
    "plain": {},
    "everything": {"rule": "cosine", **ONE_STEP, **DECOUPLED, "lr_bounds": (1e-6, 1.0)},
    "default": {"rule": "cosine", "hypergrad_lr": 0.03, **DECOUPLED},
}
CASES = [
    (name, granularity, kind)
    for name in ("sgd-sgd", "sgdn-sgdn", "adam-adam", "adam-lion")
    for granularity in ("group", "tensor", "released")
    for kind in KINDS
    if (granularity, kind) != ("released", "default")
]


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if reason := kernels.why_not("cuda"):
        pytest.skip(f"no kernels here: {reason}")
    return torch.device("cuda")


def twins(problem, device, dtype=torch.float32):
    here = problem.initial(dtype)
    return here, [param.detach().to(device, copy=True).requires_grad_() for param in here]


def took_kernels(optimizer):
    kept = [settings.kernel for settings in optimizer._settings.values()]
    return all(isinstance(kernel, gpu_launcher.Launcher) for kernel in kept)


@pytest.mark.parametrize(("name", "granularity", "kind"), CASES)
def test_kernels_step_as_the_cpu_does_and_wait_for_nothing(problem, cuda, name, granularity, kind):
    alpha0, beta = problem.rates(name)
    here, there = twins(problem, cuda)
    options = {"lr": alpha0, "hypergrad_lr": beta, "granularity": granularity} | KINDS[kind]
    one = hypergrad.create(name, here, fused=False, **options)
    other = hypergrad.create(name, there, fused=True, **options)
    for step in range(8):
        for index, (a, b) in enumerate(zip(here, there, strict=True)):
            grad = None if (step, index) in ((3, 1), (5, 0)) else problem.gradients(here, step)[index]
            a.grad, b.grad = grad, None if grad is None else grad.to(cuda, copy=True)
        one.step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            other.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert took_kernels(other)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.learning_rates[0].cpu(), one.learning_rates[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_large_tensors_give_the_same_bits_twice_and_those_of_float64(cuda, kind):
    """Whole tiles in every width, and the parts at their ends."""
    shapes, ends = [(4096, 1031), (1000, 513), (1_000_003,), (7,)], []
    for dtype in (torch.float32, torch.float32, torch.float64):
        generator = torch.Generator(cuda).manual_seed(0)
        params = [torch.randn(shape, generator=generator, device=cuda).to(dtype) for shape in shapes]
        params = [param.requires_grad_() for param in params]
        fused = True if dtype == torch.float32 else None  # torch's fused kernels take no float64
        optimizer = hypergrad.create("adam-adam", params, lr=0.01, fused=fused, **KINDS[kind])
        for _ in range(3):
            for param, shape in zip(params, shapes, strict=True):
                param.grad = torch.randn(shape, generator=generator, device=cuda).to(dtype)
            optimizer.step()
        ends.append([*params, *optimizer.learning_rates])
    assert all(map(torch.equal, ends[0], ends[1]))
    for mine, exact in zip(ends[0], ends[2], strict=True):
        torch.testing.assert_close(mine.double(), exact.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_a_cuda_graph_replays_the_kernels(problem, cuda, name, kind):
    """Steps without the graph in between have tables of addresses of their own."""
    alpha0, beta = problem.rates(name)
    (_, params), (_, others) = twins(problem, cuda), twins(problem, cuda)
    options = {"lr": alpha0, "hypergrad_lr": beta, "fused": True} | KINDS[kind]
    captured, eager = hypergrad.create(name, params, **options), hypergrad.create(name, others, **options)

    def set_gradients(step):
        for a, b, grad in zip(params, others, problem.gradients(others, step), strict=True):
            a.grad = torch.empty_like(a) if a.grad is None else a.grad
            a.grad.copy_(grad)
            b.grad = grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        set_gradients(0)
        captured.step()
        eager.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for step in range(1, 9):
        set_gradients(step)
        if step == 5:
            kept = [param.grad for param in params]
            for param in params:
                param.grad = param.grad.clone()
            captured.step()
            for param, grad in zip(params, kept, strict=True):
                param.grad = grad
        else:
            graph.replay()
        eager.step()
    assert took_kernels(captured)
    for a, b in zip(params, others, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(captured.learning_rates[0], eager.learning_rates[0])


@pytest.mark.parametrize("name", ["sgd-sgd", "adam-adam"])
def test_packs_step_by_the_kernels(problem, cuda, monkeypatch, name):
    ends = []
    for kernel in (True, False):
        monkeypatch.setattr(gpu, "ON_BY_DEFAULT", kernel)
        start = [param.detach().to(cuda, torch.float32) for param in problem.initial()]
        made = [hypergrad.create(name, [p.clone().requires_grad_() for p in start]) for _ in range(3)]
        pack = Stacked(made, [torch.stack([param, param * 1.1, param * 1.2]) for param in start])
        for step in range(5):
            each = [problem.gradients([param[n].detach() for param in pack.params], step) for n in range(3)]
            pack.step([torch.stack(grads) for grads in zip(*each, strict=True)])
        ends.append([*pack.params, pack.alpha])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(problem, cuda, dtype):
    _, params = twins(problem, cuda, dtype)
    optimizer = hypergrad.AdamW(params, fused=True)
    for step in range(5):
        for param, grad in zip(params, problem.gradients(params, step), strict=True):
            param.grad = grad
        optimizer.step()
    assert took_kernels(optimizer)
    assert all(torch.isfinite(param).all() for param in params)
    assert optimizer.learning_rates[0].dtype == torch.float32
