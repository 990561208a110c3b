"""One step for one group of parameters, without optimizer objects, for one model or many stacked models.

    h_t = −⟨g_t, d_{t−1}⟩        d_0 = 0, so h_1 = 0; d_{t−1} = 0 for a tensor that rested in the last step
    α_t = lop(α_{t−1}, h_t)      a step learns α before it uses it
    u_t = op(g_t)
    d_t = s_t (u_t + λθ_{t−1})   s_t: a schedule's factor, else 1; λ: decoupled weight decay, else 0
    θ_t = θ_{t−1} − α_t d_t

With members every parameter has shape (N, *shape) and stacks N independent trainings: each member has its own
α and h, and moves as it would alone.

Granularity of α, for T parameter tensors:

==========  ===================  ======================================================================
name        shape of α           update of α
==========  ===================  ======================================================================
"group"     (*members)           the lop, on the h of the whole group
"tensor"    (T, *members)        the lop, on the h of each tensor
"released"  (*members)           the lop once per tensor, in order, with a state per tensor; each tensor
                                 moves at once with the α so far
==========  ===================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergrad import _device_step, _fast_path, _general_step, _traced_step, kernels
from hypergrad._alpha_update import alpha_dtype
from hypergrad._numbers import Number, as_float
from hypergrad._operands import gather
from hypergrad._param_update import move_all, without_grad
from hypergrad._state import GRANULARITIES, State, StepOptions
from hypergrad.directions import Direction
from hypergrad.rates import Rate, RateState

__all__ = ["GRANULARITIES", "State", "StepOptions", "init", "update"]


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
        params: T floating-point or complex tensors, of shape (N, *shape) if there are members.
        rate: The lop, from ``hypergrad.rates``. ``None``, the default, keeps α fixed.
        lr: α₀: a number, or a tensor of the shape of α or of its last dimensions.
        granularity: ``"group"``, the default, ``"tensor"`` or ``"released"``: see the table above. A fixed α
            is always one per group.
        members: The number N of members. ``None``, the default, for parameters without a member axis.

    Raises:
        ValueError: ``granularity`` is unknown, a parameter lacks the member axis, or ``lr`` is neither a
            number nor a tensor of a shape that α allows.
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
    options: StepOptions = StepOptions(),  # noqa: B008  (immutable)
    *,
    schedule: Tensor | Number | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> Tensor | None:
    """Take one step in place: move ``params`` and ``state``, but not ``grads``.

    A parameter whose gradient is ``None`` rests, and so does its state: it adds 0 to a group's h in this step
    and in the next, and an α or a lop's state of its own does not move. If no parameter has a gradient,
    nothing moves and no step counts. The step reads nothing back from a device.

    Args:
        params: The T tensors given to ``init``. A complex tensor counts as pairs of real numbers. Of a
            ``DTensor`` this rank's part moves, by the h of the whole.
        grads: The gradient of each tensor, in its shape, or ``None``.
        state: The state that ``init`` returned. Changes in place.
        direction: The op, from ``hypergrad.directions``.
        rate: The lop, from ``hypergrad.rates``. ``None``, the default, keeps α fixed.
        options: The options of the step, such as β. Default: those of ``StepOptions``, with β 0.
        schedule: The factor s of this step's α: a number, or a tensor that is 0-d or (*members). ``None``,
            the default, means 1.
        grad_scale: A 0-d tensor by which the step first divides the gradients. ``None``, the default, means
            1.
        found_inf: A 0-d tensor that is not 0 if a gradient is not finite; then nothing moves. Needs
            ``fused=True``. ``None``, the default, means 0.

    Returns:
        h_t in the shape of α (for ``"released"`` the sum over the tensors), in α's dtype and on its device; 0
        for a tensor without a gradient. ``None`` if α is fixed or no tensor has a gradient.

    Raises:
        ValueError: ``found_inf`` is given without ``fused=True``, a schedule or fixed α is no number, or a
            kernel finds that a gradient or state has another shape than its parameter.
        TypeError: A learned α is no tensor.
        RuntimeError: A gradient is sparse, or ``fused=True`` and torch has no fused kernel for the op.

    Example:
        >>> import torch
        >>> from hypergrad import directions, functional, rates
        >>> theta, lop, options = torch.ones(3), rates.SGD(), functional.StepOptions(hypergrad_lr=0.01)
        >>> state = functional.init([theta], lop, lr=0.1)
        >>> for _ in range(2):  # ½‖θ‖² has the gradient θ
        ...     h = functional.update([theta], [theta.clone()], state, directions.SGD(), lop, options)
        >>> round(h.item(), 2), round(state.alpha.item(), 3)
        (-2.7, 0.127)
    """
    if found_inf is not None and not options.fused:
        raise ValueError("found_inf needs fused=True; without it, skip the step")
    if schedule is not None and not isinstance(schedule, (float, Tensor)):
        schedule = as_float("schedule", schedule)
    if rate is None:
        _move_by_fixed_alpha(params, grads, state, direction, options, schedule, grad_scale, found_inf)
        return None
    alpha = state.alpha
    if not isinstance(alpha, Tensor):
        raise TypeError(f"a learned α must be a tensor, as init makes it, got {alpha!r}")
    if _device_step.wanted(params[0], options):
        h = _device_step.step(
            params, grads, state, direction, rate, options, alpha, schedule, grad_scale, found_inf
        )
        if h is not None:
            return h
    scaled = grad_scale is not None or found_inf is not None
    use_kernels = not scaled and _wants_kernels(params, options)
    if options.is_traced:
        # The kernels take one s for all members, from the host.
        use_kernels &= not isinstance(schedule, Tensor) or (schedule.is_cpu and schedule.numel() == 1)
        if use_kernels:
            h = _traced_step.repeat_step(params, grads, state, direction, rate, options, alpha, schedule)
            if h is not None:
                return h
    # Whether h is −⟨g, u⟩ and θ moves by αu.
    is_plain = (
        not (scaled or state.moves or options.decoupled_decay or options.is_traced) and schedule is None
    )
    if is_plain and use_kernels:
        h = _fast_path.repeat_step(params, grads, state, direction, rate, options, alpha)
        if h is not None:
            return h
    operands = gather(
        params,
        grads,
        state,
        direction,
        options,
        alpha=alpha,
        grad_scale=grad_scale,
        use_kernels=use_kernels,
    )
    if operands is None:
        return None
    if options.is_traced:
        return _traced_step.step(operands, state, direction, rate, options, alpha, schedule, found_inf)
    if is_plain:
        h = _fast_path.step(operands, state, direction, rate, options, alpha)
        if h is not None:
            return h
    return _general_step.step(operands, state, direction, rate, options, alpha, schedule, found_inf)


def _wants_kernels(params: Sequence[Tensor], options: StepOptions) -> bool:
    if options.fused is None:
        return options.foreach is None and kernels.at_hand(params[0])
    return options.fused


def _move_by_fixed_alpha(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    state: State,
    direction: Direction,
    options: StepOptions,
    schedule: Tensor | float | None,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    operands = gather(
        params, grads, state, direction, options, alpha=None, grad_scale=grad_scale, use_kernels=False
    )
    if operands is None:
        return
    alpha = state.alpha
    if not isinstance(alpha, Tensor):
        alpha = as_float("alpha", alpha)
    move_all(
        operands,
        direction,
        alpha if schedule is None else alpha * schedule,
        decay=options.decoupled_decay,
        fused=bool(options.fused),
        found_inf=None if found_inf is None else (found_inf != 0).to(torch.float32),
    )
