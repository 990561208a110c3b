"""The update of α by the lop, at each granularity: additive or multiplicative, within bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad._state import StepOptions
from hypergrad.rates import Rate, RateState


def alpha_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of α and h: the real dtype that ``params`` promote to, at least float32."""
    dtype = torch.float32
    for param in params:
        own = param.dtype.to_real() if param.dtype.is_complex else param.dtype  # to_real does not compile
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
    *,
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor | list[Tensor]:
    """Update α and the lop's state in place, and return the α of this step.

        α_t = α_{t−1} − β lop(h_t)                  additive
        α_t = α_{t−1} exp(−β lop(α_{t−1} h_t))      multiplicative: the same rule on log α, whose
                                                    hypergradient is αh; α stays positive
        α_t = α_{t−1} exp(−β lop(h_t))              multiplicative and normalized: a cosine has no scale
        α_t = min(max(α_t, low), high)              limits of the step, then bounds

    Args:
        alpha: α, of shape (*members), or (T, *members) for granularity ``"tensor"``. Changes in place.
        h: The hypergradients in α's dtype, of shape (*members) for granularity ``"group"``, else
            (T', *members): one row for each tensor that has a gradient.
        rate: The lop.
        state: The lop's state. Except for ``"group"`` it has one row for each of the T tensors. Changes in
            place.
        options: The options of the step.
        present: The indices of the T' tensors that have a gradient. Rows of other tensors do not change.
        total: The number T of the group's tensors.
        limits: The smallest and the largest α of this step, each in the shape of ``h``. Not for
            ``"released"``. ``options.lr_bounds`` take precedence. Default ``None``: no limits.

    Returns:
        One α for all tensors, of shape (*members), for granularity ``"group"``; else a list of T' tensors of
        that shape, one for each tensor that has a gradient.
    """
    granularity, bounds, multiplicative = options.granularity, options.lr_bounds, options.multiplicative
    if granularity == "group":
        if multiplicative and not options.normalize:
            h = h * alpha
        return _take(alpha, rate.update(h, state) * options.beta, multiplicative, bounds, limits)
    if multiplicative and not options.normalize:
        every = granularity == "released" or len(present) == total
        h = h * (alpha if every else torch.stack([alpha[index] for index in present]))
    steps = _by_tensor(rate, h, state, present, total) * options.beta
    if granularity == "tensor":
        if limits is not None:
            # A tensor that rests keeps its α: its limits are that α.
            limits = (_spread(limits[0], alpha, present, total), _spread(limits[1], alpha, present, total))
        _take(alpha, scattered(steps, present, total), multiplicative, bounds, limits)
        return [alpha[index] for index in present]
    if bounds is None:
        # No step of α depends on the α before it, so the α of all tensors are a cumulative sum.
        sums = steps.cumsum(0)
        alphas = list((alpha * torch.exp(-sums) if multiplicative else alpha - sums).unbind())
    else:
        alphas = [_take(alpha, step, multiplicative, bounds).clone() for step in steps.unbind()]
    alpha.copy_(alphas[-1])
    return alphas


def scattered(rows: Tensor, present: Sequence[int], total: int) -> Tensor:
    """Return ``rows``, of shape (T', ...), as (T, ...): tensors without a gradient get rows of 0."""
    if len(present) == total:
        return rows
    whole = rows.new_zeros((total, *rows.shape[1:]))
    torch._foreach_copy_([whole[index] for index in present], list(rows.unbind()))
    return whole


def _spread(rows: Tensor, alpha: Tensor, present: Sequence[int], total: int) -> Tensor:
    """Return ``rows``, of shape (T', ...), as (T, ...): tensors without a gradient get rows of ``alpha``."""
    if len(present) == total:
        return rows
    whole = alpha.clone()
    torch._foreach_copy_([whole[index] for index in present], list(rows.unbind()))
    return whole


def _take(
    alpha: Tensor,
    steps: Tensor,
    multiplicative: bool,
    bounds: tuple[float, float] | None,
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Move ``alpha`` by ``steps`` in place, within the limits and then the bounds, and return it."""
    if multiplicative:
        alpha.mul_(torch.exp(-steps))
    else:
        alpha.sub_(steps)
    if limits is not None:
        alpha.clamp_(*limits)
    return alpha if bounds is None else alpha.clamp_(*bounds)


def _by_tensor(rate: Rate, h: Tensor, state: RateState, present: Sequence[int], total: int) -> Tensor:
    """Return ``rate.update`` of T' rows of ``state``, and update only these rows."""
    if len(present) == total:
        return rate.update(h, state)
    # Stack the rows and copy them back: an index tensor would first have to go to the device.
    rows = {key: [value[index] for index in present] for key, value in state.items()}
    packed = {key: torch.stack(value) for key, value in rows.items()}
    steps = rate.update(h, packed)
    for key, value in rows.items():
        torch._foreach_copy_(value, packed[key].unbind())
    return steps
