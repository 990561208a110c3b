# ruff: noqa: D102  (the methods are documented once, in Rate)
"""Rate rules, called lops: optimizers that learn the learning rate α from the hypergradients h.

A lop turns h_t into a step of α: α ← α − β·update(h_t). The step never depends on α itself, so one call
serves one α per group, per tensor or per member, and a sequence of steps is a cumulative sum.

To add a lop, write its class here and name it in ``RATE_RULES``: the optimizers, their validation and their
names follow. Then add a case to ``reference.move`` and a row to ``tests/hypergrad/rules.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

RateState = dict[str, Tensor]


class Rate(Protocol):
    """A lop. Those in ``RATE_RULES`` are dataclasses whose field ``x`` the option ``lop_x`` sets."""

    def init(self, h: Tensor) -> RateState:
        """Return the state before the first step.

        Args:
            h: Any tensor of the shape, dtype and device of the hypergradients.
        """

    def update(self, h: Tensor, state: RateState) -> Tensor:
        """Move the state by h_t in place and return the step of α, to be multiplied by β.

        Args:
            h: The hypergradients h_t, of any shape. Not changed.
            state: The state that ``init`` returned. Changes in place.

        Returns:
            The step in the shape of ``h``. It may be ``h`` itself.
        """


class NumberRate(Rate, Protocol):
    """A lop that can also work on Python's numbers, which is faster for a single α on a CPU."""

    def update_number(self, h: float, state: dict[str, float]) -> float:
        """Move the state by h_t in place and return the step of one α, as ``update`` does.

        Args:
            h: The hypergradient h_t.
            state: The state as numbers, under the names of ``update``. Changes in place.
        """


def _option(default: Any, is_allowed: Callable[[Any], bool], allowed: str) -> Any:
    """Declare a field with its allowed values; ``allowed`` completes "must be ..." in messages."""
    return field(default=default, metadata={"is_allowed": is_allowed, "allowed": allowed})


def is_number(value: object) -> bool:
    """Return whether ``value`` is one of Python's own numbers."""
    return isinstance(value, (float, int))


def is_fraction(value: Any) -> bool:
    """Return whether ``value`` is a number, at least 0 and below 1."""
    return is_number(value) and 0 <= value < 1


