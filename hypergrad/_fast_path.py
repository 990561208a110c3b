"""A step of a small model on a CPU, with few calls of torch.

For a model of ten thousand parameters, a handful of torch's calls on single numbers takes longer than moving
the parameters. So a step tries, in this order:

1. The kernel of the last step, which takes the whole step in one call.
2. One α per group, learned with Python's own numbers: in double precision, rounded when stored.

Both return ``None``, with nothing moved, if they cannot take the step. ``_general_step`` can.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor

from hypergrad import kernels, rates
from hypergrad._hypergradients import dot
from hypergrad._operands import Operands
from hypergrad._param_update import move_all
from hypergrad._state import State, StepOptions
from hypergrad._tensor_views import PLAIN
from hypergrad.directions import Direction

_CELLS: dict[torch.dtype, type[ctypes.c_float] | type[ctypes.c_double]] = {
    torch.float32: ctypes.c_float,
    torch.float64: ctypes.c_double,
}
_dtype, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")
# Not their subclasses, which may override update.
_RULES = frozenset(rule for rule in rates.RATE_RULES.values() if hasattr(rule, "update_number"))


def repeat_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    rate: rates.Rate,
    options: StepOptions,
    alpha: Tensor,
) -> Tensor | None:
    """Take a step in place with the kernel of the last step, and return h.

    Args:
        params: The group's T tensors.
        grads: The gradient of each tensor.
        state: The group's state.
        direction: The op.
        rate: The lop.
        options: The options of the step, without decoupled weight decay.
        alpha: The state's α.

    Returns:
        h in the shape of α; ``None``, with nothing moved, if a gradient is ``None``, or the kernel or the lop
        does not suit this step.
    """
    kernel = state.kernel
    if kernel is None:
        return None
    whole = options.is_additive and kernels.has_rule(rate)
    if not whole and number_rule(alpha, rate, state.rate, options) is None:
        return None
    if not renew(kernel, params, grads, state, direction, options):
        return None
    if options.is_additive:
        h = _whole_step(kernel, rate, state, options, alpha)
        if h is not None:
            return h
    return _step_by_numbers(kernel, rate, state, options, alpha)


def renew(
    kernel: kernels.Kernel,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    options: StepOptions,
) -> bool:
    """Give this step's gradients to the last step's kernel; return whether all else is unchanged."""
    return kernel.renew(
        direction,
        params,
        grads,
        state.params,
        weight_decay=options.coupled_decay,
        maximize=options.maximize,
        traced=options.is_traced,
    )


def step(
    operands: Operands,
    state: State,
    direction: Direction,
    rate: rates.Rate,
    options: StepOptions,
    alpha: Tensor,
) -> Tensor | None:
    """Take a step of ``operands`` in place and return h, or ``None``: see ``repeat_step``."""
    if operands.resting or operands.is_sharded:
        return None
    kernel = operands.kernel
    if kernel is not None:
        all_present = options.granularity == "group" or len(operands.present) == operands.total
        if options.is_additive and all_present:
            h = _whole_step(kernel, rate, state, options, alpha)
            if h is not None:
                return h
        return _step_by_numbers(kernel, rate, state, options, alpha)
    params, dtype = operands.params, alpha.dtype
    rule = number_rule(alpha, rate, state.rate, options)
    if rule is None:
        return None
    if not (PLAIN.issuperset(map(type, params)) and all(map(_is_cpu, params))):
        return None  # the host may have to wait for what it reads
    sums = _products(operands, direction, dtype, options.normalize)
    h = learn(sums, alpha, rule, state.rate, options, state.h)
    if len(operands.blocks) == 1 and not options.fused and {dtype}.issuperset(map(_dtype, params)):
        # The same as `move_all`, with fewer checks.
        steps = direction.update(operands.grads, operands.states)
        torch._foreach_add_(list(params), steps, alpha=-alpha.item())
    else:
        move_all(operands, direction, alpha, decay=0.0, fused=bool(options.fused), found_inf=None)
    return h


def _products(operands: Operands, direction: Direction, dtype: torch.dtype, norms: bool) -> list[float]:
    """Return ⟨g, u⟩ over all tensors, and with ``norms`` ⟨g, g⟩ and ⟨u, u⟩."""
    sums = [0.0] * (3 if norms else 1)
    for block in operands.blocks:
        previous = direction.previous(operands.states[block])
        for g, u in zip(operands.grads[block], previous, strict=True):
            sums[0] += dot(g, u, dtype).item()
            if norms:
                sums[1] += dot(g, g, dtype).item()
                sums[2] += dot(u, u, dtype).item()
    return sums


def _whole_step(
    kernel: kernels.Kernel, rate: rates.Rate, state: State, options: StepOptions, alpha: Tensor
) -> Tensor | None:
    return kernel.step(
        rate,
        state.rate,
        alpha,
        hypergrad_lr=options.beta,
        granularity=options.granularity,
        out=state.h,
    )


def _step_by_numbers(
    kernel: kernels.Kernel, rate: rates.Rate, state: State, options: StepOptions, alpha: Tensor
) -> Tensor | None:
    rule = number_rule(alpha, rate, state.rate, options)
    if rule is None:
        return None
    found: Any = kernel.products(norms=options.normalize).tolist()
    sums = [sum(column) for column in zip(*found, strict=True)] if options.normalize else [sum(found)]
    h = learn(sums, alpha, rule, state.rate, options, state.h)
    kernel.move(alpha)
    return h


def number_rule(
    alpha: Tensor, rate: rates.Rate, state: rates.RateState, options: StepOptions
) -> rates.NumberRate | None:
    """Return ``rate`` if ``learn`` can update α with it, else ``None``."""
    dtype = alpha.dtype
    if options.granularity != "group" or isinstance(options.beta, Tensor):
        return None
    if type(rate) not in _RULES or dtype not in _CELLS or torch.compiler.is_compiling():
        return None
    for tensor in (alpha, *state.values()):
        if type(tensor) is not Tensor or tensor.dtype != dtype or tensor.ndim or not tensor.is_cpu:
            return None
    return cast(rates.NumberRate, rate)


def learn(
    sums: Sequence[float],
    alpha: Tensor,
    rate: rates.NumberRate,
    state: rates.RateState,
    options: StepOptions,
    out: Tensor | None = None,
    *,
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Update one α and the lop's state in place, as ``_alpha_update.learn`` does, and return h.

    Args:
        sums: ⟨g_t, u_{t−1}⟩ over all tensors; to normalize, then ⟨g_t, g_t⟩ and ⟨u_{t−1}, u_{t−1}⟩ too.
        alpha: α, 0-d on the CPU. Changes in place.
        rate: The lop.
        state: The lop's state, of tensors like ``alpha``. Changes in place.
        options: The options of the step. β must be a number.
        out: A tensor for h. Default ``None``, or one unlike ``alpha``: a new tensor holds h.
        limits: The smallest and the largest α of this step. ``options.lr_bounds`` take precedence. Default
            ``None``: no limits.
    """
    if out is None or out.dtype != alpha.dtype or not out.is_cpu or out.ndim:
        out = torch.empty_like(alpha)
    written = [alpha, out, *state.values()]
    # Read and write numbers at their addresses: torch's item and fill_ would take longer than the lop.
    cells: list[Any] = list(map(_CELLS[alpha.dtype].from_address, map(Tensor.data_ptr, written)))
    alpha_cell, h_cell, *state_cells = cells
    h = -sums[0]
    if options.normalize:
        norms = math.sqrt(sums[1]) * math.sqrt(sums[2])
        h /= max(norms, torch.finfo(alpha.dtype).tiny)
    h_cell.value = h
    h, before = h_cell.value, alpha_cell.value
    if options.multiplicative and not options.normalize:
        h *= before
    numbers = {name: cell.value for name, cell in zip(state, state_cells, strict=True)} if state else {}
    change = float(options.beta) * rate.update_number(h, numbers)
    after = before * _exp(-change) if options.multiplicative else before - change
    for bounds in (limits, options.lr_bounds):
        if bounds is not None:
            after = min(max(after, bounds[0]), bounds[1])
    alpha_cell.value = after
    for name, cell in zip(numbers, state_cells, strict=True):
        cell.value = numbers[name]
    # Tell autograd of the writes that it does not see.
    torch._C._increment_version(written)
    return out


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
