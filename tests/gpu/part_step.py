"""One step of the optimizers, learned and fixed, beside torch's fused and foreach on the same parameters.

A learned step's path "fused" is torch's fused kernel, "Triton" the kernels of ``hypergrad.kernels``. As in
``tests/benchmarks/step.py``: GB/s is the least traffic of the step over its time; × floor is the time
over that of torch's fused optimizer, scaled by the least traffic of both. × copy is the time over that of a
plain copy of as many bytes on this card, so 1 is what the memory allows.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hypergrad
from gpu import environment, harness
from gpu.harness import Context
from hypergrad import kernels
from hypergrad.kernels import gpu as triton_choice

OPS = ("adam", "sgdn", "sgd")
LOPS = {"adam": ("adam", "sgd"), "sgdn": ("sgdn", "sgd"), "sgd": ("sgdn", "sgd")}
"""The paper's."""
GRANULARITIES = ("group", "tensor", "released")
RATES = {"lr": 1e-9, "hypergrad_lr": 1e-30}
"""So small that many steps of one gradient change nothing."""

TRACED_TRAFFIC = 13
"""Of the default rule with Adam; see ``hypergrad.kernels``."""

step = harness.benchmark("step")


def main(context: Context) -> None:
    """Time every optimizer, the smaller set of parameters first."""
    why_not = kernels.why_not(context.device) if context.device.type == "cuda" else "this is no GPU"
    triton_choice.NEVER = True  # but in `_by_triton`
    sizes = {"15M": "vgg16-bn", "100M": "transformer"} if not context.dry else {"10k": "logreg"}
    copy = None if context.dry else environment.copy_bandwidth()
    context.results.note(copy_gb_per_s=copy, no_triton_because=why_not)
    harness.warm_up(context.device)
    for size, name in sizes.items():
        params = _params(step.PARAMETERS[name], context.device)
        for op in OPS:
            _measure_op(op, size, params, copy, context)


def _params(shapes: Sequence[tuple[int, ...]], device: torch.device) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    params = []
    for shape in shapes:
        param = torch.randn(shape, generator=generator, device=device).requires_grad_()
        param.grad = torch.randn(shape, generator=generator, device=device)
        params.append(param)
    return params


def _measure_op(op: str, size: str, params: list[Tensor], copy: float | None, context: Context) -> None:
    count = sum(param.numel() for param in params)
    fused = None
    for labels, make in _contenders(op, params):
        labels = {"parameters": size, **labels}
        if not context.budget.has(1.0):
            context.results.add("step", **labels, skipped="no time was left")
            continue
        with context.results.attempt("step", **labels):
            call, kept = make(context.device)
            if call is None:  # no graphs on a CPU
                continue
            turns, least = (3, 0.05) if context.dry else (9, 10.0)
            taken = harness.milliseconds(call, context.device, turns=turns, least=least)
            if labels["optimizer"] == f"torch {op}" and labels["path"] == "fused":
                fused = taken
            traffic = step.TRAFFIC[op][labels["optimizer"].startswith(f"{op}-")]
            if labels["path"].startswith("cosine"):
                traffic = TRACED_TRAFFIC
            moved = traffic * 4 * count
            context.results.add(
                "step",
                **labels,
                ms=taken,
                gb_per_s=moved / taken / 1e6,
                x_fused=fused and taken / fused,
                x_floor=fused and taken / fused * step.TRAFFIC[op][0] / traffic,
                x_copy=copy and taken / (moved / copy / 1e6),
                state=kept / (4 * count),
            )
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()


Make = Callable[[torch.device], tuple[Callable[[], object] | None, int]]
"""Returns a call that takes a step, None if there is none on that device, and the bytes of its state."""


def _contenders(op: str, params: list[Tensor]) -> Iterator[tuple[dict[str, Any], Make]]:
    """Yield labels and a maker for each optimizer and path: torch's first."""
    nesterov = {"momentum": 0.9, "nesterov": True} if op == "sgdn" else {}
    plain = torch.optim.Adam if op == "adam" else torch.optim.SGD
    none = {"granularity": ""}
    for way in ("fused", "foreach"):
        make = partial(plain, params, lr=1e-9, **nesterov, **{way: True})
        yield {"optimizer": f"torch {op}", "path": way} | none, _eager(make)
    yield {"optimizer": op, "path": "default"} | none, _eager(partial(hypergrad.create, op, params, lr=1e-9))
    capturable = {"capturable": True} if op == "adam" else {}
    for lop, granularity in itertools.product(LOPS[op], GRANULARITIES):
        labels = {"optimizer": f"{op}-{lop}", "granularity": granularity}
        make = partial(hypergrad.create, f"{op}-{lop}", params, granularity=granularity, **RATES)
        yield labels | {"path": "default"}, _eager(make)
        yield labels | {"path": "fused"}, _eager(partial(make, fused=True))
        yield labels | {"path": "CUDA graph"}, _captured(partial(make, **capturable))
        yield labels | {"path": "Triton"}, _by_triton(_eager(partial(make, fused=True)))
        if granularity == "group":
            yield labels | {"path": "Triton, CUDA graph"}, _by_triton(_captured(partial(make, fused=True)))
    if op == "adam":  # what users get
        labels = {"optimizer": "adam-sgdn", "granularity": "group"}
        make = partial(hypergrad.Adam, params)
        yield labels | {"path": "cosine, default"}, _eager(make)
        yield labels | {"path": "cosine, Triton"}, _by_triton(_eager(partial(make, fused=True)))


def _by_triton(maker: Make) -> Make:
    """Let an optimizer take the kernels that ``fused=True`` asks for, which no other one here does."""

    def make(device: torch.device) -> tuple[Callable[[], object] | None, int]:
        triton_choice.NEVER = False
        try:
            if device.type != "cuda" or kernels.why_not(device) is not None:
                return None, 0
            call, kept = maker(device)
        finally:
            triton_choice.NEVER = True

        def allowed() -> None:
            triton_choice.NEVER = False
            call()
            triton_choice.NEVER = True

        return None if call is None else allowed, kept

    return make


def _eager(create: Callable[[], torch.optim.Optimizer]) -> Make:
    def make(device: torch.device) -> tuple[Callable[[], object], int]:
        optimizer = create()
        optimizer.step()
        return optimizer.step, step.state_bytes(optimizer)

    return make


def _captured(create: Callable[[], torch.optim.Optimizer]) -> Make:
    """A step as a CUDA graph: its time without the launches."""

    def make(device: torch.device) -> tuple[Callable[[], object] | None, int]:
        if device.type != "cuda":
            return None, 0
        optimizer = create()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()

        def replay(optimizer: object = optimizer) -> None:  # which owns the memory that the graph uses
            graph.replay()

        return replay, step.state_bytes(optimizer)

    return make
