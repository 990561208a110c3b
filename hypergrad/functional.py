"""One step for one group of parameters, without objects and with an optional leading member axis.

    h_t = −⟨g_t, d_{t−1}⟩        d_0 = 0, so h_1 = 0; d_{t−1} = 0 for tensors that rested in the last step
    α_t = lop(α_{t−1}, h_t)      moved before it is used
    u_t = op(g_t)
    d_t = s_t (u_t + λθ_{t−1})   s_t a schedule's factor, 1 without one; λ decoupled weight decay, 0 without
    θ_t = θ_{t−1} − α_t d_t

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
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hypergrad import _host, _plain, kernels
from hypergrad._alpha_update import alpha_dtype, learn, scattered
from hypergrad._hypergradients import Moves, begin, hypergradients, remember
from hypergrad._numbers import Number, as_float
from hypergrad._param_update import Alphas, kept_if, move_all, prepared, without_grad
from hypergrad._tensor_views import is_plain, is_sharded, view
from hypergrad.directions import Direction, ParamState
from hypergrad.rates import Rate, RateState

GRANULARITIES = ("group", "tensor", "released")


@dataclass(slots=True)
class State:
    """What a group remembers between steps: α, the rate rule's state, and each parameter's."""

    alpha: Tensor | Number
    rate: RateState
    params: list[ParamState]
    moves: Moves = field(default_factory=dict)
    """Filled by a step of a learned α with a schedule, decoupled weight decay or a tensor that rests, and
    emptied by one without: then d = u for all."""
    h: Tensor | None = None
    """Where ``update`` may leave h, to be returned as it is; like α."""
    kernel: kernels.Kernel | None = None
    """That of the last step of this group, which the next one may take up. Holds no gradients."""


def init(
    params: Sequence[Tensor],
    rate: Rate | None = None,
    *,
    lr: Tensor | Number,
    granularity: str = "group",
    members: int | None = None,
) -> State:
    """Return the state before the first step.

    Args:
        params: T floating-point or complex tensors, of shape (members, *shape) if there are members.
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
    if isinstance(lr, str) or not hasattr(lr, "__len__"):
        lr = as_float("lr", lr)
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


