"""What comes before and after the direction in ``functional.update``: the gradients it sees, and the move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from hypergrad._cache_blocking import step_pieces
from hypergrad.directions import Direction, ParamState

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Alphas = Tensor | float | list[Tensor]
"""One α for all tensors, or a list of one per tensor."""


def without_grad(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``torch.no_grad()`` as a decorator that takes less time."""

    @wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if torch.compiler.is_compiling():
            with torch.no_grad():
                return function(*args, **kwargs)
        torch._C._set_grad_enabled(False)
        try:
            return function(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(True)

    return wrapped


def prepared(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    weight_decay: float,
    maximize: bool,
    scale: Tensor | None,
) -> list[Tensor]:
    """The gradients as the op is to see them: unscaled, of what is to fall, with coupled weight decay."""
    grads = list(grads)
    if scale is not None:
        inverse = scale.double().reciprocal().float()  # as GradScaler does
        grads = list(torch._foreach_mul(grads, inverse))
    if maximize:
        grads = list(torch._foreach_neg(grads))
    if weight_decay:
        grads = list(torch._foreach_add(grads, list(params), alpha=weight_decay))
    return grads


@contextmanager
def kept_if(found_inf: Tensor | None, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Undo at the end what happened to ``tensors`` if ``found_inf`` is not 0. For small ones: it copies."""
    if found_inf is None:
        yield
        return
    before = [tensor.clone() for tensor in tensors]
    yield
    for tensor, kept in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(found_inf.to(tensor.device) != 0, kept, tensor))


def move_all(
    operands: tuple[list[Tensor], list[Tensor], list[ParamState]],
    direction: Direction,
    alphas: Alphas,
    blocks: Sequence[slice],
    *,
    decay: float,
    fused: bool,
    found_inf: Tensor | None,
    with_members: bool,
) -> None:
    """Move the states to u_t, then θ ← θ − α (u_t + λθ).

    Args:
        operands: the parameters, their gradients and states.
        direction: the op.
        alphas: α, the schedule's factor included.
        blocks: the parts of the lists that are worked on at a time.
        decay: λ.
        fused: by torch's fused kernels.
        found_inf: if it is not 0, nothing moves; for ``fused`` alone.
        with_members: whether the first axis of a tensor is that of the members.
    """
    if fused and isinstance(alphas, list):
        blocks = [slice(index, index + 1) for index in range(len(alphas))]
    for block in blocks:
        lr = alphas[block] if isinstance(alphas, list) else alphas
        part = (operands[0][block], operands[1][block], operands[2][block])
        if fused:
            lr = lr[0] if isinstance(lr, list) else lr
            direction.fused(*part, lr, decay=decay, found_inf=found_inf)
            continue
        for thetas, gs, its in [part] if with_members else step_pieces(*part):
            directions = direction.update(gs, its)
            if decay:
                directions = list(torch._foreach_add(directions, thetas, alpha=decay))
            _move(thetas, directions, lr)


def _move(params: list[Tensor], directions: list[Tensor], lr: Alphas) -> None:
    """θ ← θ − α u, without waiting for a device."""
    if isinstance(lr, Tensor) and lr.ndim == 0 and all(param.dtype == lr.dtype for param in params):
        if lr.is_cpu and not torch.compiler.is_compiling():
            lr = float(lr)
        elif all(param.device == lr.device for param in params):
            torch._foreach_sub_(params, torch._foreach_mul(directions, lr))
            return
    if isinstance(lr, float | int):
        torch._foreach_add_(params, directions, alpha=-lr)
        return
    # With as many dimensions as θ, α takes part in type promotion: bfloat16 parameters move by a float32 α,
    # which as a number or a 0-d tensor would be rounded to theirs.
    steps = [
        (-alpha).to(param.device).reshape(alpha.shape + (1,) * (param.ndim - alpha.ndim))
        for alpha, param in zip(lr if isinstance(lr, list) else [lr] * len(params), params, strict=True)
    ]
    torch._foreach_addcmul_(params, directions, steps)
