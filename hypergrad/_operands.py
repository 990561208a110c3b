"""The tensors of one step: those that have a gradient, as real and local tensors, with their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad import kernels
from hypergrad._state import TRACE, State, StepOptions
from hypergrad._tensor_views import are_plain, is_sharded, view
from hypergrad.directions import Direction, ParamState

SMALL = 1_000_000
"""Elements of all tensors, from which on a CPU makes one call per tensor faster than one for all tensors."""

_ALL = (slice(None),)


@dataclass(slots=True)
class Operands:
    """The tensors that a step moves, in lists with one entry per tensor that has a gradient.

    Attributes:
        params: The T' tensors θ_{t−1}.
        grads: Their gradients g_t, unscaled, negated to maximize, with coupled weight decay. With a kernel,
            which does all that itself, the gradients as given.
        states: The op's state of each tensor.
        whole: The parameters themselves, if ``params`` are their local parts or real views; else ``params``.
        is_sharded: Whether other ranks hold parts of ``whole``.
        present: The indices of these T' tensors among the group's T.
        total: The number T of the group's tensors.
        resting: Whether a tensor that has moved before has no gradient now.
        members: N if the first axis of every tensor stacks N members. ``None`` means no such axis.
        kernel: The kernel that takes the step. ``None`` if there is none or the caller wants none.
        blocks: The slices of the lists to work on one after the other, without a kernel.
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    states: Sequence[ParamState]
    whole: Sequence[Tensor]
    is_sharded: bool
    present: Sequence[int]
    total: int
    resting: bool
    members: int | None
    kernel: kernels.Kernel | None
    blocks: Sequence[slice]


def gather(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    options: StepOptions,
    *,
    alpha: Tensor | None,
    grad_scale: Tensor | None,
    use_kernels: bool,
) -> Operands | None:
    """Return the tensors that a step moves, or ``None`` if none has a gradient.

    Args:
        params: The group's T tensors.
        grads: The gradient of each tensor, or ``None``.
        state: The group's state. ``gather`` adds the missing states of the op, and the kernel.
        direction: The op.
        options: The options of the step.
        alpha: α, of shape (*members) or (T, *members), if it is learned. ``None`` for a fixed α.
        grad_scale: A 0-d tensor that divides the gradients. ``None`` means 1.
        use_kernels: Whether to look for a kernel.

    Raises:
        RuntimeError: A gradient is sparse.
        ValueError: A kernel finds that a gradient or state has another shape than its parameter.
    """
    present: Sequence[int] = range(len(params))
    given = [grad for grad in grads if grad is not None]
    moved, states, resting = params, state.params, False
    if len(given) < len(params):
        present = [index for index, grad in enumerate(grads) if grad is not None]
        moved = [params[index] for index in present]
        states = [state.params[index] for index in present]
        # A tensor that has never moved has no state.
        resting = sum(len(kept) > 0 for kept in state.params) > sum(len(kept) > 0 for kept in states)
    if not given:
        return None
    learned = alpha is not None
    for param, grad, own in zip(moved, given, states, strict=True):
        if grad.layout is not torch.strided:
            raise RuntimeError("an optimizer step takes no sparse gradients: give the layer sparse=False")
        init_state(param, own, direction, options, learned=learned)
    whole, sharded = moved, False
    if not are_plain(moved):
        sharded = any(map(is_sharded, moved))
        moved, given = list(map(view, moved)), list(map(view, given))
        states = [{key: view(value) for key, value in own.items()} for own in states]
    members = None
    if alpha is not None and alpha.ndim > (options.granularity == "tensor"):
        members = alpha.shape[-1]
    kernel = None
    if use_kernels:
        kernel = kernels.choose(
            direction,
            moved,
            given,
            states,
            weight_decay=options.coupled_decay,
            maximize=options.maximize,
            members=members,
            traced=learned and options.is_traced,
            last=state.kernel,
        )
    state.kernel = kernel
    blocks: Sequence[slice] = _ALL
    if kernel is None:
        if grad_scale is not None or options.maximize or options.coupled_decay or options.fused:
            given = _prepared(moved, given, options, grad_scale)
        together = options.foreach
        if together is None:
            together = not moved[0].is_cpu or sum(map(Tensor.numel, moved)) < SMALL
        if not together:
            blocks = [slice(index, index + 1) for index in range(len(moved))]
    total = len(params)
    return Operands(moved, given, states, whole, sharded, present, total, resting, members, kernel, blocks)


def init_state(
    param: Tensor, state: ParamState, direction: Direction, options: StepOptions, *, learned: bool
) -> None:
    """Add the missing entries to a parameter's state, in place. A trace takes the place of u_{t−1}.

    The arguments are those of ``Direction.init``, and the options of the step.
    """
    traced = learned and options.is_traced
    direction.init(param, state, learned=learned and not traced)
    if traced and TRACE not in state:
        state[TRACE] = torch.zeros_like(param)


def _prepared(
    params: Sequence[Tensor], grads: list[Tensor], options: StepOptions, scale: Tensor | None
) -> list[Tensor]:
    """Return the gradients for the op: unscaled, negated to maximize, with coupled weight decay."""
    if scale is not None:
        inverse = scale.double().reciprocal().float()  # as GradScaler does
        grads = list(torch._foreach_mul(grads, inverse))
    if options.maximize:
        grads = list(torch._foreach_neg(grads))
    if options.coupled_decay:
        grads = list(torch._foreach_add(grads, list(params), alpha=options.coupled_decay))
    if options.fused:
        # torch's kernels go through memory and ignore the strides.
        grads = [
            grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)
            for grad, param in zip(grads, params, strict=True)
        ]
    return grads