@without_grad
def update(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    rate: Rate | None = None,
    *,
    hypergrad_lr: Tensor | Number = 0.0,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    granularity: str = "group",
    multiplicative: bool = False,
    normalize: bool = False,
    lr_bounds: tuple[float, float] | None = None,
    schedule: Tensor | Number | None = None,
    foreach: bool | None = None,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> Tensor | None:
    """Take one step in place: move ``params`` and ``state``; ``grads`` stay as they are.

    A parameter whose gradient is ``None`` rests, state included: it adds 0 to a group's h in this step and in
    the next, and where α or the rate rule's state is per tensor its entries do not move. With no gradient at
    all nothing moves, and this is no step. Nothing is read back from a device.

    Args:
        params: T tensors, as given to ``init``. Complex ones count as pairs of real numbers; of a ``DTensor``
            this rank's part moves, by the h of the whole.
        grads: their gradients.
        state: what ``init`` returned.
        direction: the op, from ``hypergrad.directions``.
        rate: the lop, from ``hypergrad.rates``; ``None`` keeps α fixed.
        hypergrad_lr: β: a number, or a tensor of shape (*members).
        weight_decay: λ: added to g before everything, as λθ.
        decoupled_weight_decay: λθ is added to u instead, so that α multiplies it and h counts it.
        maximize: climb instead of descend.
        granularity: as given to ``init``.
        multiplicative: the rule moves log α.
        normalize: h is the cosine of the angle between g_t and −d_{t−1}, over the tensors of one α.
        lr_bounds: the smallest and the largest α; a move beyond ends there.
        schedule: s, a factor of this step's α: a number, or a tensor that is 0-d or (*members).
        foreach: ``True`` makes one call for all tensors, ``False`` goes tensor by tensor, which needs less
            memory at a time; ``None`` goes tensor by tensor on a CPU with a million elements or more, where
            that is faster.
        fused: ``True`` takes the step in two passes of ``hypergrad.kernels`` where it has some, else lets
            torch's fused kernels move the parameters (no members, one device and dtype); ``False`` does
            without either; ``None`` does the first where it can, unless ``foreach`` says how to do without.
        grad_scale: 0-d; the gradients are divided by it first.
        found_inf: 0-d; not 0 if a gradient is not finite, and then nothing moves. Needs ``fused=True``.

    Returns:
        h_t in the shape of α ("released": the sum over the tensors), in α's dtype and on its device; 0 for a
        tensor without a gradient. ``None`` if α is fixed or nothing has a gradient.

    Raises:
        ValueError: for ``found_inf`` without ``fused=True``.
        TypeError: for a learned α that is no tensor.
    """
    if not isinstance(hypergrad_lr, float | Tensor):
        hypergrad_lr = as_float("hypergrad_lr", hypergrad_lr)
    if not isinstance(state.alpha, float | Tensor):
        state.alpha = as_float("alpha", state.alpha)
    if not isinstance(schedule, float | Tensor | None):
        schedule = as_float("schedule", schedule)
    weight_decay = as_float("weight_decay", weight_decay)
    learned = state.alpha if rate is not None and isinstance(state.alpha, Tensor) else None
    decay = weight_decay if decoupled_weight_decay else 0.0
    coupled = weight_decay - decay
    # Whether α moves by h, which is local, and the parameters by α, with nothing besides.
    simply_moved = not decay and schedule is None and found_inf is None
    simply = simply_moved and not state.moves
    by_kernel = bool(fused) or (fused is None and foreach is None and kernels.at_hand(params[0]))
    plainly = simply and not (normalize or multiplicative) and lr_bounds is None and grad_scale is None
    if plainly and rate is not None and learned is not None:
        operands = (params, grads, state.params, direction, learned, rate, state.rate)
        options = (hypergrad_lr, granularity, coupled, maximize, state.h)
        if by_kernel:
            h = _plain.step_again(state.kernel, *operands, *options)
        else:
            h = None if foreach is False else _plain.step_small(*operands, *options)
        if h is not None:
            return h
    present = [index for index, grad in enumerate(grads) if grad is not None]
    given = [grad for grad in grads if grad is not None]
    if not given:
        return None
    if found_inf is not None and not fused:
        raise ValueError("found_inf needs fused=True; else leave the step out")
    moved, states = list(params), state.params
    if len(present) < len(moved):
        moved = [params[index] for index in present]
        states = [state.params[index] for index in present]
    for param, own in zip(moved, states, strict=True):
        direction.init(param, own, learned=rate is not None)
    if found_inf is not None:
        found_inf = (found_inf != 0).to(torch.float32)  # summed over devices it may be 2, kernels look for 1
    whole, local = moved, True
    if not all(map(is_plain, moved)):
        local = not any(map(is_sharded, whole))
        moved, given = list(map(view, moved)), list(map(view, given))
        states = [{key: view(value) for key, value in own.items()} for own in states]
    resting = len(present) < len(params) and any(
        own for own, grad in zip(state.params, grads, strict=True) if grad is None
    )
    by_tensor = granularity == "tensor"
    with_members = learned is not None and learned.ndim > by_tensor
    kernel = None
    if by_kernel and learned is not None and grad_scale is None and found_inf is None:
        kernel = kernels.choose(
            direction,
            moved,
            given,
            states,
            weight_decay=coupled,
            maximize=maximize,
            members=learned.shape[-1] if with_members else None,
            last=state.kernel,
        )
    state.kernel = kernel
    every = (granularity == "group" or len(moved) == len(params)) and (by_tensor or not resting)
    if kernel is not None and rate is not None and learned is not None and plainly and local and every:
        h = kernel.step(
            rate, state.rate, learned, hypergrad_lr=hypergrad_lr, granularity=granularity, out=state.h
        )
        if h is not None:
            return h
    if kernel is None:
        given = prepared(moved, given, coupled, maximize, grad_scale)
        if fused:
            # torch's kernels go through memory, whatever the strides.
            given = [
                grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)
                for grad, param in zip(given, moved, strict=True)
            ]
    if foreach is None:
        foreach = not moved[0].is_cpu or sum(map(Tensor.numel, moved)) < _plain.SMALL
    size = len(moved) if foreach else 1
    blocks = [slice(start, start + size) for start in range(0, len(moved), size)]

    h = None
    alphas: Alphas = state.alpha
    if rate is not None and learned is None:
        raise TypeError(f"a learned α must be a tensor, as init makes it, got {state.alpha!r}")
    if (
        simply
        and local
        and not resting
        and rate is not None
        and learned is not None
        and granularity == "group"
        and not isinstance(hypergrad_lr, Tensor)
        and _host.can_learn(learned, rate, state.rate, moved)
    ):
        operation = (direction, learned.dtype)
        sums = _host.products(given, states, *operation, blocks=blocks, norms=normalize, kernel=kernel)
        extras = {"multiplicative": multiplicative, "normalize": normalize}
        h = _host.learn(sums, learned, rate, state.rate, hypergrad_lr, state.h, **extras, bounds=lr_bounds)
    elif rate is not None and learned is not None:
        alpha, total = learned, len(params)
        if decay or schedule is not None or (resting and not by_tensor):
            begin(state.moves, total, alpha, by_tensor=by_tensor, decay=decay)
        with kept_if(found_inf, [alpha, *state.rate.values(), *state.moves.values()]):
            h = hypergradients(
                moved,
                given,
                states,
                direction,
                alpha,
                whole=whole,
                blocks=blocks,
                moves=state.moves,
                present=present,
                with_members=with_members,
                by_group=granularity == "group",
                normalize=normalize,
                kernel=kernel,
            )
            alphas = learn(
                alpha,
                h,
                rate,
                state.rate,
                hypergrad_lr=hypergrad_lr,
                granularity=granularity,
                present=present,
                total=total,
                multiplicative=multiplicative,
                normalized=normalize,
                bounds=lr_bounds,
            )
            if state.moves and simply_moved and not resting:
                state.moves.clear()
            elif state.moves:
                factor = 1.0 if schedule is None else schedule
                remember(state.moves, alphas, factor, decay, present, shared=not by_tensor)
        if by_tensor:
            h = scattered(h, present, total)
        elif granularity == "released":
            h = h.sum(0)

    if schedule is not None:
        alphas = [alpha * schedule for alpha in alphas] if isinstance(alphas, list) else alphas * schedule
    if kernel is not None:
        assert not isinstance(alphas, float)  # learned
        kernel.move(torch.stack(alphas) if isinstance(alphas, list) else alphas, decay=decay)
        return h
    move_all(
        (moved, given, states),
        direction,
        alphas,
        blocks,
        decay=decay,
        fused=bool(fused),
        found_inf=found_inf,
        with_members=with_members,
    )
    return h
