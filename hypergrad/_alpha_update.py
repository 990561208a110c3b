"""How α moves by h: the rate rule's moves, added or multiplied, within bounds, at each granularity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad._state import StepOptions
from hypergrad.rates import Rate, RateState


def alpha_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of α and h for ``params``: theirs, but never below float32."""
    dtype = torch.float32
    for param in params:
        own = param.dtype.to_real() if param.dtype.is_complex else param.dtype  # to_real cannot be compiled
        dtype = torch.promote_types(dtype, own)
    return dtype


def learn(
    alpha: Tensor,
    h: Tensor,
    rate: Rate,
    state: RateState,
    options: StepOptions,
    present: Sequence[int],
    total: int,
) -> Tensor | list[Tensor]:
    """Move ``alpha`` and ``state`` in place; return the α that the tensors move by: one, or one for each.

    .. code-block:: text

        α_t = α_{t−1} − β lop(h_t)                  additive
        α_t = α_{t−1} exp(−β lop(α_{t−1} h_t))      multiplicative: the same rule on log α, whose
                                                    hypergradient is αh; α stays positive
        α_t = α_{t−1} exp(−β lop(h_t))              multiplicative, h normalised: a cosine has no scale
        α_t = min(max(α_t, low), high)              bounds

    Args:
        alpha: (*members), or (total, *members) for ``"tensor"``.
        h: (*members) for ``"group"``, else (T', *members), a row for each of the tensors ``present``.
        rate: the lop.
        state: its state, with a row for each of the ``total`` tensors unless ``"group"``.
        options: β, granularity, bounds, and whether to multiply; ``normalize`` says that h has no scale.
        present: the places of the T' tensors that have a gradient; rows of others stay.
        total: T.
    """
    granularity, bounds, multiplicative = options.granularity, options.lr_bounds, options.multiplicative
    if granularity == "group":
        if multiplicative and not options.normalize:
            h = h * alpha
        return _move(alpha, rate.update(h, state) * options.beta, multiplicative, bounds)
    if multiplicative and not options.normalize:
        every = granularity == "released" or len(present) == total
        h = h * (alpha if every else torch.stack([alpha[index] for index in present]))
    moves = _by_tensor(rate, h, state, present, total) * options.beta
    if granularity == "tensor":
        _move(alpha, scattered(moves, present, total), multiplicative, bounds)
        return [alpha[index] for index in present]
    if bounds is None:
        # No move depends on α so far: the path is a cumulative sum.
        sums = moves.cumsum(0)
        path = list((alpha * torch.exp(-sums) if multiplicative else alpha - sums).unbind())
    else:
        path = [_move(alpha, move, multiplicative, bounds).clone() for move in moves.unbind()]
    alpha.copy_(path[-1])
    return path


def scattered(rows: Tensor, present: Sequence[int], total: int) -> Tensor:
    """``rows`` with rows of 0 for the tensors that are not ``present``."""
    if len(present) == total:
        return rows
    whole = rows.new_zeros((total, *rows.shape[1:]))
    torch._foreach_copy_([whole[index] for index in present], list(rows.unbind()))
    return whole


def _move(alpha: Tensor, moves: Tensor, multiplicative: bool, bounds: tuple[float, float] | None) -> Tensor:
    """Move ``alpha`` in place and return it."""
    if multiplicative:
        alpha.mul_(torch.exp(-moves))
    else:
        alpha.sub_(moves)
    return alpha if bounds is None else alpha.clamp_(*bounds)


def _by_tensor(rate: Rate, h: Tensor, state: RateState, present: Sequence[int], total: int) -> Tensor:
    """``rate.update`` with one row of ``state`` per tensor, of which only those ``present`` move."""
    if len(present) == total:
        return rate.update(h, state)
    # Rows are stacked and copied back: an index tensor would have to be sent to the device.
    rows = {key: [value[index] for index in present] for key, value in state.items()}
    packed = {key: torch.stack(value) for key, value in rows.items()}
    moves = rate.update(h, packed)
    for key, value in rows.items():
        torch._foreach_copy_(value, packed[key].unbind())
    return moves
