# ruff: noqa: D102  (the methods are documented once, in Rate)
"""How the learning rate is learned: the rate rules (lop), elementwise on the hypergradients h of any shape.

A rule turns h_t into what α moves along, α ← α − β·update(h_t). That never depends on α itself, so one call
serves one α per group, per tensor or per member, and a sequence of moves is a cumulative sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

RateState = dict[str, Tensor]


class Rate(Protocol):
    """A lop."""

    def init(self, h: Tensor) -> RateState:
        """Return the state before the first step, for hypergradients like ``h``."""

    def update(self, h: Tensor, state: RateState) -> Tensor:
        """Move ``state`` by h_t in place and return what α moves along, shaped like ``h``."""


@dataclass(frozen=True, slots=True)
class SGD:
    """α ← α − βh: hypergradient descent, HD (Baydin et al. 2018)."""

    def init(self, h: Tensor) -> RateState:
        return {}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        return h


@dataclass(frozen=True, slots=True)
class SGDN:
    """v ← μv + h; α ← α − β(h + μv) (Mittal 2019, Algorithm 1)."""

    momentum: float = 0.9

    def init(self, h: Tensor) -> RateState:
        return {"momentum_buffer": torch.zeros_like(h)}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        buffer = state["momentum_buffer"].mul_(self.momentum).add_(h)
        return torch.add(h, buffer, alpha=self.momentum)


@dataclass(frozen=True, slots=True)
class Adam:
    """m ← β₁m + (1−β₁)h; v ← β₂v + (1−β₂)h²; α ← α − β m̂/(√v̂ + ε) (Mittal 2019, Algorithm 2).

    t counts from the first step, h_1 = 0 included, so ``eps`` must be positive.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def init(self, h: Tensor) -> RateState:
        return {name: torch.zeros_like(h) for name in ("step", "exp_avg", "exp_avg_sq")}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        beta1, beta2 = self.betas
        step = state["step"].add_(1)
        m = state["exp_avg"].lerp_(h, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(h, h, value=1 - beta2)
        denominator = v.div(correction(beta2, step)).sqrt_().add_(self.eps)
        return m.div(correction(beta1, step)).div_(denominator)


@dataclass(frozen=True, slots=True)
class AdaGrad:
    """v ← v + h²; α ← α − β h/(√v + ε): AdaGrad (Duchi et al. 2011) on α.

    Each move is at most β, and moves get smaller as h² adds up. h_1 = 0, so ``eps`` must be positive.
    """

    eps: float = 1e-8

    def init(self, h: Tensor) -> RateState:
        return {"sum": torch.zeros_like(h)}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        v = state["sum"].addcmul_(h, h)
        return h / v.sqrt().add_(self.eps)


@dataclass(frozen=True, slots=True)
class Lion:
    """α ← α − β sign(β₁m + (1−β₁)h), then m ← β₂m + (1−β₂)h: Lion (Chen et al. 2023) on α.

    Every move is β, 0 or −β. With ``betas=(0, 0)`` it is sign descent (Bernstein et al. 2018), sign(h).
    """

    betas: tuple[float, float] = (0.9, 0.99)

    def init(self, h: Tensor) -> RateState:
        return {"exp_avg": torch.zeros_like(h)}

    def update(self, h: Tensor, state: RateState) -> Tensor:
        beta1, beta2 = self.betas
        m = state["exp_avg"]
        move = torch.lerp(m, h, 1 - beta1).sign_()
        m.lerp_(h, 1 - beta2)
        return move


def correction(beta: float, step: Tensor) -> Tensor:
    """1 − β^t. In float32, 1 − 0.999**t loses four of its seven digits at t = 1; expm1 keeps them."""
    return torch.expm1(step * (math.log(beta) if beta else -math.inf)).neg_()