def are_fractions(value: Any) -> bool:
    """Return whether ``value`` is a pair of numbers, each at least 0 and below 1."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_fraction, value))


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def _momentum(default: float) -> Any:
    return _option(default, is_fraction, "at least 0 and below 1")


def _betas(default: tuple[float, float]) -> Any:
    return _option(default, are_fractions, "two numbers, each at least 0 and below 1")


def _eps(default: float) -> Any:
    return _option(default, _is_positive, "above 0, since h is 0 at first")


@dataclass(frozen=True, slots=True)
class SGD:
    """α ← α − βh: hypergradient descent, HD.

    A. G. Baydin et al., ICLR 2018, https://arxiv.org/abs/1703.04782.
    """

    def init(self, h: Tensor) -> RateState:
        return {}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        return h

    def update_number(self, h: float, state: dict[str, float]) -> float:
        return h


@dataclass(frozen=True, slots=True)
class SGDN:
    """v ← μv + h; α ← α − β(h + μv): SGDN on α.

    Algorithm 1 of H. Mittal, "Hypergradient based optimization methods", 2019.

    Args:
        momentum: The momentum μ, at least 0 and below 1. Default 0.9.
    """

    momentum: float = _momentum(0.9)

    def init(self, h: Tensor) -> RateState:
        return {"momentum_buffer": torch.zeros_like(h)}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        buffer = state["momentum_buffer"].mul_(self.momentum).add_(h)
        return torch.add(h, buffer, alpha=self.momentum)

    def update_number(self, h: float, state: dict[str, float]) -> float:
        state["momentum_buffer"] = buffer = self.momentum * state["momentum_buffer"] + h
        return h + self.momentum * buffer


@dataclass(frozen=True, slots=True)
class Adam:
    """m ← β₁m + (1−β₁)h; v ← β₂v + (1−β₂)h²; α ← α − β m̂/(√v̂ + ε): Adam on α.

    Algorithm 2 of H. Mittal, "Hypergradient based optimization methods", 2019. t counts from the first step,
    whose h_1 = 0.

    Args:
        betas: β₁ and β₂, each at least 0 and below 1. Default (0.9, 0.999).
        eps: ε, above 0, since h_1 = 0. Default 1e-8.
    """

    betas: tuple[float, float] = _betas((0.9, 0.999))
    eps: float = _eps(1e-8)

    def init(self, h: Tensor) -> RateState:
        return {name: torch.zeros_like(h) for name in ("step", "exp_avg", "exp_avg_sq")}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        beta1, beta2 = self.betas
        step = state["step"].add_(1)
        m = state["exp_avg"].lerp_(h, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(h, h, value=1 - beta2)
        denominator = v.div(correction(beta2, step)).sqrt_().add_(self.eps)
        return m.div(correction(beta1, step)).div_(denominator)

    def update_number(self, h: float, state: dict[str, float]) -> float:
        beta1, beta2 = self.betas
        state["step"] = step = state["step"] + 1
        state["exp_avg"] = m = state["exp_avg"] + (1 - beta1) * (h - state["exp_avg"])
        state["exp_avg_sq"] = v = beta2 * state["exp_avg_sq"] + (1 - beta2) * h * h
        root = math.sqrt(v / (1 - beta2**step))
        return float(m / (1 - beta1**step) / (root + self.eps))


@dataclass(frozen=True, slots=True)
class AdaGrad:
    """v ← v + h²; α ← α − β h/(√v + ε): AdaGrad on α.

    Each step is at most β, and steps get smaller as h² adds up. AdaGrad is from J. Duchi et al., 2011,
    https://jmlr.org/papers/v12/duchi11a.html.

    Args:
        eps: ε, above 0, since h_1 = 0. Default 1e-8.
    """

    eps: float = _eps(1e-8)

    def init(self, h: Tensor) -> RateState:
        return {"sum": torch.zeros_like(h)}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        v = state["sum"].addcmul_(h, h)
        return h / v.sqrt().add_(self.eps)

    def update_number(self, h: float, state: dict[str, float]) -> float:
        state["sum"] += h * h
        return h / (math.sqrt(state["sum"]) + self.eps)


@dataclass(frozen=True, slots=True)
class Lion:
    """α ← α − β sign(β₁m + (1−β₁)h), then m ← β₂m + (1−β₂)h: Lion on α.

    Every step is β, 0 or −β. Lion is from X. Chen et al., 2023, https://arxiv.org/abs/2302.06675. With
    ``betas=(0, 0)`` it is sign descent, sign(h): J. Bernstein et al., 2018, https://arxiv.org/abs/1802.04434.

    Args:
        betas: β₁ and β₂, each at least 0 and below 1. Default (0.9, 0.99).
    """

    betas: tuple[float, float] = _betas((0.9, 0.99))

    def init(self, h: Tensor) -> RateState:
        return {"exp_avg": torch.zeros_like(h)}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        beta1, beta2 = self.betas
        m = state["exp_avg"]
        step = torch.lerp(m, h, 1 - beta1).sign_()
        m.lerp_(h, 1 - beta2)
        return step

    def update_number(self, h: float, state: dict[str, float]) -> float:
        beta1, beta2 = self.betas
        m = state["exp_avg"]
        ahead = beta1 * m + (1 - beta1) * h
        state["exp_avg"] = m + (1 - beta2) * (h - m)
        return (ahead > 0) - (ahead < 0)


RATE_RULES: dict[str, type[Any]] = {"sgd": SGD, "sgdn": SGDN, "adam": Adam, "adagrad": AdaGrad, "lion": Lion}
"""The lops by the names that the option ``lop`` takes."""

OPTIONS = {f"lop_{own.name}": own for rule in RATE_RULES.values() for own in fields(rule)}
"""The optimizers' options that set fields of lops, and for each option such a field."""

# Read here once: torch.compile cannot trace fields().
_FIELDS = {lop: tuple(own.name for own in fields(rule)) for lop, rule in RATE_RULES.items()}


def from_options(lop: str | None, options: Mapping[str, Any]) -> Rate | None:
    """Make the lop of an optimizer.

    Args:
        lop: A name in ``RATE_RULES``. ``None`` for a fixed α.
        options: The optimizer's options by name. The lop's default replaces one that is missing or ``None``.

    Returns:
        The lop, or ``None`` for a fixed α.

    Raises:
        KeyError: ``lop`` is not in ``RATE_RULES``.
    """
    if lop is None:
        return None
    rule = RATE_RULES[lop]
    given = {name: options.get(f"lop_{name}") for name in _FIELDS[lop]}
    made: Rate = rule(**{name: value for name, value in given.items() if value is not None})
    return made


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of all lops, whichever the optimizer uses.

    Args:
        options: The optimizer's options by name. One that is missing or ``None`` passes.

    Raises:
        ValueError: An option has a value that its lop does not allow.
    """
    for name, own in OPTIONS.items():
        value = options.get(name)
        if value is not None and not own.metadata["is_allowed"](value):
            raise ValueError(f"{name} must be {own.metadata['allowed']}, got {value!r}")


def correction(beta: float, step: Tensor) -> Tensor:
    """Return Adam's bias correction 1 − β^t.

    In float32, 1 − 0.999**t loses four of its seven digits at t = 1; expm1 keeps them.

    Args:
        beta: β, at least 0 and below 1.
        step: The step count t, of any shape.
    """
    return torch.expm1(step * (math.log(beta) if beta else -math.inf)).neg_()
