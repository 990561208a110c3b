"""The update of the parameters: θ ← θ − α (u + λθ)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from hypergrad._cache_blocking import step_chunks
from hypergrad._operands import Operands
from hypergrad.directions import Direction, Muon

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Alphas = Tensor | float | list[Tensor]
"""One α for all tensors, or a list with one per tensor."""


def without_grad(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate ``function`` as ``torch.no_grad()`` does, in less time."""

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


def move_all(
    operands: Operands,
    direction: Direction,
    alphas: Alphas,
    *,
    decay: float,
    fused: bool,
    found_inf: Tensor | None,
) -> None:
    """Update the op's states to u_t in place, then the parameters: θ ← θ − α (u_t + λθ).

    Args:
        operands: The parameters, their gradients and states.
        direction: The op.
        alphas: α times the schedule's factor.
        decay: The decoupled weight decay λ.
        fused: Whether to use torch's fused kernels.
        found_inf: A 0-d tensor, 0 or 1, for ``fused`` only. If it is 1, nothing changes. ``None`` means 0.
    """
    blocks = operands.blocks
    if fused and isinstance(alphas, list):
        blocks = [slice(index, index + 1) for index in range(len(alphas))]
    for block in blocks:
        lr = alphas[block] if isinstance(alphas, list) else alphas
        part = (operands.params[block], operands.grads[block], operands.states[block])
        if fused:
            lr = lr[0] if isinstance(lr, list) else lr
            direction.fused(*part, lr, decay=decay, found_inf=found_inf)
            continue
        whole = operands.members is not None or isinstance(direction, Muon)
        chunks = [part] if whole else step_chunks(*part)
        for chunk_params, chunk_grads, chunk_states in chunks:
            directions = direction.update(chunk_grads, chunk_states)
            if decay:
                directions = list(torch._foreach_add(directions, list(chunk_params), alpha=decay))
            move_by(list(chunk_params), directions, lr)


def move_by(params: list[Tensor], directions: list[Tensor], lr: Alphas) -> None:
    """Move the parameters in place, θ ← θ − αu, without waiting for a device.

    Args:
        params: The tensors to move in place.
        directions: The direction u of each tensor.
        lr: α times the schedule's factor: a number, a tensor of shape (*members), or a list of such tensors,
            one for each of ``params``.
    """
    if isinstance(lr, Tensor) and lr.ndim == 0 and all(param.dtype == lr.dtype for param in params):
        if lr.is_cpu and not torch.compiler.is_compiling():
            lr = float(lr)
        elif all(param.device == lr.device for param in params):
            torch._foreach_sub_(params, torch._foreach_mul(directions, lr))
            return
    if isinstance(lr, (float, int)):
        torch._foreach_add_(params, directions, alpha=-lr)
        return
    # An α with as many dimensions as θ takes part in type promotion: bfloat16 parameters then move by a
    # float32 α. torch would round a number or a 0-d tensor to bfloat16.
    steps = [
        (-alpha).to(param.device).reshape(alpha.shape + (1,) * (param.ndim - alpha.ndim))
        for alpha, param in zip(lr if isinstance(lr, list) else [lr] * len(params), params, strict=True)
    ]
    torch._foreach_addcmul_(params, directions, steps)
