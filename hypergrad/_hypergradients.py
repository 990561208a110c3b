"""The hypergradient h_t = −⟨g_t, d_{t−1}⟩ of each tensor, where d_{t−1} is the direction of the last step.

    d = s(u + λθ)        s: the schedule's factor, λ: decoupled weight decay; without both d = u

The op stores only u. d follows without storing θ_{t−2}, since θ_{t−1} = θ_{t−2} − α_{t−1}d_{t−1}:

    d_{t−1} = c·(u_{t−1} + λθ_{t−1}),   c = s/(1 − α_{t−1}sλ)

So two numbers describe a tensor's last move: its ``gain`` c and its ``decay`` λ. This holds as long as
nothing but the optimizer moves the parameters.

``Moves`` stores them, as tensors of shape (T, *members) and (T,). It is empty if c is 1 and λ is 0 for every
tensor, so that d = u. Tensors that share an α move in the same steps, those of them that have a gradient.
A tensor that rests has d = 0, so its c is 0. If a tensor with an α of its own rests, its α rests too, so its
c and λ stay: its h is the slope along its own last move.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad._operands import Operands
from hypergrad._state import Moves, StepOptions
from hypergrad._tensor_views import sum_over_shards
from hypergrad.directions import Direction


def remember(
    moves: Moves,
    alphas: Tensor | Sequence[Tensor],
    schedule: Tensor | float,
    decay: float,
    present: Sequence[int],
    *,
    shared: bool,
) -> None:
    """Store a move in ``moves``.

    Args:
        moves: The last moves of all T tensors. Changes in place.
        alphas: The α of this step: one for all tensors, or a list with one for each that has a gradient.
        schedule: The schedule's factor s: a number, or a tensor that is 0-d or (*members).
        decay: The decoupled weight decay λ.
        present: The indices of the tensors that have a gradient.
        shared: Whether the tensors share an α, so that the gain of those without a gradient becomes 0.
    """
    if not isinstance(alphas, Tensor):
        alphas = torch.stack(list(alphas))
    gains = (schedule / (1 - alphas * schedule * decay)).expand(len(present), *moves["gain"].shape[1:])
    if shared and len(present) < len(moves["gain"]):
        moves["gain"].zero_()
    _rows(moves, "gain", present, write=gains)
    if "decay" in moves:
        _rows(moves, "decay", present, write=moves["decay"].new_full((len(present),), decay))


def begin(moves: Moves, tensors: int, alpha: Tensor, *, by_tensor: bool, decay: float) -> None:
    """Add the gains and decays that ``moves`` lacks, for tensors that have moved by d = u so far.

    Args:
        moves: The last moves. Changes in place.
        tensors: The number T of the group's tensors.
        alpha: α, of shape (*members), or (T, *members) if ``by_tensor``.
        by_tensor: Whether α has an axis for the tensors.
        decay: The decoupled weight decay λ of the next move.
    """
    members = alpha.shape[1:] if by_tensor else alpha.shape
    if "gain" not in moves:
        moves["gain"] = alpha.new_ones((tensors, *members))
    if decay and "decay" not in moves:
        moves["decay"] = alpha.new_zeros(tensors)


def hypergradients(
    operands: Operands, direction: Direction, alpha: Tensor, moves: Moves, options: StepOptions
) -> Tensor:
    """Return h of each tensor, (T', *members), or for granularity ``"group"`` of all together, (*members).

    With ``options.normalize`` h is a cosine, −⟨g, d⟩ / (‖g‖‖d‖), or 0 where g or d is 0.

    Args:
        operands: The T' tensors that have a gradient, with the op's states of step t − 1. A kernel, if there
            is one, also moves the states.
        direction: The op.
        alpha: α. Its dtype and device are those of h.
        moves: The last moves of all T tensors.
        options: The options of the step.
    """
    present, by_group = operands.present, options.granularity == "group"
    decays = _rows(moves, "decay", present) if "decay" in moves else None
    if operands.kernel is not None:
        dots = operands.kernel.products(decays=decays, norms=options.normalize).to(alpha.dtype)
    else:
        dots = products(operands, direction, alpha, decays=decays, norms=options.normalize)
    dots = sum_over_shards(dots, operands.whole)
    gains = _rows(moves, "gain", present) if moves else None
    if not options.normalize:
        h = dots.neg_() if gains is None else dots.mul_(gains).neg_()
        return h.sum(0) if by_group else h
    dots, g_squares, d_squares = dots.unbind(1)
    if gains is not None:
        dots, d_squares = dots * gains, d_squares * gains**2
    if by_group:
        dots, g_squares, d_squares = dots.sum(0), g_squares.sum(0), d_squares.sum(0)
    norms = g_squares.sqrt() * d_squares.sqrt()
    return dots.neg() / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def products(
    operands: Operands, direction: Direction, alpha: Tensor, *, decays: Tensor | None, norms: bool
) -> Tensor:
    """Return ⟨g, d⟩ of each tensor, of shape (T', *members).

    Args:
        operands: The T' tensors that have a gradient, with the op's states of step t − 1.
        direction: The op.
        alpha: α. Its dtype and device are those of the products.
        decays: The λ of each tensor in d = u + λθ, of shape (T',). ``None`` means d = u.
        norms: Whether to return ⟨g, d⟩, ⟨g, g⟩ and ⟨d, d⟩, of shape (T', 3, *members).
    """
    with_members = operands.members is not None
    rows: list[Tensor] = []
    for block in operands.blocks:
        previous = direction.previous(operands.states[block])
        if decays is not None:
            previous = [
                torch.addcmul(u.to(alpha.dtype), theta.to(alpha.dtype), decay.to(theta.device))
                for u, theta, decay in zip(previous, operands.params[block], decays[block], strict=True)
            ]
        for g, d in zip(operands.grads[block], previous, strict=True):
            row = member_dot(g, d, alpha, with_members)
            if norms:
                squares = [member_dot(x, x, alpha, with_members) for x in (g, d)]
                row = torch.stack([row, *squares])
            rows.append(row)
    return torch.stack(rows)


def _rows(moves: Moves, name: str, present: Sequence[int], write: Tensor | None = None) -> Tensor:
    """Copy ``write`` into the rows of the tensors ``present``, unless it is ``None``; return the rows."""
    value = moves[name]
    if len(present) == len(value):
        return value if write is None else value.copy_(write)
    # Take single rows: an index tensor would first have to go to the device.
    rows = [value[index] for index in present]
    if write is not None:
        torch._foreach_copy_(rows, list(write.unbind()))
    return torch.stack(rows)


def member_dot(a: Tensor, b: Tensor, alpha: Tensor, with_members: bool) -> Tensor:
    """Return ⟨a, b⟩ over all elements, or per member, in α's dtype and on α's device."""
    if not with_members:
        return dot(a, b, alpha.dtype).to(alpha.device)
    members, a, b = a.shape[0], a.to(alpha.dtype), b.to(alpha.dtype)
    dots: Tensor = torch.linalg.vecdot(a.reshape(members, -1), b.reshape(members, -1))
    return dots.to(alpha.device)


def dot(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ⟨a, b⟩ over all elements, accumulated in ``dtype``."""
    if a.dtype != dtype or b.dtype != dtype:
        a, b = a.to(dtype), b.to(dtype)
    if a.ndim != 1:  # saves a call, which counts in the step of a small model
        if not a.is_contiguous() and a.stride() == b.stride():
            # Both have the same layout, such as channels_last: in memory order no copy is needed.
            order = sorted(range(a.ndim), key=a.stride, reverse=True)
            a, b = a.permute(order), b.permute(order)
        a, b = a.ravel(), b.ravel()
    return a.dot(b)
