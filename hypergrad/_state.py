"""The state of a parameter group between steps, and the options of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from hypergrad import kernels
from hypergrad._numbers import Number, as_float, as_floats
from hypergrad._rules import RULES
from hypergrad.directions import ParamState
from hypergrad.rates import RateState

GRANULARITIES = ("group", "tensor", "released")
TRACE = "trace"
"""The name of the trace z in a parameter's state."""

Moves = dict[str, Tensor]
"""The last moves of a group's T tensors: see ``hypergrad._hypergradients``."""


@dataclass(slots=True)
class State:
    """The state of a group of T parameters between steps.

    Attributes:
        alpha: α. A learned α is a tensor; the table of ``hypergrad.functional`` gives its shape. A fixed α
            may be a number.
        rate: The lop's state, by name. Empty for a fixed α.
        params: The op's state of each of the T parameters, by name.
        moves: The last moves. A step with a schedule, with decoupled weight decay or with a tensor that rests
            fills it; any other step empties it.
        h: A tensor like ``alpha`` into which ``update`` may write h, and which it then returns. ``None``, the
            default, makes a new tensor.
        kernel: The kernel of the last step, which the next step may use again. It holds no gradients.
            ``None``, the default, means that there was none.
    """

    alpha: Tensor | Number
    rate: RateState
    params: list[ParamState]
    moves: Moves = field(default_factory=dict)
    h: Tensor | None = None
    kernel: kernels.Kernel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StepOptions:
    """The options of a step.

    Args:
        hypergrad_lr: The learning rate β of α: a number, or a tensor of shape (*members). Default 0.
        weight_decay: The weight decay λ. Default 0.
        decoupled_weight_decay: ``True`` adds λθ to u, so that α multiplies it and h counts it. ``False``, the
            default, adds it to g before everything else.
        maximize: Ascend instead of descend. Default ``False``.
        granularity: ``"group"``, the default, ``"tensor"`` or ``"released"``, as given to ``init``.
        rule: How the lop moves α, a name in ``hypergrad._rules.RULES``: ``"additive"``, the default,
            ``"additive-cosine"``, ``"multiplicative"`` or ``"cosine"``.
        trace_decay: γ, at least 0: h_t = −⟨g_t, z_{t−1}⟩ with z ← γz + d_t. At 0, the default, z is the last
            d.
        max_relative_step: The largest α‖u + λθ‖/‖θ‖ of a step. Default ``math.inf``: no limit.
        first_relative_step: The smallest and the largest α‖u + λθ‖/‖θ‖ of the first step. Default
            ``(0, math.inf)``: no limits.
        lr_bounds: The smallest and the largest α. ``None``, the default, sets no bounds.
        foreach: ``True`` makes one call for all tensors. ``False`` goes tensor by tensor, which needs less
            memory at a time. ``None``, the default, goes tensor by tensor on a CPU with a million elements or
            more, where that is faster.
        fused: ``True`` takes the step by ``hypergrad.kernels`` where there is a kernel; if not, torch's fused
            kernels move the parameters (no members, one device and dtype). ``False`` uses neither. ``None``,
            the default, uses the kernels for CPUs where it can, unless ``foreach`` is given.

    Attributes:
        beta: ``hypergrad_lr`` as a tensor or one of Python's own numbers.
        coupled_decay: λ if a step adds λθ to g, else 0.
        decoupled_decay: λ if a step adds λθ to u, else 0.
        multiplicative: Whether the rule moves log α.
        normalize: Whether h is the cosine of the angle between g_t and −d_{t−1}, over the tensors of one α.
        is_additive: Whether α moves by β times the lop's step along h = −⟨g, d⟩, without bounds.
        is_held: Whether ``max_relative_step`` or ``first_relative_step`` limits α.
        is_traced: Whether a step needs the trace z.

    Raises:
        ValueError: An option that should be a number is not one, the rule is unknown, or granularity
            ``"released"`` has a trace or a relative limit.
    """

    hypergrad_lr: Tensor | Number = 0.0
    weight_decay: Number = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False
    granularity: str = "group"
    rule: str = "additive"
    trace_decay: float = 0.0
    max_relative_step: float = math.inf
    first_relative_step: tuple[float, float] = (0.0, math.inf)
    lr_bounds: tuple[float, float] | None = None
    foreach: bool | None = None
    fused: bool | None = None
    beta: Tensor | float = field(init=False)
    coupled_decay: float = field(init=False)
    decoupled_decay: float = field(init=False)
    multiplicative: bool = field(init=False)
    normalize: bool = field(init=False)
    is_additive: bool = field(init=False)
    is_held: bool = field(init=False)
    is_traced: bool = field(init=False)

    def __post_init__(self) -> None:
        beta, decay, bounds = self.hypergrad_lr, as_float("weight_decay", self.weight_decay), self.lr_bounds
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(map(repr, RULES))}, got {self.rule!r}")
        rule = RULES[self.rule]
        trace_decay = as_float("trace_decay", self.trace_decay)
        largest = as_float("max_relative_step", self.max_relative_step)
        first = tuple(as_floats("first_relative_step", self.first_relative_step))
        is_held = largest < math.inf or first != (0.0, math.inf)
        if self.granularity == "released" and (trace_decay or is_held):
            raise ValueError(
                "granularity 'released' takes no trace_decay, max_relative_step or first_relative_step: "
                "give 'group' or 'tensor'"
            )
        derived = {
            "trace_decay": trace_decay,
            "max_relative_step": largest,
            "first_relative_step": first,
            "is_held": is_held,
            "is_traced": bool(trace_decay) or is_held,
            "beta": beta if isinstance(beta, Tensor) else as_float("hypergrad_lr", beta),
            "lr_bounds": None if bounds is None else as_floats("lr_bounds", bounds),
            "coupled_decay": 0.0 if self.decoupled_weight_decay else decay,
            "decoupled_decay": decay if self.decoupled_weight_decay else 0.0,
            "multiplicative": rule.multiplicative,
            "normalize": rule.normalize,
            "is_additive": self.rule == "additive" and bounds is None,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
