"""A step whose h looks further back than one step, or whose size is held to that of the parameters.

.. code-block:: text

    h_t = −⟨g_t, z_{t−1}⟩                 or the cosine of it, −⟨g_t, z_{t−1}⟩ / (‖g_t‖ ‖z_{t−1}‖)
    α_t = lop(α_{t−1}, h_t)
    u_t = op(g_t);   e_t = u_t + λθ_{t−1}
    α_t = min(α_t, c ‖θ‖/‖e_t‖)           c: max_relative_step
    α_t = min(max(α_t, low ‖θ‖/‖e_t‖), high ‖θ‖/‖e_t‖)    as long as z_{t−1} = 0: first_relative_step
    d_t = s_t e_t;   z_t = γ z_{t−1} + d_t                 γ: trace_decay; 0 makes z the last d
    θ_t = θ_{t−1} − α_t d_t

Norms are over the tensors of one α that have a gradient, θ that of θ_{t−1} but at least ``SMALLEST`` per
element, in the root mean square, so that tensors that begin at zero can leave it. A tensor that rests adds
d = 0 to the trace of an α that it shares; the trace of a tensor with an α of its own rests with it.

The trace is one more buffer of the parameters' size for Adam and a heavy ball. For SGD and Nesterov momentum
it takes the place of the last direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
"""The root mean square of θ below which a step is measured against this instead."""


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
        operands: The tensors that have a gradient, without a kernel.
        state: The group's state.
        direction: The op.
        rate: The lop.
        options: The options of the step.
        alpha: The state's α.
        schedule: s, the factor of this step's α. ``None`` for 1.
        found_inf: 0-d. If it is not 0, nothing changes.
    """
    state.moves.clear()
    by_tensor, present = options.granularity == "tensor", operands.present
    traces = [own[TRACE] for own in operands.states]
    resting = _resting_traces(operands, state) if operands.resting and not by_tensor else []
    changed = [alpha, *state.rate.values(), *operands.params, *resting]
    changed += [value for own in operands.states for value in own.values()]
    with restore_if(found_inf, changed):
        # z is read before the op moves its states: g_t may be one of them.
        grads_and_traces = _sums(
            operands, alpha, [(operands.grads, traces), (operands.grads, None), (traces, None)]
        )
        steps = _directions(operands, direction, options.decoupled_decay)
        relative = (
            _sums(operands, alpha, [(operands.params, None), (steps, None)]) if options.is_held else None
        )
        if not by_tensor:
            grads_and_traces = grads_and_traces.sum(0)
            relative = None if relative is None else relative.sum(0)
        h, z_squares = _hypergradients(grads_and_traces, options)
        for trace in resting:  # they moved by the same α, so this is not its first step
            z_squares = z_squares + member_dot(trace, trace, alpha, operands.members is not None)
        limits = None
        if relative is not None:
            limits = _limits(relative, _elements(operands, alpha, by_tensor=by_tensor), z_squares, options)
        alphas = learn(alpha, h, rate, state.rate, options, present, operands.total, limits=limits)
        if schedule is not None:
            alphas = [one * schedule for one in alphas] if isinstance(alphas, list) else alphas * schedule
        if resting:
            torch._foreach_mul_(resting, options.trace_decay)
        torch._foreach_mul_(traces, options.trace_decay)
        move_by(traces, steps, -1.0 if schedule is None else -schedule)
        move_by(list(operands.params), steps, alphas)
    return scattered(h, present, operands.total) if by_tensor else h


def _directions(operands: Operands, direction: Direction, decay: float) -> list[Tensor]:
    """Move the op's states and return u_t + λθ of each tensor."""
    steps: list[Tensor] = []
    for block in operands.blocks:
        directions = direction.update(operands.grads[block], operands.states[block])
        if decay:
            directions = list(torch._foreach_add(directions, list(operands.params[block]), alpha=decay))
        steps += directions
    return steps


def _sums(
    operands: Operands, alpha: Tensor, pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor] | None]]
) -> Tensor:
    """Return the inner products of ``pairs``, (T', P, *members); ``None`` is a list with itself."""
    with_members = operands.members is not None
    rows = [
        torch.stack(
            [member_dot(a[index], (a if b is None else b)[index], alpha, with_members) for a, b in pairs]
        )
        for index in range(len(operands.params))
    ]
    return sum_over_shards(torch.stack(rows), operands.whole)


def _hypergradients(sums: Tensor, options: StepOptions) -> tuple[Tensor, Tensor]:
    """Return h and ⟨z, z⟩ from ⟨g, z⟩, ⟨g, g⟩ and ⟨z, z⟩, stacked on axis 0, or on axis 1 by tensor."""
    dots, g_squares, z_squares = sums.unbind(1 if options.granularity == "tensor" else 0)
    if not options.normalize:
        return dots.neg(), z_squares
    norms = g_squares.sqrt() * z_squares.sqrt()
    return dots.neg() / norms.clamp_min(torch.finfo(norms.dtype).tiny), z_squares


def _limits(
    relative: Tensor, elements: Tensor, z_squares: Tensor, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest α.

    Args:
        relative: ⟨θ, θ⟩ and ⟨e, e⟩, stacked as for ``_hypergradients``.
        elements: How many elements θ has.
        z_squares: ⟨z, z⟩, 0 before the first step.
        options: The options of the step.
    """
    theta_squares, squares = relative.unbind(1 if options.granularity == "tensor" else 0)
    # Infinite for a step that moves nothing.
    one = (torch.maximum(theta_squares, SMALLEST**2 * elements) / squares).sqrt()
    low, high = options.first_relative_step
    first = z_squares == 0
    lowest = torch.where(first & torch.isfinite(one), low * one, -torch.inf)
    largest = options.max_relative_step
    highest = torch.where(first, min(high, largest) * one, largest * one)
    return lowest, highest


def _elements(operands: Operands, alpha: Tensor, *, by_tensor: bool) -> Tensor:
    """Return how many real numbers each θ holds, of one member and on all ranks: by tensor, or of all."""
    sizes = [
        param.numel() * (2 if param.is_complex() else 1) // (operands.members or 1)
        for param in operands.whole
    ]
    if not by_tensor:
        return alpha.new_full((), sum(sizes))
    columns = torch.stack([alpha.new_full((), size) for size in sizes])
    return columns.reshape(-1, *[1] * (alpha.ndim - 1))


def _resting_traces(operands: Operands, state: State) -> list[Tensor]:
    """Return the traces of the tensors that have none in ``operands``, local and real."""
    moving = set(operands.present)
    return [
        view(own[TRACE]) for index, own in enumerate(state.params) if index not in moving and TRACE in own
    ]
