"""A step with a learned α, of any tensors and with any options: h, then α, then the parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from hypergrad._alpha_update import learn, scattered
from hypergrad._hypergradients import begin, hypergradients, remember
from hypergrad._operands import Operands
from hypergrad._param_update import move_all
from hypergrad._skipped_steps import restore_if
from hypergrad._state import State, StepOptions
from hypergrad.directions import Direction
from hypergrad.rates import Rate


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
        schedule: The factor s of this step's α, as in ``functional.update``. ``None`` means 1.
        found_inf: A 0-d tensor. If it is not 0, nothing changes. ``None`` means 0.
    """
    if found_inf is not None:
        # Summed over devices it may be 2, and torch's kernels look for 1.
        found_inf = (found_inf != 0).to(torch.float32)
    decay, moves, by_tensor = options.decoupled_decay, state.moves, options.granularity == "tensor"
    if decay or schedule is not None or (operands.resting and not by_tensor):
        begin(moves, operands.total, alpha, by_tensor=by_tensor, decay=decay)
    with restore_if(found_inf, [alpha, *state.rate.values(), *moves.values()]):
        h = hypergradients(operands, direction, alpha, moves, options)
        alphas = learn(alpha, h, rate, state.rate, options, operands.present, operands.total)
        if not (decay or operands.resting) and schedule is None and found_inf is None:
            moves.clear()
        elif moves:
            factor = 1.0 if schedule is None else schedule
            remember(moves, alphas, factor, decay, operands.present, shared=not by_tensor)
    if by_tensor:
        h = scattered(h, operands.present, operands.total)
    elif options.granularity == "released":
        h = h.sum(0)
    if schedule is not None:
        alphas = [one * schedule for one in alphas] if isinstance(alphas, list) else alphas * schedule
    if operands.kernel is not None:
        operands.kernel.move(torch.stack(alphas) if isinstance(alphas, list) else alphas, decay=decay)
    else:
        move_all(operands, direction, alphas, decay=decay, fused=bool(options.fused), found_inf=found_inf)
    return h
