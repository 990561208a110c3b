"""One step for one group of parameters, without objects and with an optional leading member axis.

    h_t = −⟨g_t, u_{t−1}⟩        u_0 = 0, so h_1 = 0
    α_t = lop(α_{t−1}, h_t)      moved before it is used
    u_t = op(g_t)
    θ_t = θ_{t−1} − α_t u_t

With members every parameter has shape (N, *shape) and stacks N independent trainings: each member has its own
α and h, and moves as it would alone.

Granularity of α, for T parameter tensors:

==========  ===================  ======================================================================
name        shape of α           what moves it
==========  ===================  ======================================================================
"group"     (*members)           the rate rule, on the h of the whole group
"tensor"    (T, *members)        the rate rule, on the h of each tensor
"released"  (*members)           the rate rule once per tensor, in order, with a state per tensor; each
                                 tensor moves at once with the α so far
==========  ===================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad.directions import Direction, ParamState
from hypergrad.rates import Rate, RateState

GRANULARITIES = ("group", "tensor", "released")


@dataclass(slots=True)
class State:
    """What a group remembers between steps: α, the rate rule's state, and each parameter's own."""

    alpha: Tensor | float
    rate: RateState
    params: list[ParamState]


def alpha_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of α and h for ``params``: theirs, but never below float32."""
    dtype = torch.float32
    for param in params:
        dtype = torch.promote_types(dtype, param.dtype)
    return dtype


