"""The tensors of one step: those that have a gradient, real and local, with their states."""

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
"""Elements of all tensors: from here on, a call for each is faster on a CPU than one for all."""

_ALL = (slice(None),)


@dataclass(slots=True)
class Operands:
    """What a step moves, in lists of one entry per tensor that has a gradient.

    Attributes:
        params: T' tensors θ_{t−1}.
        grads: g_t, unscaled, of what is to fall, with coupled weight decay. With a kernel, which does that
            itself, as they came.
        states: the op's state of each.
        whole: the parameters that ``params`` are local parts or real views of, or ``params`` themselves.
        is_sharded: whether other ranks hold parts of ``whole``.
        present: the places of these T' among the group's T tensors.
        total: T.
        resting: whether a tensor that has moved before has no gradient now.
        members: N if the first axis of every tensor stacks N members, else ``None``.
        kernel: a kernel for the step, if there is one and it was wanted.
        blocks: without a kernel, the parts of the lists to work on at a time.
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
        params: the group's T tensors.
        grads: the gradient of each, or ``None``.
        state: the group's state. Gets the op's state of each tensor that lacks one, and the kernel.
        direction: the op.
        options: see there.
        alpha: α if it is learned, else ``None``.
        grad_scale: 0-d; divides the gradients.
        use_kernels: whether to look for a kernel.

    Raises:
        RuntimeError: for a sparse gradient.
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
    """Add to a parameter's state what it lacks, in place; a trace takes the place of u_{t−1}.

    Args: as for ``Direction.init``, and the options of the step.
    """
    traced = learned and options.is_traced
    direction.init(param, state, learned=learned and not traced)
    if traced and TRACE not in state:
        state[TRACE] = torch.zeros_like(param)


def _prepared(
    params: Sequence[Tensor], grads: list[Tensor], options: StepOptions, scale: Tensor | None
) -> list[Tensor]:
    """Return the gradients as the op sees them: unscaled, of what is to fall, with coupled weight decay."""
    if scale is not None:
        inverse = scale.double().reciprocal().float()  # as GradScaler does
        grads = list(torch._foreach_mul(grads, inverse))
    if options.maximize:
        grads = list(torch._foreach_neg(grads))
    if options.coupled_decay:
        grads = list(torch._foreach_add(grads, list(params), alpha=options.coupled_decay))
    if options.fused:
        # torch's kernels go through memory, whatever the strides.
        grads = [
            grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)
            for grad, param in zip(grads, params, strict=True)
        ]
    return grads
