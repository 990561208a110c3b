"""The step of ``gpu.py`` as one operator, which torch.compile calls without tracing into it."""

from collections import OrderedDict
from typing import Optional

import torch
from torch import Tensor

from hypergrad.kernels import gpu, gpu_launcher

_LAUNCHERS: OrderedDict[tuple[int, int], gpu_launcher.Launcher] = OrderedDict()
_KEPT = 64
"""Launchers to keep, one per group of parameters. A group without one must send its table again."""


@torch.library.custom_op(
    "hypergrad::learned_step",
    mutates_args=("params", "along", "first", "second", "steps", "alpha", "h", "lop_state", "moves"),
)
def learned_step(
    params: list[Tensor],
    grads: list[Tensor],
    along: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    alpha: Tensor,
    h: Tensor,
    lop_state: list[Tensor],
    moves: list[Tensor],
    beta: Optional[Tensor],  # noqa: UP045  (torch reads these types)
    schedule: Optional[Tensor],  # noqa: UP045
    grad_scale: Optional[Tensor],  # noqa: UP045
    found_inf: Optional[Tensor],  # noqa: UP045
    op: str,
    lop: str,
    granularity: str,
    flags: list[bool],
    members: int,
    numbers: list[float],
    places: list[int],
    total: int,
) -> None:
    """Take a step in place.

    The arguments are the fields of ``gpu.Operands`` and ``gpu.Spec``, and the other arguments of
    ``Launcher.take``. ``moves`` holds the gains and the decays, if there are any, and ``flags`` the settings
    of ``gpu.Spec`` that are true or false, in their order.
    """
    gains, decays = (*moves, None, None)[:2]
    operands = gpu.Operands(
        *(params, grads, along, first, second, steps, alpha, h, lop_state, gains, decays),
        *(beta, schedule, grad_scale, found_inf),
    )
    key = (params[0].data_ptr(), len(params))
    launcher = _LAUNCHERS.setdefault(key, gpu_launcher.Launcher())
    _LAUNCHERS.move_to_end(key)
    while len(_LAUNCHERS) > _KEPT:
        _LAUNCHERS.popitem(last=False)
    spec = gpu.Spec._make((op, lop, granularity, *flags, members))
    launcher.take(operands, spec, numbers, places, total)


@learned_step.register_fake
def _(*_: object) -> None:
    return None


def take(given: gpu.Operands, spec: gpu.Spec, numbers: list[float], places: list[int], total: int) -> None:
    """Call the operator with the arguments of ``gpu_launcher.Launcher.take``."""
    moves = [value for value in (given.gains, given.decays) if value is not None]
    learned_step(
        *(list(tensors) for tensors in given[:6]),
        given.alpha,
        given.h,
        list(given.lop_state),
        moves,
        *given[11:],
        *spec[:3],
        list(spec[3:-1]),
        spec.members,
        numbers,
        places,
        total,
    )