def init(
    params: Sequence[Tensor],
    rate: Rate | None = None,
    *,
    lr: Tensor | float,
    granularity: str = "group",
    members: int | None = None,
) -> State:
    """Return the state before the first step.

    Args:
        params: T floating-point tensors, of shape (members, *shape) if there are members.
        rate: how α is learned; ``None`` keeps it fixed.
        lr: α₀: a number, or a tensor of the shape of α or its last dimensions.
        granularity: see the table above; a fixed α is one per group.
        members: N, or ``None`` for parameters without a member axis.

    Raises:
        ValueError: if ``granularity`` is not known, a parameter lacks the member axis, or ``lr`` has another
            shape.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {', '.join(GRANULARITIES)}, got {granularity!r}")
    for index, param in enumerate(params):
        if members is not None and param.shape[:1] != (members,):
            raise ValueError(
                f"params[{index}] has shape {tuple(param.shape)}: with members={members} its first "
                f"dimension must be {members}"
            )
    axis = () if members is None else (members,)
    if rate is None:
        granularity = "group"
    shape = (len(params), *axis) if granularity == "tensor" else axis
    alpha = torch.as_tensor(lr, dtype=alpha_dtype(params), device=params[0].device).detach()
    if alpha.numel() == 1:
        alpha = alpha.reshape(())
    if alpha.shape != shape[len(shape) - alpha.ndim :]:
        raise ValueError(f"lr has shape {tuple(alpha.shape)}: give a number, or a tensor of shape {shape}")
    alpha = alpha.expand(shape).clone()
    state: RateState = {}
    if rate is not None:
        state = rate.init(alpha.new_zeros(axis if granularity == "group" else (len(params), *axis)))
    return State(alpha, state, [{} for _ in params])


@torch.no_grad()
def update(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    rate: Rate | None = None,
    *,
    hypergrad_lr: Tensor | float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    granularity: str = "group",
    foreach: bool | None = None,
    fused: bool = False,
) -> Tensor | None:
    """Take one step in place: move ``params`` and ``state``; ``grads`` stay as they are.

    A parameter whose gradient is ``None`` stays put, state included: it adds 0 to a group's h, and where α or
    the rate rule's state is per tensor its entries do not move. With no gradient at all nothing moves.

    Args:
        params: T tensors, as given to ``init``.
        grads: their gradients.
        state: what ``init`` returned.
        direction: the op, from ``hypergrad.directions``.
        rate: the lop, from ``hypergrad.rates``; ``None`` keeps α fixed.
        hypergrad_lr: β: a number, or a tensor of shape (*members).
        weight_decay: coupled: ``weight_decay`` × θ is added to g before everything.
        maximize: climb instead of descend.
        granularity: as given to ``init``.
        foreach: ``True`` makes one call for all tensors, ``False`` goes tensor by tensor, which needs less
            memory at a time; ``None`` goes tensor by tensor on a CPU with a million elements or more, where
            that is faster.
        fused: let torch's fused kernels move the parameters (no members, one device and dtype).

    Returns:
        h_t in the shape of α ("released": the sum over the tensors), in α's dtype and on its device; 0 for a
        tensor without a gradient. ``None`` if α is fixed or nothing has a gradient.
    """
    present = [index for index, grad in enumerate(grads) if grad is not None]
    given = [grad for grad in grads if grad is not None]
    if not given:
        return None
    moved, states = list(params), state.params
    if len(present) < len(moved):
        moved = [params[index] for index in present]
        states = [state.params[index] for index in present]
    for param, own in zip(moved, states, strict=True):
        direction.init(param, own, learned=rate is not None)
    given = _coupled(moved, given, weight_decay, maximize)
    if foreach is None:
        foreach = moved[0].device.type != "cpu" or sum(param.numel() for param in moved) < 1_000_000
    size = len(moved) if foreach else 1
    blocks = [slice(start, start + size) for start in range(0, len(moved), size)]

    h: Tensor | None = None
    alphas: Alphas = state.alpha
    if rate is not None:
        if not isinstance(state.alpha, Tensor):
            raise TypeError(f"a learned α must be a tensor, as init makes it, got {state.alpha!r}")
        alpha, total = state.alpha, len(params)
        with_members = alpha.ndim > (granularity == "tensor")
        h = torch.stack(
            [
                _dot(grad, previous, alpha, with_members)
                for block in blocks
                for grad, previous in zip(given[block], direction.previous(states[block]), strict=True)
            ]
        ).neg_()
        if granularity == "group":
            h = h.sum(0)
            alphas = alpha.sub_(rate.update(h, state.rate) * hypergrad_lr)
        elif granularity == "tensor":
            moves = _by_tensor(rate, h, state.rate, present, total) * hypergrad_lr
            alpha.sub_(_scattered(moves, present, total))
            alphas = [alpha[index] for index in present]
            h = _scattered(h, present, total)
        else:
            moves = _by_tensor(rate, h, state.rate, present, total) * hypergrad_lr
            path = alpha - moves.cumsum(0)
            alpha.copy_(path[-1])
            alphas = list(path.unbind())
            h = h.sum(0)

    if fused and isinstance(alphas, list):
        blocks = [slice(index, index + 1) for index in range(len(moved))]
    for block in blocks:
        lr = alphas[block] if isinstance(alphas, list) else alphas
        if fused:
            direction.fused(moved[block], given[block], states[block], lr[0] if isinstance(lr, list) else lr)
        else:
            _move(moved[block], direction.update(given[block], states[block]), lr)
    return h


Alphas = Tensor | float | list[Tensor]
"""One α for all tensors, or a list of one per tensor."""


def _coupled(params: list[Tensor], grads: list[Tensor], weight_decay: float, maximize: bool) -> list[Tensor]:
    if maximize:
        grads = list(torch._foreach_neg(grads))
    if weight_decay:
        grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    return grads


def _dot(grad: Tensor, previous: Tensor, alpha: Tensor, with_members: bool) -> Tensor:
    """⟨g, u⟩ over all elements, or per member: accumulated in α's dtype, on α's device."""
    grad, previous = grad.to(alpha.dtype), previous.to(alpha.dtype)
    if with_members:
        members = grad.shape[0]
        dot: Tensor = torch.linalg.vecdot(grad.reshape(members, -1), previous.reshape(members, -1))
    else:
        dot = torch.dot(grad.reshape(-1), previous.reshape(-1))
    return dot.to(alpha.device)


def _by_tensor(rate: Rate, h: Tensor, state: RateState, present: list[int], total: int) -> Tensor:
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


def _scattered(rows: Tensor, present: list[int], total: int) -> Tensor:
    """``rows`` with rows of 0 for the tensors that are not ``present``."""
    if len(present) == total:
        return rows
    whole = rows.new_zeros((total, *rows.shape[1:]))
    torch._foreach_copy_([whole[index] for index in present], list(rows.unbind()))
    return whole


def _move(params: list[Tensor], directions: list[Tensor], lr: Alphas) -> None:
    """θ ← θ − α u, without waiting for a device."""
    if isinstance(lr, Tensor) and lr.ndim == 0 and all(param.dtype == lr.dtype for param in params):
        if lr.device.type == "cpu" and not torch.compiler.is_compiling():
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
