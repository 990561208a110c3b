"""A step whose h looks back over several steps, or whose length has a limit relative to ‖θ‖.

    h_t = −⟨g_t, z_{t−1}⟩                 or the cosine of it, −⟨g_t, z_{t−1}⟩ / (‖g_t‖ ‖z_{t−1}‖)
    α_t = lop(α_{t−1}, h_t)
    u_t = op(g_t);   e_t = u_t + λθ_{t−1}
    α_t = min(α_t, c ‖θ‖/‖e_t‖)           c: max_relative_step
    α_t = min(max(α_t, low ‖θ‖/‖e_t‖), high ‖θ‖/‖e_t‖)    as long as z_{t−1} = 0: first_relative_step
    d_t = s_t e_t;   θ_t = θ_{t−1} − α_t d_t
    z_t = γ (1 − max(cos_t, 0)^POWER) z_{t−1} + d_t        γ: trace_decay; cos_t that of h_t

Norms are over the tensors of one α that have a gradient. The root mean square of θ_{t−1} counts as at least
``SMALLEST``, so that tensors that begin at zero can move. If a tensor that shares its α rests, the trace gets
d = 0 for it; if a tensor with an α of its own rests, its trace rests too.

A gradient that opposes the whole trace says that the last steps went too far. They are then no guide to the
next steps, so the trace forgets them; else α would fall for as long as the trace remembers.

The trace is one more buffer of the parameters' size for Adam and a heavy ball. For SGD and Nesterov momentum
it takes the place of the last direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad import _fast_path, kernels
from hypergrad._alpha_update import learn, scattered
from hypergrad._hypergradients import member_dot
from hypergrad._operands import Operands
from hypergrad._param_update import move_by
from hypergrad._skipped_steps import restore_if
from hypergrad._state import TRACE, State, StepOptions
from hypergrad._tensor_views import sum_over_shards, view
from hypergrad.directions import Direction
from hypergrad.rates import Rate

SMALLEST = 1e-3
"""The smallest root mean square of θ for the limits of a step; a smaller one counts as this."""

POWER = 4
"""High, so that small cosines, which are noise, hardly shorten the trace."""


def repeat_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    rate: Rate,
    options: StepOptions,
    alpha: Tensor,
    schedule: Tensor | float | None,
) -> Tensor | None:
    """Take a step in place with the kernel of the last step and Python's own numbers, and return h.

    Return ``None``, with nothing moved, if the kernel or the lop does not suit this step. The arguments are
    those of ``functional.update``.
    """
    kernel = state.kernel
    if kernel is None or _fast_path.number_rule(alpha, rate, state.rate, options) is None:
        return None
    if not _fast_path.renew(kernel, params, grads, state, direction, options):
        return None
    return _step_by_numbers(kernel, sum(map(Tensor.numel, params)), state, rate, options, alpha, schedule)


def step(
    operands: Operands,
    state: State,
    direction: Direction,
    rate: Rate,
    options: StepOptions,
    alpha: Tensor,
    schedule: Tensor | float | None,
    found_inf: Tensor | None,
) -> Tensor:
    """Take a step in place and return h in the shape of α.

    Args:
        operands: The tensors that have a gradient.
        state: The group's state.
        direction: The op.
        rate: The lop.
        options: The options of the step.
        alpha: The state's α.
        schedule: The factor s of this step's α. With a kernel it must be one number. ``None`` means 1.
        found_inf: A 0-d tensor. If it is not 0, nothing changes. With a kernel it must be ``None``, which
            means 0.
    """
    state.moves.clear()
    by_tensor, present, kernel = options.granularity == "tensor", operands.present, operands.kernel
    resting = _resting_traces(operands, state) if operands.resting and not by_tensor else []
    if kernel is not None and not resting and operands.total == len(present):
        elements = sum(map(Tensor.numel, operands.params))
        h = _step_by_numbers(kernel, elements, state, rate, options, alpha, schedule)
        if h is not None:
            return h
    traces = [own[TRACE] for own in operands.states]
    decay, with_members = options.decoupled_decay, operands.members is not None
    changed = [alpha, *state.rate.values(), *operands.params, *resting]
    changed += [value for own in operands.states for value in own.values()]
    with restore_if(found_inf, changed):
        steps: list[Tensor] = []
        if kernel is not None:
            sums = kernel.traced_products(decay=decay).to(alpha.dtype)
        else:
            # Read z before the op moves its states: u may be part of one.
            pairs = [(operands.grads, traces), (operands.grads,) * 2, (traces, traces)]
            products = _products(pairs, alpha, with_members)
            steps = _directions(operands, direction, decay)
            if options.is_held:
                products += _products([(operands.params,) * 2, (steps, steps)], alpha, with_members)
            sums = torch.stack([torch.stack(row) for row in products]).transpose(0, 1)
        sums = sum_over_shards(sums.contiguous(), operands.whole)
        dots, g_squares, z_squares, *relative = sums.unbind(1) if by_tensor else sums.sum(0).unbind()
        tiny = torch.finfo(dots.dtype).tiny
        cosine = dots.neg() / (g_squares.sqrt() * z_squares.sqrt()).clamp_min(tiny)
        h = cosine if options.normalize else dots.neg()
        for trace in resting:  # they moved by this α, so this is not its first step
            z_squares = z_squares + member_dot(trace, trace, alpha, with_members)
        limits = None
        if options.is_held:
            limits = _limits(relative, _elements(operands, alpha, by_tensor=by_tensor), z_squares, options)
        alphas = learn(alpha, h, rate, state.rate, options, present, operands.total, limits=limits)
        keep = options.trace_decay * (1 - cosine.clamp(0, 1) ** POWER)
        _multiply(resting, keep)
        if kernel is not None:
            factor = 1.0 if schedule is None else float(schedule)
            moved = torch.stack(alphas) if isinstance(alphas, list) else alphas
            kernel.move_traced(moved * factor, keep, decay=decay, schedule=factor)
        else:
            if schedule is not None:
                alphas = [one * schedule for one in alphas] if isinstance(alphas, list) else alphas * schedule
            _multiply(traces, keep.unbind() if by_tensor else keep)
            move_by(traces, steps, -1.0 if schedule is None else -schedule)
            move_by(list(operands.params), steps, alphas)
    return scattered(h, present, operands.total) if by_tensor else h


def _step_by_numbers(
    kernel: kernels.Kernel,
    elements: int,
    state: State,
    rate: Rate,
    options: StepOptions,
    alpha: Tensor,
    schedule: Tensor | float | None,
) -> Tensor | None:
    """Take a step of all of a group's tensors with Python's own numbers, and return h, or ``None``.

    ``elements`` is the number of elements of all tensors.
    """
    rule = _fast_path.number_rule(alpha, rate, state.rate, options)
    if rule is None:
        return None
    decay, factor = options.decoupled_decay, 1.0 if schedule is None else float(schedule)
    dot, g_square, z_square, theta_square, square = kernel.traced_products(decay=decay).sum(0).tolist()
    low, high = -math.inf, math.inf
    if options.is_held and square:
        one = math.sqrt(max(theta_square, SMALLEST**2 * elements) / square)
        high = options.max_relative_step * one
        if not z_square:
            low = options.first_relative_step[0] * one
            high = min(high, options.first_relative_step[1] * one)
    sums = (dot, g_square, z_square) if options.normalize else (dot,)
    h = _fast_path.learn(sums, alpha, rule, state.rate, options, state.h, limits=(low, high))
    norms = math.sqrt(g_square) * math.sqrt(z_square)
    opposed = min(max(-dot / norms, 0.0), 1.0) if norms else 0.0
    keep = alpha.new_full((), options.trace_decay * (1 - opposed**POWER))
    kernel.move_traced(alpha if factor == 1 else alpha * factor, keep, decay=decay, schedule=factor)
    return h


def _multiply(traces: Sequence[Tensor], keep: Tensor | Sequence[Tensor]) -> None:
    """Multiply traces in place by one ``keep``, or by one for each; a keep is 0-d or (*members)."""
    rows = [keep] * len(traces) if isinstance(keep, Tensor) else keep
    for trace, row in zip(traces, rows, strict=True):
        trace.mul_(
            row.to(trace.device).reshape(row.shape + (1,) * (trace.ndim - row.ndim) if row.ndim else ())
        )


def _directions(operands: Operands, direction: Direction, decay: float) -> list[Tensor]:
    """Move the op's states and return u_t + λθ of each tensor."""
    steps: list[Tensor] = []
    for block in operands.blocks:
        directions = direction.update(operands.grads[block], operands.states[block])
        if decay:
            directions = list(torch._foreach_add(directions, list(operands.params[block]), alpha=decay))
        steps += directions
    return steps


