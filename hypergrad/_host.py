"""α learned in Python's own numbers, for one α per group on a CPU.

There a handful of calls of torch on single numbers takes longer than to move ten thousand parameters. What
``learning.learn`` does in α's dtype is done in double precision here, and rounded where it is stored.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad import rates
from hypergrad._hypergradients import dot
from hypergrad.directions import Direction, ParamState
from hypergrad.kernels import Kernel

_Cell = ctypes.c_float | ctypes.c_double
_CELLS: dict[torch.dtype, type[ctypes.c_float] | type[ctypes.c_double]] = {
    torch.float32: ctypes.c_float,
    torch.float64: ctypes.c_double,
}
_STATES: dict[type, tuple[str, ...]] = {
    rates.SGD: (),
    rates.SGDN: ("momentum_buffer",),
    rates.Adam: ("step", "exp_avg", "exp_avg_sq"),
    rates.AdaGrad: ("sum",),
    rates.Lion: ("exp_avg",),
}
_PLAIN = {Tensor, torch.nn.Parameter}


def can_learn(alpha: Tensor, rate: rates.Rate, state: rates.RateState, tensors: Sequence[Tensor]) -> bool:
    """Whether ``learn`` takes these, and the host may read the products of ``tensors`` without waiting."""
    dtype = alpha.dtype
    if type(rate) not in _STATES or dtype not in _CELLS or torch.compiler.is_compiling():
        return False
    for tensor in (alpha, *state.values()):
        if type(tensor) is not Tensor or tensor.dtype != dtype or tensor.ndim or not tensor.is_cpu:
            return False
    return all(type(tensor) in _PLAIN and tensor.is_cpu for tensor in tensors)


def products(
    grads: Sequence[Tensor],
    states: Sequence[ParamState],
    direction: Direction,
    dtype: torch.dtype,
    *,
    blocks: Sequence[slice],
    norms: bool,
    kernel: Kernel | None,
) -> list[float]:
    """Return for ``learn`` the sums of products, by a kernel, which then moves the states, or without.

    Args:
        grads: g_t of each tensor.
        states: of each, before g_t moves them.
        direction: the op that the states belong to.
        dtype: of α.
        blocks: the parts of the lists that are worked on at a time.
        norms: whether the squares are wanted.
        kernel: see above.
    """
    if kernel is not None:
        found: list[Any] = kernel.products(norms=norms).tolist()
        return [sum(column) for column in zip(*found, strict=True)] if norms else [sum(found)]
    sums = [0.0] * (3 if norms else 1)
    for block in blocks:
        for g, u in zip(grads[block], direction.previous(states[block]), strict=True):
            pairs = ((g, u), (g, g), (u, u)) if norms else ((g, u),)
            for index, (a, b) in enumerate(pairs):
                sums[index] += dot(a, b, dtype).item()
    return sums


def learn(
    sums: Sequence[float],
    alpha: Tensor,
    rate: rates.Rate,
    state: rates.RateState,
    hypergrad_lr: float,
    out: Tensor | None = None,
    *,
    multiplicative: bool = False,
    normalize: bool = False,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Move ``alpha`` and ``state`` in place and return h, which goes to ``out`` if that is like it.

    Args:
        sums: ⟨g_t, u_{t−1}⟩ over all tensors, and with ``normalize`` ⟨g, g⟩ and ⟨u, u⟩ as well.
        alpha: 0-d.
        rate: the lop.
        state: its state.
        hypergrad_lr: β.
        out: see above.
        multiplicative: see ``learning.learn``.
        normalize: h is the cosine.
        bounds: the smallest and the largest α.
    """
    cell = _CELLS[alpha.dtype].from_address
    alike = out is not None and out.dtype == alpha.dtype and out.is_cpu and not out.ndim
    h = out if out is not None and alike else torch.empty_like(alpha)
    written = [alpha, h]
    for name in _STATES[type(rate)]:
        written.append(state[name])
    cells: list[Any] = list(map(cell, map(Tensor.data_ptr, written)))
    alpha_cell, h_cell, *own = cells
    if normalize:
        norms = math.sqrt(sums[1]) * math.sqrt(sums[2])
        h_cell.value = -sums[0] / max(norms, torch.finfo(alpha.dtype).tiny)
    else:
        h_cell.value = -sums[0]
    before, moves = alpha_cell.value, h_cell.value
    if multiplicative and not normalize:
        moves *= before
    moves = hypergrad_lr * (_moves(rate, moves, own) if own else moves)
    after = before * _exp(-moves) if multiplicative else before - moves
    alpha_cell.value = after if bounds is None else min(max(after, bounds[0]), bounds[1])
    # Autograd must hear of writes that it does not see.
    torch._C._increment_version(written)
    return h


def _moves(rate: rates.Rate, h: float, state: Sequence[_Cell]) -> float:
    """``rate.update``, on numbers, for a rule with a state."""
    if isinstance(rate, rates.SGDN):
        (buffer,) = state
        buffer.value = rate.momentum * buffer.value + h
        return h + rate.momentum * buffer.value
    if isinstance(rate, rates.Adam):
        step, m, v = state
        beta1, beta2 = rate.betas
        step.value += 1
        m.value += (1 - beta1) * (h - m.value)
        v.value = beta2 * v.value + (1 - beta2) * h * h
        root = math.sqrt(v.value / (1 - beta2**step.value))
        return float(m.value / (1 - beta1**step.value) / (root + rate.eps))
    if isinstance(rate, rates.AdaGrad):
        (total,) = state
        total.value += h * h
        return h / (math.sqrt(total.value) + rate.eps)
    assert isinstance(rate, rates.Lion)
    (m,) = state
    beta1, beta2 = rate.betas
    ahead = beta1 * m.value + (1 - beta1) * h
    m.value += (1 - beta2) * (h - m.value)
    return (ahead > 0) - (ahead < 0)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
