"""Parameter groups: their options as ``hypergrad.functional`` takes them, their α and its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from hypergrad import functional, kernels, rates
from hypergrad._hypergradients import begin
from hypergrad._numbers import as_float, as_floats
from hypergrad._validation import NUMBERS, PAIRS
from hypergrad.directions import Direction


class Settings:
    """The op, the lop and the options of a group, read once: that takes longer than a small model's step.

    Args:
        group: The parameter group.
        names: The names of its options.
        direction: A function that returns the op of a group.

    Attributes:
        direction: The op.
        rate: The lop. ``None`` for a fixed α.
        options: The options of a step.
        kernel: The kernel of the last step, which the next step may use again. ``None`` if there was none.

    Raises:
        ValueError: An option that should be a number is not one.
    """

    __slots__ = ("_constant", "_read", "_values", "direction", "kernel", "options", "rate")

    def __init__(
        self, group: dict[str, Any], names: Sequence[str], direction: Callable[[dict[str, Any]], Direction]
    ) -> None:
        plain = _with_floats(group)
        self.direction = direction(plain)
        self.rate = rate(plain)
        self.options = step_options(plain)
        self.kernel: kernels.Kernel | None = None
        self._read = itemgetter(*names)
        self._values: tuple[Any, ...] = self._read(group)
        self._constant = all(isinstance(value, _CONSTANT) for value in self._values)

    def hold(self, group: dict[str, Any]) -> bool:
        """Return whether every option is still the same object, of a type that cannot change in place."""
        return self._constant and all(map(is_, self._values, self._read(group)))


_CONSTANT = (float, int, str, tuple, type(None))


def _with_floats(group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the options with Python's own numbers, and replace single numbers in the group too.

    The group keeps its tensors and pairs: its owner may change a tensor or a list in place. A β that is a
    tensor stays one in the copy too.

    Raises:
        ValueError: An option that should be a number is not one.
    """
    plain = dict(group)
    for name in NUMBERS[1:]:
        if group.get(name) is None and (name not in group or name in rates.OPTIONS):
            continue
        if name != "hypergrad_lr" or not isinstance(group[name], Tensor):
            plain[name] = as_float(name, group[name])
            if not isinstance(group[name], (float, Tensor)):
                group[name] = plain[name]
    for name in PAIRS:
        if group.get(name) is not None:
            plain[name] = as_floats(name, group[name])
    return plain


def rate(group: dict[str, Any]) -> rates.Rate | None:
    """Return the group's lop, or ``None`` for a fixed α."""
    return rates.from_options(group["lop"], group)


_STEP_OPTIONS = tuple(own.name for own in fields(functional.StepOptions) if own.init)


def step_options(group: dict[str, Any]) -> functional.StepOptions:
    """Return the group's options of a step."""
    return functional.StepOptions(**{name: group[name] for name in _STEP_OPTIONS})


def is_settled(group: dict[str, Any]) -> bool:
    """Return whether α is as ``settle`` made it: users may move the model or assign a learning rate."""
    alpha = group["lr"]
    return (
        isinstance(alpha, Tensor)
        and alpha.device == group["params"][0].device
        and alpha.shape == group["hypergradient"].shape
        and alpha.dtype == group["hypergradient"].dtype
        and ("moves" in group or not _moves_by_more_than_u(group))
    )


def settle(group: dict[str, Any]) -> None:
    """Make a learned α a tensor of the group's own; move h and the lop's state to its device and dtype."""
    lop = rate(group)
    if lop is None or not group["params"]:
        return
    fresh = functional.init(group["params"], lop, lr=group["lr"], granularity=group["granularity"])
    alpha = fresh.alpha
    assert isinstance(alpha, Tensor)
    group["lr"] = alpha
    group["lop_state"] = fresh.rate | _like(alpha, group.get("lop_state", {}))
    group["hypergradient"] = group.get("hypergradient", torch.zeros_like(alpha)).to(alpha)
    if "lr_factor" in group:
        group["lr_factor"] = torch.as_tensor(group["lr_factor"], dtype=alpha.dtype, device=alpha.device)
    if "moves" in group or _moves_by_more_than_u(group):
        moves = group["moves"] = _like(alpha, group.get("moves", {}))
        decay = group["weight_decay"] if group["decoupled_weight_decay"] else 0.0
        begin(moves, len(group["params"]), alpha, by_tensor=group["granularity"] == "tensor", decay=decay)


def _moves_by_more_than_u(group: dict[str, Any]) -> bool:
    if step_options(group).is_traced:
        return False  # the trace holds d
    return "lr_factor" in group or bool(group["decoupled_weight_decay"] and group["weight_decay"])


def _like(alpha: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(alpha) for name, value in state.items()}
