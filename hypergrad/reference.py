"""The optimizers once more, in the report's notation: slow, float64, plain loops. The tests' oracle.

Shares nothing with the fast modules, so that an error would have to be made twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Reference:
    """One parameter group under ``op-lop``; several groups are several of these.

    Args:
        name: ``"adam-adam"``, ``"sgd"``, …
        theta: the initial parameters θ_0, copied to float64.
        alpha: α_0.
        beta: β, the learning rate of α.
        weight_decay: coupled.
        granularity: ``"group"``, ``"tensor"`` or ``"released"``.
        nesterov: ``False`` makes op ``sgdn`` a heavy ball, u = v.
        mu: μ of op ``sgdn``.
        betas: β₁ and β₂ of op ``adam``.
        eps: ε of op ``adam``.
        lop_mu: μ of lop ``sgdn``.
        lop_betas: β₁ and β₂ of lop ``adam``.
        lop_eps: ε of lop ``adam``.
    """

    def __init__(
        self,
        name: str,
        theta: Sequence[Tensor],
        alpha: float,
        beta: float = 0.0,
        *,
        weight_decay: float = 0.0,
        granularity: str = "group",
        nesterov: bool = True,
        mu: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        lop_mu: float = 0.9,
        lop_betas: tuple[float, float] = (0.9, 0.999),
        lop_eps: float = 1e-8,
    ) -> None:
        op, _, lop = name.partition("-")
        self.op: dict[str, Any] = {"rule": op, "mu": mu, "betas": betas, "eps": eps, "nesterov": nesterov}
        self.lop: dict[str, Any] = {
            "rule": lop,
            "mu": lop_mu,
            "betas": lop_betas,
            "eps": lop_eps,
            "nesterov": True,
        }
        self.theta = [t.detach().to(torch.float64, copy=True) for t in theta]
        self.u = [torch.zeros_like(t) for t in self.theta]
        self.op_memory: list[dict[str, Any]] = [{} for _ in theta]
        self.lop_memory: list[dict[str, Any]] = [{} for _ in theta]  # "group" uses the first only
        self.alpha = [
            torch.tensor(alpha, dtype=torch.float64) for _ in theta
        ]  # "group", "released": all equal
        self.h = [torch.zeros((), dtype=torch.float64) for _ in theta]
        self.beta, self.weight_decay, self.granularity = beta, weight_decay, granularity

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One step; a parameter whose gradient is ``None`` and all that belongs to it alone stays."""
        g = {
            i: x.double() + self.weight_decay * self.theta[i]
            for i, x in enumerate(gradients)
            if x is not None
        }
        if not g:
            return
        everyone = range(len(self.theta))
        self.h = [
            -(g[i] * self.u[i]).sum() if i in g else torch.zeros((), dtype=torch.float64) for i in everyone
        ]
        if self.lop["rule"] and self.granularity == "group":
            alpha = self.alpha[0] - self.beta * move(self.lop, torch.stack(self.h).sum(), self.lop_memory[0])
            self.alpha = [alpha for _ in everyone]
        for i in g:
            if self.lop["rule"] and self.granularity != "group":
                alpha = self.alpha[i] - self.beta * move(self.lop, self.h[i], self.lop_memory[i])
                for j in everyone if self.granularity == "released" else [i]:
                    self.alpha[j] = alpha
            self.u[i] = move(self.op, g[i], self.op_memory[i])
            self.theta[i] = self.theta[i] - self.alpha[i] * self.u[i]


def move(kind: dict[str, Any], g: Tensor, memory: dict[str, Any]) -> Any:
    """Return what ``kind`` moves along at gradient ``g``: an op of θ, and a lop of α where g is h."""
    if kind["rule"] == "sgd":
        return g
    if kind["rule"] == "sgdn":
        memory["v"] = v = kind["mu"] * memory.get("v", 0.0) + g
        return g + kind["mu"] * v if kind["nesterov"] else v
    if kind["rule"] == "adam":
        beta1, beta2 = kind["betas"]
        memory["t"] = t = memory.get("t", 0) + 1
        memory["m"] = m = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
        memory["v"] = v = beta2 * memory.get("v", 0.0) + (1 - beta2) * g**2
        return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + kind["eps"])
    raise ValueError(f"no rule {kind['rule']!r}: sgd, sgdn, adam")
