"""What a step works with besides tensors: a group's state between steps, and its options."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from hypergrad import kernels
from hypergrad._numbers import Number, as_float, as_floats
from hypergrad.directions import ParamState
from hypergrad.rates import RateState

GRANULARITIES = ("group", "tensor", "released")

Moves = dict[str, Tensor]
"""The last moves of a group's T tensors: see ``hypergrad._hypergradients``."""


@dataclass(slots=True)
class State:
    """What a group remembers between steps.

    Attributes:
        alpha: α, a tensor where it is learned; see the table in ``hypergrad.functional`` for its shape.
        rate: the rate rule's state.
        params: the op's state of each parameter.
        moves: filled by a step of a learned α with a schedule, with decoupled weight decay, or in which a
            tensor rests; emptied by the first step without any of these.
        h: a tensor like ``alpha`` into which ``update`` may write h, to return it.
        kernel: the kernel of the last step, which the next step may use again. It holds no gradients.
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
        hypergrad_lr: β: a number, or a tensor of shape (*members).
        weight_decay: λ.
        decoupled_weight_decay: add λθ to u, so that α multiplies it and h counts it. If false, add it to g
            before everything else.
        maximize: ascend instead of descend.
        granularity: ``"group"``, ``"tensor"`` or ``"released"``, as given to ``init``.
        multiplicative: let the rule move log α.
        normalize: let h be the cosine of the angle between g_t and −d_{t−1}, over the tensors of one α.
        lr_bounds: the smallest and the largest α; ``None`` sets no bounds.
        foreach: ``True`` makes one call for all tensors. ``False`` goes tensor by tensor, which needs less
            memory at a time. ``None`` goes tensor by tensor on a CPU with a million elements or more, where
            that is faster.
        fused: ``True`` takes the step in the two passes of ``hypergrad.kernels`` where there is a kernel; if
            not, torch's fused kernels move the parameters (no members, one device and dtype). ``False`` uses
            neither. ``None`` uses ``hypergrad.kernels`` where it can, unless ``foreach`` is given.

    Attributes:
        beta: ``hypergrad_lr``, as a tensor or one of Python's numbers.
        coupled_decay: λ if it is added to g, else 0.
        decoupled_decay: λ if it is added to u, else 0.
        is_additive: whether α moves by the rule's step, with nothing else in between.

    Raises:
        ValueError: if an option that should be a number is not one.
    """

    hypergrad_lr: Tensor | Number = 0.0
    weight_decay: Number = 0.0
    decoupled_weight_decay: bool = False
    maximize: bool = False
    granularity: str = "group"
    multiplicative: bool = False
    normalize: bool = False
    lr_bounds: tuple[float, float] | None = None
    foreach: bool | None = None
    fused: bool | None = None
    beta: Tensor | float = field(init=False)
    coupled_decay: float = field(init=False)
    decoupled_decay: float = field(init=False)
    is_additive: bool = field(init=False)

    def __post_init__(self) -> None:
        beta, decay, bounds = self.hypergrad_lr, as_float("weight_decay", self.weight_decay), self.lr_bounds
        derived = {
            "beta": beta if isinstance(beta, Tensor) else as_float("hypergrad_lr", beta),
            "lr_bounds": None if bounds is None else as_floats("lr_bounds", bounds),
            "coupled_decay": 0.0 if self.decoupled_weight_decay else decay,
            "decoupled_decay": decay if self.decoupled_weight_decay else 0.0,
            "is_additive": not (self.multiplicative or self.normalize) and bounds is None,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
