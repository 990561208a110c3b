"""A plain step of ``functional.update`` in few calls, as a small model needs it: tried before all else.

Plain is a step with no missing gradient and no option that changes what α or the parameters move by.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad import _host, kernels
from hypergrad._hypergradients import dot
from hypergrad._param_update import prepared
from hypergrad.directions import Direction, ParamState
from hypergrad.rates import Rate, RateState

SMALL = 1_000_000
"""Elements; above, tensor by tensor is faster on a CPU."""


def step_again(
    kernel: kernels.Kernel | None,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    states: Sequence[ParamState],
    direction: Direction,
    alpha: Tensor,
    rate: Rate,
    rate_state: RateState,
    hypergrad_lr: Tensor | float,
    granularity: str,
    weight_decay: float,
    maximize: bool,
    out: Tensor | None,
) -> Tensor | None:
    """Take a step with the kernel of the last one.

    Returns:
        h, in ``out`` if that is given; ``None``, and nothing has moved, if that is not possible.
    """
    if kernel is None or not kernel.renew(
        direction, params, grads, states, weight_decay=weight_decay, maximize=maximize
    ):
        return None
    return kernel.step(rate, rate_state, alpha, hypergrad_lr=hypergrad_lr, granularity=granularity, out=out)


def step_small(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    states: Sequence[ParamState],
    direction: Direction,
    alpha: Tensor,
    rate: Rate,
    rate_state: RateState,
    hypergrad_lr: Tensor | float,
    granularity: str,
    weight_decay: float,
    maximize: bool,
    out: Tensor | None,
) -> Tensor | None:
    """Take a step with torch, α learned on the host.

    Returns:
        h, in ``out`` if that is given; ``None``, and nothing has moved, unless there is one α for all, and
        all tensors are real ones of its dtype on the CPU, and small.
    """
    dtype, given, elements = alpha.dtype, [], 0
    if granularity != "group" or isinstance(hypergrad_lr, Tensor):
        return None
    for param, grad in zip(params, grads, strict=True):
        if grad is None or param.dtype != dtype:
            return None
        given.append(grad)
        elements += param.numel()
    if elements >= SMALL or not _host.can_learn(alpha, rate, rate_state, params):
        return None
    for param, state in zip(params, states, strict=True):
        direction.init(param, state, learned=True)
    if weight_decay or maximize:
        given = prepared(params, given, weight_decay, maximize, None)
    total = 0.0
    for g, u in zip(given, direction.previous(states), strict=True):
        total += dot(g, u, dtype).item()
    h = _host.learn((total,), alpha, rate, rate_state, hypergrad_lr, out)
    torch._foreach_add_(list(params), direction.update(given, states), alpha=-alpha.item())
    return h