def _products(
    pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], alpha: Tensor, with_members: bool
) -> list[list[Tensor]]:
    """Return each pair's inner products, of shape (*members), in α's dtype and on its device."""
    return [[member_dot(a, b, alpha, with_members) for a, b in zip(*pair, strict=True)] for pair in pairs]


def _limits(
    relative: Sequence[Tensor], elements: Tensor, z_squares: Tensor, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest α of this step, both in the shape of h.

    Args:
        relative: ⟨θ, θ⟩ and ⟨e, e⟩, in the shape of h.
        elements: The number of θ's elements, 0-d or for each tensor.
        z_squares: ⟨z, z⟩ in the shape of h, 0 before the first step.
        options: The options of the step.
    """
    theta_squares, squares = relative
    # Infinite for a step that moves nothing.
    one = (torch.maximum(theta_squares, SMALLEST**2 * elements) / squares).sqrt()
    low, high = options.first_relative_step
    first = z_squares == 0
    lowest = torch.where(first & torch.isfinite(one), low * one, -torch.inf)
    largest = options.max_relative_step
    highest = torch.where(first, min(high, largest) * one, largest * one)
    return lowest, highest


def _elements(operands: Operands, alpha: Tensor, *, by_tensor: bool) -> Tensor:
    """Return the count of real numbers in θ, of one member and on all ranks: of each tensor, or of all."""
    sizes = [
        param.numel() * (2 if param.is_complex() else 1) // (operands.members or 1)
        for param in operands.whole
    ]
    if not by_tensor:
        return alpha.new_full((), sum(sizes))
    columns = torch.stack([alpha.new_full((), size) for size in sizes])
    return columns.reshape(-1, *[1] * (alpha.ndim - 1))


def _resting_traces(operands: Operands, state: State) -> list[Tensor]:
    """Return the traces, local and real, of the tensors that have a trace but no gradient."""
    moving = set(operands.present)
    return [
        view(own[TRACE]) for index, own in enumerate(state.params) if index not in moving and TRACE in own
    ]
