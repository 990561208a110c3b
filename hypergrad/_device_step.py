"""A step with a learned α by Triton's kernels, on a device that has them.

It does the same as the other steps, in three launches. ``why_not`` says which steps these kernels cannot
take; ``functional.update`` then takes one of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from hypergrad import _step_counts, kernels
from hypergrad._hypergradients import begin
from hypergrad._operands import init_state
from hypergrad._state import TRACE, State, StepOptions
from hypergrad._tensor_views import PLAIN, is_dense, lie_alike
from hypergrad._traced_step import SMALLEST
from hypergrad.directions import Direction
from hypergrad.kernels import gpu
from hypergrad.kernels.build import UnavailableError
from hypergrad.kernels.gpu_launcher import Launcher
from hypergrad.rates import Rate


def wanted(param: Tensor, options: StepOptions) -> bool:
    """Return whether the options want Triton's kernels, and ``param``'s device has them."""
    if param.device.type not in gpu.DEVICES:
        return False
    if options.fused is None and (options.foreach is not None or not gpu.ON_BY_DEFAULT):
        return False
    return options.fused is not False and gpu.why_not_on(param.device.type, param.device.index or 0) is None


def why_not(
    params: Sequence[Tensor],
    state: State,
    direction: Direction,
    rate: Rate,
    options: StepOptions,
    schedule: Tensor | float | None = None,
) -> str | None:
    """Return why Triton's kernels cannot take a step, or ``None`` if they can.

    The arguments are those of ``functional.update``.
    """
    device = params[0].device
    reason = gpu.why_not_on(device.type, device.index or 0)
    if reason is not None:
        return reason
    try:
        gpu.op_of(direction)
        gpu.lop_of(rate)
    except UnavailableError as error:
        return str(error)
    dtype = params[0].dtype
    if dtype not in gpu.DTYPES:
        return f"there are none for {dtype}"
    for param in params:
        if type(param) not in PLAIN:
            return f"they take plain tensors, not {type(param).__name__}"
        if param.dtype != dtype or param.device != device:
            return "they take the tensors of one device and dtype"
        if not is_dense(param):
            return "they take tensors without gaps"
    alpha = state.alpha
    assert isinstance(alpha, Tensor)
    small = [alpha, *state.rate.values(), *state.moves.values()]
    small += [value for value in (options.beta, schedule) if isinstance(value, Tensor)]
    if any(value.device != device or not value.is_contiguous() for value in small):
        return "they take α and all that belongs to it in one piece on the parameters' device"
    return None


def step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    rate: Rate,
    options: StepOptions,
    alpha: Tensor,
    schedule: Tensor | float | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> Tensor | None:
    """Take a step in place and return h in the shape of α.

    Return ``None``, with nothing moved, if Triton's kernels cannot take the step. The arguments are those of
    ``functional.update``.
    """
    if why_not(params, state, direction, rate, options, schedule) is not None:
        return None
    present = [index for index, grad in enumerate(grads) if grad is not None]
    given = [grad for grad in grads if grad is not None]
    if not given or any(not _suits(grad, params[index]) for grad, index in zip(given, present, strict=True)):
        return None
    for index in present:
        own = state.params[index]
        init_state(params[index], own, direction, options, learned=True)
        if "step" in own and own["step"].device != params[index].device:
            own["step"] = own["step"].to(params[index].device, non_blocking=True)
    states = [state.params[index] for index in present]
    others = [own for index, own in enumerate(state.params) if own and grads[index] is None]
    by_tensor = options.granularity == "tensor"
    shared_traces: list[int] = []
    if options.is_traced:
        state.moves.clear()
        if not by_tensor:
            shared_traces = [
                index for index, own in enumerate(state.params) if grads[index] is None and TRACE in own
            ]
    decay = options.decoupled_decay
    remember = bool(decay or others or schedule is not None)
    if not options.is_traced and (decay or schedule is not None or (others and not by_tensor)):
        begin(state.moves, len(params), alpha, by_tensor=by_tensor, decay=decay)
    op, (last, first, second) = gpu.op_of(direction)
    lop, names = gpu.lop_of(rate)
    along = TRACE if options.is_traced else last
    rows = [[own[key] for own in states] if key is not None else [] for key in (along, first, second)]
    rows[0] += [state.params[index][TRACE] for index in shared_traces]
    moved = [params[index] for index in present]
    if not _are_alike(moved, rows, shared_traces, params):
        return None
    steps = [own["step"] for own in states] if op == "adam" else []
    h = _place_for(state.h, alpha)
    clears = not (remember or found_inf is not None)
    spec = gpu.Spec(
        op=op,
        lop=lop,
        granularity=options.granularity,
        traced=options.is_traced,
        normalize=options.normalize,
        multiplicative=options.multiplicative,
        held=options.is_held,
        coupled=bool(options.coupled_decay),
        bounded=options.lr_bounds is not None,
        remember=bool(state.moves) and not clears,
        members=alpha.shape[-1] if alpha.ndim > by_tensor else 0,
    )
    operands = gpu.Operands(
        params=moved,
        grads=given,
        along=rows[0],
        first=rows[1],
        second=rows[2],
        steps=steps,
        alpha=alpha,
        h=h,
        lop_state=[state.rate[name] for name in names if name is not None],
        gains=state.moves.get("gain"),
        decays=state.moves.get("decay"),
        beta=options.beta if isinstance(options.beta, Tensor) else None,
        schedule=schedule if isinstance(schedule, Tensor) else None,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    numbers = _numbers(direction, rate, options, alpha, schedule)
    places = [*present, *shared_traces]
    if torch.compiler.is_compiling():
        from hypergrad.kernels import gpu_op  # importing it takes time, and few users compile a step

        gpu_op.take(operands, spec, numbers, places, len(params))
        if clears:
            state.moves.clear()
        return h
    try:
        _launcher(state).take(operands, spec, numbers, places, len(params))
    except UnavailableError:
        return None
    if clears:
        state.moves.clear()
    if steps:
        _step_counts.note_growth(steps)
    # Tell autograd of the writes that it does not see.
    written = [alpha, h, *state.rate.values(), *state.moves.values(), *moved, *steps]
    torch._C._increment_version([*written, *(value for row in rows for value in row)])
    return h


def _launcher(state: State) -> Launcher:
    if not isinstance(state.kernel, Launcher):
        state.kernel = cast(kernels.Kernel, Launcher())
    return cast(Launcher, state.kernel)


def _suits(grad: Tensor, param: Tensor) -> bool:
    """Return whether the kernels can read a gradient, if need be after a copy."""
    return (
        type(grad) in PLAIN
        and grad.layout is torch.strided
        and grad.dtype == param.dtype
        and grad.device == param.device
        and grad.shape == param.shape
        and (torch.compiler.is_compiling() or not grad.is_neg())  # torch.compile cannot call is_neg
    )


def _are_alike(
    params: Sequence[Tensor], rows: Sequence[Sequence[Tensor]], others: Sequence[int], every: Sequence[Tensor]
) -> bool:
    """Return whether all states have their parameters' shape, dtype, device and memory layout."""
    whole = [*params, *(every[index] for index in others)]
    return all(
        type(own) in PLAIN
        and own.dtype == param.dtype
        and own.device == param.device
        and own.shape == param.shape
        and lie_alike(own, param)
        for row in rows
        for own, param in zip(row, whole, strict=False)
    )


def _place_for(out: Tensor | None, alpha: Tensor) -> Tensor:
    if out is None or not out.is_contiguous():
        return torch.zeros_like(alpha)
    alike = (out.dtype, out.device, out.shape) == (alpha.dtype, alpha.device, alpha.shape)
    return out if alike else torch.zeros_like(alpha)


def _numbers(
    direction: Direction, rate: Rate, options: StepOptions, alpha: Tensor, schedule: Tensor | float | None
) -> list[float]:
    """Return the numbers of a step in the order of ``triton_numbers``."""
    of_op, of_lop = gpu.numbers_of(direction), gpu.numbers_of(rate)
    low, high = options.lr_bounds or (-math.inf, math.inf)
    beta = 0.0 if isinstance(options.beta, Tensor) else options.beta
    return [
        -1.0 if options.maximize else 1.0,
        options.coupled_decay,
        options.decoupled_decay,
        *of_op,
        beta,
        *of_lop,
        *(low, high, options.trace_decay, options.max_relative_step, *options.first_relative_step),
        schedule if isinstance(schedule, float) else 1.0,
        torch.finfo(alpha.dtype).tiny,
        SMALLEST**2,
    ]
